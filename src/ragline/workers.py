"""The loops that do what is due: documents, building epochs, retired collections.

A loop never dies of one piece of work: a document fails or is tried again with its reason, anything else is logged and
taken up at the next round.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from ragline import metrics
from ragline.clock import Clock
from ragline.epochs import Epochs
from ragline.errors import DocumentRejected, RaglineError, Reason
from ragline.ingest import Ingest
from ragline.mending import Mending
from ragline.registry.claims import Claims
from ragline.registry.database import Database
from ragline.registry.namespaces import Namespaces
from ragline.registry.upkeep import Upkeep
from ragline.settings import IngestSettings
from ragline.types import Document, State

log = structlog.get_logger()

IDLE_S = 1.0
"""How long an idle loop waits before it looks for what another process has left; our own commits wake it at once."""

HOUSEKEEPING_S = 30.0
"""Between two looks for retired collections and epochs to be filled."""

MOST_BACKOFF_S = 60.0


class IngestWorker:
    """Claims due documents and processes them, `concurrency` at once."""

    def __init__(self, *, ingest: Ingest, claims: Claims, database: Database, settings: IngestSettings) -> None:
        self._ingest = ingest
        self._claims = claims
        self._database = database
        self._settings = settings
        self._working: dict[asyncio.Task[None], Document] = {}
        self._claiming: asyncio.Future[list[Document]] | None = None

    async def run(self) -> None:
        """Until cancelled. What is in work then is given back, and done again by the next worker."""
        renewing = asyncio.create_task(self._renew())
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
            renewing.cancel()
            await self._give_back()

    async def _round(self) -> None:
        seen = self._database.commits
        free = self._settings.concurrency - len(self._working)
        claimed: list[Document] = []
        if free:  # shielded: a claim that is committed must be known of, so that it can be given back
            self._claiming = asyncio.ensure_future(self._claims.claim(most=free, lease_s=self._settings.lease_s))
            claimed = await asyncio.shield(self._claiming)
            self._claiming = None
        for document in claimed:
            task = asyncio.create_task(self._one(document))
            self._working[task] = document
            task.add_done_callback(lambda done: self._working.pop(done, None))
        if not free:
            await asyncio.wait(self._working, return_when=asyncio.FIRST_COMPLETED)
        elif not claimed:
            await self._database.next_commit(since=seen, within_s=IDLE_S)

    async def _give_back(self) -> None:
        """Stop what is in work; the next worker begins it anew at once."""
        working = dict(self._working)
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        claimed = await asyncio.gather(self._claiming, return_exceptions=True) if self._claiming else []
        documents = [*working.values(), *(one for found in claimed if isinstance(found, list) for one in found)]
        releases = (self._claims.release(document, after_s=0.0, detail="") for document in documents)
        for result in await asyncio.gather(*releases, return_exceptions=True):
            if isinstance(result, BaseException):
                log.warning("claim not given back, its lease will end", error=str(result))

    async def _one(self, document: Document) -> None:
        start = time.perf_counter()
        if document.attempt > 1:
            metrics.redriven_total.inc()
        try:
            await self._ingest.process(document)
        except DocumentRejected as error:
            await self._fail(document, error.reason, f"{error.message} {error.next_step}", start)
        except RaglineError as error:
            await self._again(document, str(error), start, retryable=error.retryable)
        except Exception as error:  # a defect must cost its own document only, and must be seen
            log.exception("defect while processing", document=document.id)
            await self._again(document, f"{type(error).__name__}: {error}", start, retryable=True)

    async def _again(self, document: Document, why: str, start: float, *, retryable: bool) -> None:
        unsettled = document.settled < document.revision and document.state is not State.DELETED
        if unsettled and (not retryable or document.attempt >= self._settings.max_attempts):
            step = f"Mend the cause, then `ragline documents retry {document.id}`."
            return await self._fail(document, Reason.GAVE_UP, f"{why} ({document.attempt} attempts). {step}", start)
        after_s = min(MOST_BACKOFF_S, 2.0**document.attempt) * random.uniform(0.5, 1.0)
        log.warning("document interrupted", document=document.id, attempt=document.attempt, why=why)
        try:
            await self._claims.release(document, after_s=after_s, detail=why)
        except Exception as error:  # noqa: BLE001 (told; the lease ends by itself)
            log.warning("claim not given back, its lease will end", document=document.id, error=str(error))
        return None

    async def _fail(self, document: Document, reason: Reason, detail: str, start: float) -> None:
        try:
            took_s = time.perf_counter() - start
            mine = await self._claims.mark_failed(document, reason, detail, took_s=took_s)
        except Exception as error:  # noqa: BLE001 (as above)
            log.warning("failure not written, the lease will end", document=document.id, error=str(error))
            return
        if mine:  # else a newer change has won, and what became of this one is of no interest
            metrics.documents_total.labels("failed").inc()
            log.info("document failed", document=document.id, reason=str(reason))

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_s / 3)
            for document in list(self._working.values()):
                try:
                    await self._claims.renew(document, lease_s=self._settings.lease_s)
                except Exception as error:  # noqa: BLE001 (as above)
                    log.warning("lease not renewed", document=document.id, error=str(error))


class Housekeeper:
    """Fills building epochs and drops retired collections; every `upkeep_s` collects, trims and purges."""

    def __init__(
        self, *, epochs: Epochs, namespaces: Namespaces, mending: Mending, upkeep: Upkeep, clock: Clock,
        settings: IngestSettings,
    ) -> None:  # fmt: skip
        self._epochs = epochs
        self._namespaces = namespaces
        self._mending = mending
        self._upkeep = upkeep
        self._clock = clock
        self._settings = settings
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look now: an epoch was begun, or a namespace deleted, in this process."""
        self._wake.set()

    async def run(self) -> None:
        next_upkeep = self._clock.monotonic() + min(HOUSEKEEPING_S, self._settings.upkeep_s)  # a start is busy enough
        while True:
            await self._each(self._epochs.drop_retired)
            await self._each(self._fill_all)
            if self._clock.monotonic() >= next_upkeep:
                for work in (self._collect, self._trim, self._purge):
                    await self._each(work)
                next_upkeep = self._clock.monotonic() + self._settings.upkeep_s
            try:
                async with asyncio.timeout(min(HOUSEKEEPING_S, self._settings.upkeep_s)):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def _fill_all(self) -> None:
        for namespace in await self._namespaces.all():
            if namespace.building:
                await self._each(partial(self._epochs.fill, namespace.name))

    async def _collect(self) -> None:
        if collected := await self._mending.collect():
            log.info("orphan blobs collected", folders_and_files=collected)

    async def _trim(self) -> None:
        await self._upkeep.trim_histories()

    async def _purge(self) -> None:
        purged = await self._upkeep.purge_tombstones(older_than_s=self._settings.tombstone_retention_s)
        metrics.tombstones_purged_total.inc(purged)

    async def _each(self, work: Callable[[], Awaitable[None]]) -> None:
        """One piece of housekeeping; what goes wrong with it is logged, and stops no other piece."""
        try:
            await work()
        except RaglineError as error:
            log.warning("housekeeping interrupted, taken up again", error=str(error))
        except Exception:
            log.exception("defect in housekeeping")
