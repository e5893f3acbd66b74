"""`ragline ingest`: find, upload, watch, and say what failed and why."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragline.cli.failures import Refused, SomeFailed, WrongUsage
from ragline.cli.options import InNamespace, json_object
from ragline.cli.records import read_records
from ragline.cli.session import Session, command
from ragline.cli.sources import STDIN, Item, Trouble, find, from_files, from_stdin

if TYPE_CHECKING:
    from ragline.cli.connection import Connection
    from ragline.cli.upload import Tally

MOST_SHOWN = 50
"""Failures listed at the end."""


@command(makes_folder=True, warm=False)
async def ingest(
    session: Session,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Folders, globs, files, or - for stdin.")],
    namespace: InNamespace = "default",
    records: Annotated[
        bool, typer.Option("--records", help="Each JSONL line is a document: _id, title, text.")
    ] = False,
    group: Annotated[list[str] | None, typer.Option("--group", help="Who may read; repeat. None: everyone.")] = None,
    metadata: Annotated[str | None, typer.Option("--metadata", help="JSON object, for every document.")] = None,
    uri: Annotated[str | None, typer.Option("--uri", help="Name of the document that comes by stdin.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Until all is indexed, or only accepted.")] = True,
) -> None:
    """Add documents: upload them, watch them being indexed, and list what failed and why.

    A document's uri is its path below the folder that was given. Ingesting it again replaces it; unchanged ones cost nothing.
    """
    from ragline.cli.upload import Tally

    start, tally = time.perf_counter(), Tally()
    sources = _sources(paths, records=records, uri=uri, metadata=json_object(metadata, "--metadata"), tally=tally)
    created = await _make_namespace(session.server, namespace)
    if created:
        session.screen.note(f"Namespace {namespace} is new: created.")
    failed = await _run(session, namespace, sources, group or [], tally, wait=wait)
    tally.troubles.extend(failed)
    now = await session.server.get("v1", "namespaces", namespace)
    _summary(session, now, tally, took_s=time.perf_counter() - start, created=created, wait=wait)
    if tally.troubles:
        raise SomeFailed


@dataclass(frozen=True, slots=True)
class _Sources:
    """`total`: how many, None while it is not known."""

    items: Iterator[Item]
    total: int | None


def _sources(paths: list[str], *, records: bool, uri: str | None, metadata: dict[str, Any], tally: Tally) -> _Sources:
    """Raises WrongUsage."""
    piped = STDIN in paths
    if piped and len(paths) > 1:
        raise WrongUsage("`-` stands beside other paths.", next_step="Ingest standard input by itself.")
    if piped and not records and not uri:
        raise WrongUsage("Standard input has no name.", next_step="Give it one with --uri, such as --uri notes.md.")
    if uri and (records or not piped):
        raise WrongUsage("--uri names what comes by stdin.", next_step="Leave it out, or give `-` as PATH.")
    if piped and not records:
        return _Sources(from_stdin(str(uri), metadata), 1)
    files = [] if piped else find(paths, troubles=tally.troubles, ending=".jsonl" if records else "")
    if not records:
        return _Sources(from_files(files, metadata), len(files))

    def lines() -> Iterator[Item]:
        taken: set[str] = set()
        trouble = tally.troubles.append
        if piped:
            yield from read_records(sys.stdin.buffer, "stdin", metadata, taken=taken, troubled=trouble)
        for file in files:
            try:
                with file.path.open("rb") as opened:
                    yield from read_records(opened, file.uri, metadata, taken=taken, troubled=trouble)
            except OSError as error:
                trouble(Trouble(file.uri, f"cannot be read: {error.strerror or error}"))

    return _Sources(lines(), None)


async def _make_namespace(server: Connection, name: str) -> bool:
    try:
        await server.get("v1", "namespaces", name)
    except Refused as refused:
        if refused.http_status != 404:
            raise
        await server.put("v1", "namespaces", name)
        return True
    return False


async def _run(
    session: Session, namespace: str, sources: _Sources, groups: list[str], tally: Tally, *, wait: bool
) -> list[Trouble]:  # fmt: skip
    """Upload, and watch until all is settled; returns what failed on the way to the index."""
    from ragline.cli.progress import LOOK_S, next_look, progress
    from ragline.cli.upload import Uploader
    from ragline.cli.watch import failures, look

    server, start, wait_s = session.server, time.perf_counter(), LOOK_S[0]
    before = await look(server, namespace, {})
    sending = asyncio.create_task(Uploader(server, namespace, groups, tally).send(sources.items))
    try:
        with progress(session.screen, "Indexing") as show:
            while True:
                sent = sending.done()
                if sent and (not wait or sending.exception()):
                    break
                standing = await look(server, namespace, tally.accepted)
                if sent and not standing.waiting:
                    break
                done = len(tally.accepted) - standing.waiting
                total = tally.found if sent else sources.total
                failed = max(0, standing.failed - before.failed) + len(tally.troubles)
                rate = done / (time.perf_counter() - start)
                show(
                    done,
                    total,
                    f"documents · {standing.chunks - before.chunks} chunks · {rate:.0f}/s · {failed} failed",
                )
                if sent:
                    await asyncio.sleep(wait_s)
                else:
                    await asyncio.wait([sending], timeout=wait_s)
                wait_s = next_look(wait_s)
        await sending
    finally:
        sending.cancel()
        await asyncio.wait([sending])
    return await failures(server, namespace, tally.accepted) if wait else []


def _summary(
    session: Session, now: dict[str, Any], tally: Tally, *, took_s: float, created: bool, wait: bool
) -> None:  # fmt: skip
    screen, failed = session.screen, tally.troubles
    lost = sum(trouble.id is not None for trouble in failed)
    done, of = len(tally.accepted) - lost, len(tally.accepted) - lost + len(failed)
    if screen.as_json:
        return screen.data(
            {
                "namespace": now["name"], "created": created, "indexed" if wait else "accepted": done,
                "unchanged": tally.unchanged, "failed": [asdict(trouble) for trouble in failed], "sequence": tally.sequence,
                "documents": now["documents"], "chunks": now.get("chunks"), "took_s": round(took_s, 3),
            }
        )  # fmt: skip
    verb = "Indexed" if wait else "Accepted"
    known = f", {tally.unchanged} of them unchanged," if tally.unchanged else ""
    screen.line(f"{verb} {done} of {of} document{'s' * (of != 1)}{known} in {took_s:.1f} s.")
    held = sum(count for state, count in now["documents"].items() if state != "deleted")
    screen.line(
        f"Namespace {now['name']} holds {held} documents, {now.get('chunks')} chunks; its sequence is {now['sequence']}."
    )
    if not wait and session.server.local:
        screen.note("They are indexed once `ragline up` runs, or by the next command that works on this folder.")
    if not failed:
        return None
    screen.line(f"{len(failed)} failed:")
    screen.table(("document", "why"), [(trouble.uri, trouble.reason) for trouble in failed[:MOST_SHOWN]])
    if len(failed) > MOST_SHOWN:
        screen.line(f"… and {len(failed) - MOST_SHOWN} more; --json lists them all.")
    if lost:
        screen.note(f"Their whole story: ragline documents why DOCUMENT --namespace {now['name']}")
    return None
