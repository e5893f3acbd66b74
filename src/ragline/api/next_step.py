"""What happens next to a document, and when: the last line of its story."""

from __future__ import annotations

from dataclasses import dataclass

from ragline.ingest import InWork
from ragline.registry.rows import AWAY, INTERRUPTED, LOGGED
from ragline.registry.upkeep import Standing
from ragline.system import System
from ragline.types import Document, State


@dataclass(frozen=True, slots=True)
class NextStep:
    """`at`: when, at the latest, in seconds since 1970; None: at once, in its turn, or never."""

    words: str
    at: float | None = None


async def next_step(system: System, document: Document) -> NextStep:
    row = (await system.upkeep.rows([document.id])).get(document.id)
    if row is None:
        return NextStep("Nothing: it was deleted, and is forgotten.")
    now, one = system.clock.now(), row.document
    if not row.due:
        return _at_rest(one)
    work = system.ingest.in_work.get(one.id)
    if work is not None and work.attempt == one.attempt:
        return _at_work(system, work)
    attempt = f"attempt {one.attempt + 1}"
    event = await _put_off(system, row) if row.lease_until > now else None
    if event == AWAY:
        words = f"It waits for an engine that was away; {attempt} begins then, and as many more as it takes."
        return NextStep(words, row.lease_until)
    if event == INTERRUPTED:
        return NextStep(f"It waits after an interruption; {attempt} begins then.", row.lease_until)
    if event == LOGGED:
        words = "Its chunks are on the chunk log, on their way to the stores. They are appended again then, if it is not live."
        return NextStep(words, row.lease_until)
    if row.lease_until > now:
        words = "A worker of another process holds it. If that one ends, another takes it then."
        return NextStep(words, row.lease_until)
    ahead = await system.upkeep.ahead_of(one)
    line = "it is next" if not ahead else f"{ahead} changes that came earlier go first"
    return NextStep(f"It waits for a worker: {line}; {attempt}.")


def _at_rest(document: Document) -> NextStep:
    if document.state is State.FAILED:
        retry = f"mend the cause, then upload it again or `ragline documents retry {document.id}`."
        return NextStep(f"Nothing by itself: {retry}")
    if document.state is State.DELETED:
        return NextStep("Nothing: it is deleted, and its chunks and blobs are gone.")
    return NextStep("Nothing: what was accepted last is served.")


def _at_work(system: System, work: InWork) -> NextStep:
    setting, limit_s = system.audit.limits.of_stage(work.stage)
    left_s = limit_s - (system.clock.monotonic() - work.moved_at)
    far = "" if work.total is None else f", {work.done} of {work.total} chunks"
    words = f"A worker is at it: {work.stage}{far}. Without a further step it is begun again then ({setting})."
    return NextStep(words, system.clock.now() + max(0.0, left_s))


async def _put_off(system: System, row: Standing) -> str | None:
    """How the document's newest attempt ended, if it did."""
    story = await system.documents.history(row.document.id)
    return story[-1].event if story and story[-1].attempt == row.document.attempt else None
