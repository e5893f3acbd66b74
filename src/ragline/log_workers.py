"""The loops that drive documents over the chunk log: embed (doc_chunks → doc_vectors), index (doc_vectors → stores).

They call the same stages as the loop without a log, and commit after the write, never before: a crash at any line costs a
second delivery. Whatever comes twice, late or out of order is looked at in the registry, and dropped when it is not the
content that is to go live.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

import numpy as np
import structlog

from ragline import metrics, tracing
from ragline.clock import Clock
from ragline.errors import EngineDenied, EngineTimeout, EngineUnavailable, RaglineError, Reason
from ragline.ingest import Ingest
from ragline.protocols import ChunkLog, ChunkReader
from ragline.registry.claims import Claims
from ragline.registry.documents import Documents
from ragline.types import Delivery, Topic

log = structlog.get_logger()

EMBED_BATCH, EMBED_AT_ONCE = 256, 2
"""Messages embedded together, of whatever documents, by length; and batches in work, so that the model has the next one
while the last is written to the log."""

INDEX_BATCH, INDEX_AT_ONCE = 512, 64
"""Messages taken at a time, and such takings in work: each waits for the documents that it has made whole, and their writes
are gathered."""

WITHIN_S, IDLE_S = 1.0, 1.0
"""How long a read waits for messages; how long the loop waits when the log itself does not answer."""

FIRST_BACKOFF_S, MOST_BACKOFF_S = 0.5, 30.0
DRAIN_S = 20.0
"""What is in work still gets when the worker is stopped. Kubernetes kills after 30 s."""

LOOK_AGAIN_S = 10.0
"""Between two looks for sets that wait in vain, because their document has changed."""

Take: TypeAlias = Callable[[ChunkReader, list[Delivery]], Awaitable[None]]
Key: TypeAlias = tuple[str, int, int]
"""Document, content, and into how many chunks it was cut: one that was parsed anew may have another number of them."""


class EmbedWorker:
    """Texts to vectors, over all documents together."""

    def __init__(
        self, *, ingest: Ingest, chunk_log: ChunkLog, dead_letters: DeadLetters, attempts: int,
        tracer: tracing.Tracer | None = None,
    ) -> None:  # fmt: skip
        self._ingest = ingest
        self._log = chunk_log
        self._dead_letters = dead_letters
        self._tracer = tracer
        self._tried = _Trying(attempts)

    async def run(self) -> None:
        """Until cancelled; then what is in work is finished."""
        await _consume(self._log, "doc_chunks", self._take, most=EMBED_BATCH, at_once=EMBED_AT_ONCE)

    async def _take(self, reader: ChunkReader, batch: list[Delivery]) -> None:
        """A batch that fails is taken document by document, so that only the bad one is buried."""
        failed = await self._tried(partial(self._embed, reader, batch)) if batch else None
        documents = {_content(one) for one in batch} if failed is not None else set()
        if failed is not None and len(documents) == 1:
            await self._dead_letters.bury(reader, batch, failed)
            return
        for document in sorted(documents):
            await self._take(reader, [one for one in batch if _content(one) == document])

    async def _embed(self, reader: ChunkReader, batch: list[Delivery]) -> None:
        wanted = await self._ingest.wanted({_content(one) for one in batch})
        due = sorted((one for one in batch if _content(one) in wanted), key=lambda one: len(one.message.text))
        if due:
            with _embedding(self._tracer, due) as places:
                vectors = await self._ingest.embed_texts([one.message.text for one in due])
            rows = np.ascontiguousarray(vectors, "<f4")
            space = self._ingest.space.id
            embedded = [
                (
                    one,
                    replace(
                        one.message,
                        space=space,
                        vector=row.tobytes(),
                        traceparent=places.get(one.message.traceparent, ""),
                    ),
                )
                for one, row in zip(due, rows, strict=True)
            ]
            embedded.sort(key=lambda pair: (pair[1].doc_id, pair[1].content, pair[1].ordinal))
            for bulk in sorted({by.bulk for by, _ in embedded}):
                await self._log.append("doc_vectors", [one for by, one in embedded if by.bulk == bulk], bulk=bulk)
        await reader.done(batch)
        metrics.log_messages_total.labels("doc_chunks", "embedded").inc(len(due))
        metrics.log_messages_total.labels("doc_chunks", "late").inc(len(batch) - len(due))


@dataclass(slots=True)
class _Set:
    """What has come of one content, until it is whole; under one hold, because of another one all of it comes again."""

    hold: int
    deliveries: list[Delivery] = field(default_factory=list)
    vectors: dict[int, bytes] = field(default_factory=dict)
    busy: bool = False


class IndexWorker:
    """Vectors to the stores, a document when all its chunks are in. Until then nothing behind its first one is committed.

    What waits for its rest is in memory. It is bounded by what the partitions of one worker hold of documents that were cut in
    two by a batch: their largest documents.
    """

    def __init__(
        self, *, ingest: Ingest, chunk_log: ChunkLog, dead_letters: DeadLetters, clock: Clock, attempts: int,
        tracer: tracing.Tracer | None = None,
    ) -> None:  # fmt: skip
        self._ingest = ingest
        self._log = chunk_log
        self._dead_letters = dead_letters
        self._clock = clock
        self._tracer = tracer
        self._sorting, self._finishing = _Trying(attempts), _Trying(attempts)
        self._sets: dict[Key, _Set] = {}
        self._looked = clock.monotonic()

    async def run(self) -> None:
        """Until cancelled; then what is in work is finished."""
        self._sets = {}  # what an earlier run has held was another reader's
        await _consume(self._log, "doc_vectors", self._take, most=INDEX_BATCH, at_once=INDEX_AT_ONCE)

    async def _take(self, reader: ChunkReader, batch: list[Delivery]) -> None:
        self._sets = {key: one for key, one in self._sets.items() if one.hold in reader.holds}
        while True:
            whole: list[Key] = []
            failed = await self._sorting(partial(self._sort_in, reader, batch, whole), patient=False)
            # What is whole goes on all the same: nobody would come back to it.
            await asyncio.gather(*(self._finish(reader, key) for key in whole))
            if failed is None or reader.holds.isdisjoint(one.hold for one in batch):
                break
            # The registry's doing, not the messages': they are not done, and held by nobody else. The lag shows it.
            log.error("messages not sorted in", messages=len(batch), why=str(failed))
            await asyncio.sleep(MOST_BACKOFF_S)
        if self._clock.monotonic() - self._looked > LOOK_AGAIN_S:
            self._looked = self._clock.monotonic()
            await _Trying(1)(partial(self._look_again, reader))

    async def _sort_in(self, reader: ChunkReader, batch: list[Delivery], whole: list[Key]) -> None:
        """Each to its set; `whole`: the sets that this has made complete."""
        wanted = await self._ingest.wanted({_content(one) for one in batch}) if batch else set()
        late: list[Delivery] = []
        unfit: dict[str, list[Delivery]] = {}
        for one in batch:
            if _content(one) not in wanted:
                late.append(one)
            elif words := self._unfit(one):
                unfit.setdefault(words, []).append(one)
            elif one.hold in reader.holds:
                self._add(one, whole)
        metrics.log_messages_total.labels("doc_vectors", "late").inc(len(late))
        await self._ingest.sweep_behind({_content(one) for one in late})
        await reader.done(late)
        for words, deliveries in unfit.items():
            await reader.bury(deliveries, words)

    def _add(self, one: Delivery, whole: list[Key]) -> None:
        key = (*_content(one), one.message.count)
        found = self._sets.get(key)
        if found is None or found.hold != one.hold:
            found = self._sets[key] = _Set(one.hold)
        found.deliveries.append(one)
        found.vectors[one.message.ordinal] = one.message.vector
        if len(found.vectors) == one.message.count and not found.busy:
            found.busy = True
            whole.append(key)

    def _unfit(self, one: Delivery) -> str:
        """Why its vector is none of ours; empty: it is. Its document is driven again when its deadline comes."""
        space, message = self._ingest.space, one.message
        if message.space != space.id:
            return f"Its vector is of the space {message.space[:100]}, this worker's is {space.id}."
        if len(message.vector) != 4 * space.dim:
            return f"Its vector has {len(message.vector) // 4} components, its space has {space.dim}."
        return ""

    async def _finish(self, reader: ChunkReader, key: Key) -> None:
        found, (id, number, count) = self._sets[key], key
        rows = np.frombuffer(b"".join(found.vectors[n] for n in range(count)), "<f4").astype(np.float32, copy=False)
        vectors = rows.reshape(count, -1)
        live, tries = False, 0

        async def finish() -> None:
            nonlocal live, tries
            tries += 1
            live = await self._ingest.finish(id, number, vectors)
            if not live and tries > 1:
                await self._ingest.sweep_behind([(id, number)])

        origin = next((one.message.traceparent for one in found.deliveries if one.message.traceparent), "")
        with tracing.begun(self._tracer if origin else None, "doc_vectors", traceparent=origin):
            failed = await self._finishing(finish)
        if self._sets.get(key) is found:
            del self._sets[key]
        if failed is not None:
            return await self._dead_letters.bury(reader, found.deliveries, failed)
        metrics.log_messages_total.labels("doc_vectors", "indexed" if live else "late").inc(len(found.deliveries))
        return await reader.done(found.deliveries)

    async def _look_again(self, reader: ChunkReader) -> None:
        """Let go of sets that wait for chunks that need not come any more."""
        waiting = {key: one for key, one in self._sets.items() if not one.busy}
        wanted = await self._ingest.wanted({key[:2] for key in waiting}) if waiting else set()
        for key, one in waiting.items():
            if key[:2] not in wanted and self._sets.get(key) is one and not one.busy:
                del self._sets[key]
                await reader.done(one.deliveries)


@contextmanager
def _embedding(tracer: tracing.Tracer | None, due: Sequence[Delivery]) -> Iterator[dict[str, str]]:
    """The block embeds for several documents: a span in the trace of each that is recorded. Yields the traceparent that came →
    the one that goes on; the first of them is told to a model server."""
    came = dict.fromkeys(one.message.traceparent for one in due if one.message.traceparent) if tracer else {}
    parents = {name: parent for name in came if (parent := tracing.parent_of(name))}
    spans = {name: tracer.begin("embed", "consumer", parent=parent) for name, parent in parents.items() if tracer}
    failed: BaseException | None = None
    recorded = next((span for span in spans.values() if span.recorded), None)
    try:
        with tracing.under(recorded):
            yield {name: tracing.traceparent_of(span) for name, span in spans.items()}
    except BaseException as error:
        failed = error
        raise
    finally:
        for span in spans.values():
            span.note({"ragline.messages": len(due), "ragline.documents": len(parents)})
            span.end(failed)


class DeadLetters:
    """What becomes of a document that a stage cannot process: its messages to the dead letters, its row to `failed`."""

    def __init__(self, *, documents: Documents, claims: Claims) -> None:
        self._documents = documents
        self._claims = claims

    async def bury(self, reader: ChunkReader, deliveries: Sequence[Delivery], why: Exception) -> None:
        """The letters first: killed in between, the document is driven again, and comes here again."""
        words = str(why) if isinstance(why, RaglineError) else f"{type(why).__name__}: {why}"
        log.warning("to the dead letters", messages=len(deliveries), why=words)
        await _Trying(1)(partial(reader.bury, deliveries, words))
        for id, number in {_content(one) for one in deliveries}:
            await _Trying(1)(partial(self._fail, id, number, words))

    async def _fail(self, id: str, number: int, words: str) -> None:
        now = await self._documents.look(id)
        if now is None or now.content != number or now.live == number:
            return
        step = f"Mend the cause, then `ragline documents retry {id}`."
        if await self._claims.mark_failed(now, Reason.GAVE_UP, f"{words.rstrip('.')}. {step}", took_s=0.0):
            metrics.documents_total.labels("failed").inc()


async def _consume(chunk_log: ChunkLog, topic: Topic, take: Take, *, most: int, at_once: int) -> None:
    """Read, and `take` what comes, `at_once` of them at a time; also when nothing comes. Cancelled: drain."""
    reader: ChunkReader | None = None
    working: set[asyncio.Task[None]] = set()
    try:
        while True:
            try:
                reader = reader or await chunk_log.reader(topic)
                deliveries = await reader.read(most=most, within_s=WITHIN_S)
            except RaglineError as error:
                log.warning("the chunk log is not read", topic=topic, error=str(error))
                await asyncio.sleep(IDLE_S)
                continue
            task = asyncio.create_task(_seen(take(reader, deliveries)))
            working.add(task)
            task.add_done_callback(working.discard)
            if len(working) >= at_once:
                await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if working:
            _, late = await asyncio.wait(working, timeout=DRAIN_S)
            await _cancelled(late)
        if reader is not None:
            await reader.aclose()


async def _seen(work: Awaitable[None]) -> None:
    """A defect must be seen, and must not end the loop: what it leaves is not done, and delivered again to another reader."""
    try:
        await work
    except Exception:
        log.exception("defect while working on the chunk log")


async def _cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    waited = list(tasks)
    for task in waited:
        task.cancel()
    await asyncio.gather(*waited, return_exceptions=True)


class _Trying:
    """Does work, of one kind: again and again while an engine is away, `attempts` times when it fails otherwise.

    One that gives no answer in time is away, unless others of the kind came through meanwhile: then it is this work's doing.
    """

    def __init__(self, attempts: int) -> None:
        self._attempts = attempts
        self._came_through = 0

    async def __call__(self, work: Callable[[], Awaitable[object]], *, patient: bool = True) -> Exception | None:
        """What `work` failed with, or None. Not `patient`: no answer counts as a failure in any case."""
        failures, wait_s = 0, FIRST_BACKOFF_S
        while True:
            before = self._came_through
            try:
                await work()
                self._came_through += 1
                return None
            except (EngineUnavailable, EngineDenied) as error:
                why: Exception = error
            except EngineTimeout as error:
                why, failures = error, failures + (self._came_through > before or not patient)
            except RaglineError as error:
                why, failures = error, failures + 1
                if not error.retryable:
                    return error
            except Exception as error:
                log.exception("defect while working on the chunk log")
                why, failures = error, failures + 1
            if failures >= self._attempts:
                return why
            log.warning("tried again", why=str(why), wait_s=wait_s)
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(MOST_BACKOFF_S, 2 * wait_s)


def _content(one: Delivery) -> tuple[str, int]:
    return one.message.doc_id, one.message.content
