"""The loop that does what is due on documents; `housekeeper` does the rest.

It never dies of one piece of work: a document fails or is tried again with its reason.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from ragline import metrics, tracing
from ragline.clock import Clock
from ragline.connections.database import Database
from ragline.errors import (
    DocumentRejected,
    EngineDenied,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    RaglineError,
    Reason,
)
from ragline.findings import Limits
from ragline.ingest import Ingest, trace_name
from ragline.registry.claims import Claims
from ragline.registry.rows import AWAY, INTERRUPTED
from ragline.settings import IngestSettings
from ragline.types import Document, State

log = structlog.get_logger()

IDLE_S = 1.0
"""How long an idle loop waits before it looks for what another process has left; our own commits wake it at once."""

MOST_BACKOFF_S = 60.0
LAST_DOUBLING = 6
"""The attempt after which a wait is the longest; after a day of outage two to the attempt is no number any more."""

WATCH_S = 10.0
"""Between two looks for what makes no step; deadlines are far longer."""

ALONE_AFTER = 3
"""Processes that ended while they were at a document, after which it is processed with nothing else beside it: what it does
to the process then is its own doing."""

BLAMED_AFTER = 5
"""The same, after which it has failed: twice alone."""


class IngestWorker:
    """Claims due documents and processes them, `concurrency` at once."""

    def __init__(
        self, *, ingest: Ingest, claims: Claims, database: Database, clock: Clock, limits: Limits,
        settings: IngestSettings, tracer: tracing.Tracer | None = None,
    ) -> None:  # fmt: skip
        self._ingest = ingest
        self._claims = claims
        self._database = database
        self._clock = clock
        self._limits = limits
        self._tracer = tracer
        self._settings = settings
        self._unsaid: deque[Callable[[], Awaitable[None]]] = deque()
        self._stalled: dict[asyncio.Task[None], str] = {}
        self._working: dict[asyncio.Task[None], Document] = {}
        self._suspect: asyncio.Task[None] | None = None
        self._claiming: asyncio.Future[list[Document]] | None = None
        self._came_through = 0
        """Attempts that ended well: the engines answer."""

    async def run(self) -> None:
        """Until cancelled. What is in work then is given back, and done again by the next worker."""
        beside = [asyncio.create_task(self._renew()), asyncio.create_task(self._watch())]
        try:
            while True:
                try:
                    await self._round()
                except RaglineError as error:
                    log.warning("no documents claimed", error=str(error))
                    await asyncio.sleep(IDLE_S)
                except Exception:  # a defect must be seen, and must not end the loop
                    log.exception("defect while claiming")
                    await asyncio.sleep(IDLE_S)
        finally:
            for task in beside:
                task.cancel()
            await self._give_back()

    async def _round(self) -> None:
        seen = self._database.commits
        await self._say_again()
        free = 0 if self._suspect else self._settings.concurrency - len(self._working)
        claimed: list[Document] = []
        if free:  # shielded: a claim that is committed must be known of, so that it can be given back
            self._claiming = asyncio.ensure_future(self._claims.claim(most=free, lease_s=self._settings.lease_s))
            claimed = await asyncio.shield(self._claiming)
            self._claiming = None
        for document in claimed:
            task = asyncio.create_task(self._begin(document))
            self._working[task] = document
            task.add_done_callback(self._ended)
        if not free:
            await asyncio.wait(self._working, return_when=asyncio.FIRST_COMPLETED)
        elif not claimed:
            await self._database.next_commit(since=seen, within_s=IDLE_S)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._working.pop(task, None)
        self._stalled.pop(task, None)
        if self._suspect is task:
            self._suspect = None

    async def _begin(self, document: Document) -> None:
        """One that may be what kills the process is done alone; another like it waits unclaimed meanwhile: were it held, the
        next kill would be counted against it."""
        deaths = await self._deaths(document) if document.attempt > ALONE_AFTER else 0
        if deaths < ALONE_AFTER:
            return await self._one(document)
        if self._suspect is not None:
            return await self._say(partial(self._claims.release, document, after_s=0.0))
        self._suspect = asyncio.current_task()
        return await self._alone(document, deaths)

    async def _deaths(self, document: Document) -> int:
        try:
            return await self._claims.deaths(document)
        except EngineError:
            return 0

    async def _alone(self, document: Document, deaths: int) -> None:
        """After all others, while nothing new is claimed: a document that kills the process costs the others some restarts,
        and then only itself; one that was merely beside it is done now."""
        while others := [task for task in self._working if task is not self._suspect]:
            await asyncio.wait(others)
        if deaths >= BLAMED_AFTER and _unsettled(document):
            step = f"Look at the log of those ends; then `ragline documents retry {document.id}`."
            words = f"{deaths} times the process that was at it ended, the last ones with nothing else in work. {step}"
            return await self._fail(document, Reason.CRASHED, words, time.perf_counter())
        return await self._one(document)

    async def _give_back(self) -> None:
        """Stop what is in work; the next worker begins it anew at once."""
        working = dict(self._working)
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        claimed = await asyncio.gather(self._claiming, return_exceptions=True) if self._claiming else []
        documents = [*working.values(), *(one for found in claimed if isinstance(found, list) for one in found)]
        releases = (self._claims.release(document, after_s=0.0) for document in documents)
        for result in await asyncio.gather(*releases, return_exceptions=True):
            if isinstance(result, BaseException):
                log.warning("claim not given back, its lease will end", error=str(result))

    async def _one(self, document: Document) -> None:
        with tracing.begun(self._tracer, "document", of=trace_name(document)) as span:
            span.note({
                "ragline.namespace": document.namespace, "ragline.document": document.id,
                "ragline.revision": document.revision, "ragline.attempt": document.attempt,
            })  # fmt: skip
            await self._attempt(document)

    async def _attempt(self, document: Document) -> None:
        start = time.perf_counter()
        if document.attempt > 1:
            metrics.redriven_total.inc()
        me, before = asyncio.current_task(), self._came_through
        try:
            await self._ingest.process(document)
            self._came_through += 1
        except asyncio.CancelledError:
            if me is None or me not in self._stalled:
                raise
            await self._again(document, self._stalled.pop(me), start, retryable=True)
        except DocumentRejected as error:
            await self._fail(document, error.reason, f"{error.message} {error.next_step}", start)
        except (EngineUnavailable, EngineDenied) as error:
            await self._put_off(document, str(error), start, event=AWAY)
        except EngineTimeout as error:
            if self._came_through == before:  # nobody got an answer meanwhile: it is the engine, not this document
                await self._put_off(document, str(error), start, event=AWAY)
            else:
                await self._again(document, str(error), start, retryable=True)
        except RaglineError as error:
            await self._again(document, str(error), start, retryable=error.retryable)
        except Exception as error:  # a defect must cost its own document only, and must be seen
            log.exception("defect while processing", document=document.id)
            await self._again(document, f"{type(error).__name__}: {error}", start, retryable=True)

    async def _again(self, document: Document, why: str, start: float, *, retryable: bool) -> None:
        if _unsettled(document) and (not retryable or await self._used_up(document)):
            step = f"Mend the cause, then `ragline documents retry {document.id}`."
            limit = f" ({self._settings.max_attempts} such attempts: ingest.max_attempts)" if retryable else ""
            return await self._fail(document, Reason.GAVE_UP, f"{why.rstrip('.')}{limit}. {step}", start)
        return await self._put_off(document, why, start, event=INTERRUPTED)

    async def _put_off(self, document: Document, why: str, start: float, *, event: str) -> None:
        """Another attempt begins later. For an engine that is away, however often: that is not the document's doing, and it is
        overdue in the audit when it lasts."""
        backoff_s = MOST_BACKOFF_S if document.attempt >= LAST_DOUBLING else 2.0**document.attempt
        log.warning("document put off", document=document.id, attempt=document.attempt, how=event, why=why)
        took_s, after_s = time.perf_counter() - start, backoff_s * random.uniform(0.5, 1.0)
        release = partial(self._claims.release, document, after_s=after_s, detail=why, took_s=took_s, event=event)
        await self._say(release)

    async def _used_up(self, document: Document) -> bool:
        """Whether this was the last attempt that may be interrupted. One that ended with its process, or for want of an
        engine, does not count: it was not the document's doing."""
        try:
            return await self._claims.interruptions(document) + 1 >= self._settings.max_attempts
        except EngineError:
            return False  # it is told as interrupted, once that can be written

    async def _fail(self, document: Document, reason: Reason, detail: str, start: float) -> None:
        took_s = time.perf_counter() - start

        async def fail() -> None:
            if await self._claims.mark_failed(document, reason, detail, took_s=took_s):
                metrics.documents_total.labels(
                    "failed"
                ).inc()  # else a newer change has won, and this is of no interest
                log.info("document failed", document=document.id, reason=str(reason))

        await self._say(fail)

    async def _say(self, word: Callable[[], Awaitable[None]]) -> None:
        """Write how an attempt ended; while the registry takes nothing (a full disk), keep it for the next round.

        Saying it late, or twice, changes nothing: it names the attempt, and another one is not touched.
        """
        try:
            await word()
        except EngineError as error:
            self._unsaid.append(word)
            log.warning("the end of an attempt is not written yet", waiting=len(self._unsaid), error=str(error))
        except Exception:  # a defect must be seen; the lease ends by itself
            log.exception("defect while writing the end of an attempt")

    async def _say_again(self) -> None:
        """Raises EngineError: the registry still takes nothing; what could not be said is kept."""
        while self._unsaid:
            word = self._unsaid.popleft()
            try:
                await word()
            except EngineError:
                self._unsaid.appendleft(word)
                raise
            except Exception:
                log.exception("defect while writing the end of an attempt")

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_s / 3)
            for document in list(self._working.values()):
                try:
                    await self._claims.renew(document, lease_s=self._settings.lease_s)
                except Exception as error:  # noqa: BLE001 (as above)
                    log.warning("lease not renewed", document=document.id, error=str(error))

    async def _watch(self) -> None:
        """Nothing stays stuck: stop attempts that make no step, and end leases that a clock set back has made endless."""
        longest_s = max(self._ingest.longest_lease_s, MOST_BACKOFF_S) + WATCH_S
        while True:
            await asyncio.sleep(WATCH_S)
            self.stop_stalled()
            try:
                ended = await self._claims.end_leases_beyond(longest_s)
            except Exception as error:  # noqa: BLE001 (told; looked for again soon)
                log.warning("leases not looked at", error=str(error))
                continue
            if ended:
                metrics.leases_ended_total.inc(ended)
                log.warning("leases ended that reached too far ahead: the clock went back", documents=ended)

    def stop_stalled(self) -> None:
        """End attempts without a step since the deadline of their stage; each counts as one, and is begun again."""
        for task, document in list(self._working.items()):
            work = self._ingest.in_work.get(document.id)
            if work is None or work.attempt != document.attempt or task in self._stalled:
                continue
            setting, limit_s = self._limits.of_stage(work.stage)
            if self._clock.monotonic() - work.moved_at > limit_s:
                far = "" if work.total is None else f" ({work.done} of {work.total} chunks)"
                self._stalled[task] = f"No step for {limit_s:.0f} s while {work.stage}{far}: {setting}."
                metrics.stalled_total.labels(work.stage).inc()
                task.cancel()


def _unsettled(document: Document) -> bool:
    """Whether it can end `failed`: what is only swept cannot."""
    return document.settled < document.revision and document.state is not State.DELETED
