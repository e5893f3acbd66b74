"""The loop that does what is due on everything but documents: epochs to fill, collections to drop, what is left to collect.

It never dies of one piece of work: what goes wrong is logged, and taken up at the next round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from ragline import metrics
from ragline.clock import Clock
from ragline.epochs import Epochs
from ragline.errors import RaglineError
from ragline.mending import Mending
from ragline.registry.namespaces import Namespaces
from ragline.registry.staleness import Staleness
from ragline.registry.upkeep import Upkeep
from ragline.settings import IngestSettings

log = structlog.get_logger()

HOUSEKEEPING_S = 30.0
"""Between two looks for retired collections, epochs to be filled and stale documents, at most."""

LOOKS, LOOK_S = 30, 5.0
"""For stale documents, in the time in which one becomes stale, and between two at least: each counts all of them."""


class Housekeeper:
    """Fills building epochs and drops retired collections; every `upkeep_s` collects, trims and purges."""

    def __init__(
        self, *, epochs: Epochs, namespaces: Namespaces, mending: Mending, upkeep: Upkeep, clock: Clock,
        settings: IngestSettings, staleness: Staleness,
    ) -> None:  # fmt: skip
        self._epochs = epochs
        self._namespaces = namespaces
        self._mending = mending
        self._upkeep = upkeep
        self._clock = clock
        self._settings = settings
        self._staleness = staleness
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look now: an epoch was begun, or a namespace deleted, in this process."""
        self._wake.set()

    @property
    def _every_s(self) -> float:
        return min(HOUSEKEEPING_S, self._settings.upkeep_s, max(LOOK_S, self._settings.stale_after_s / LOOKS))

    async def run(self) -> None:
        next_upkeep = self._clock.monotonic() + min(HOUSEKEEPING_S, self._settings.upkeep_s)  # a start is busy enough
        while True:
            await self._each(self._epochs.drop_retired)
            await self._each(self._fill_all)
            await self._each(self._tell_stale)
            if self._clock.monotonic() >= next_upkeep:
                for work in (self._collect, self._trim, self._purge):
                    await self._each(work)
                next_upkeep = self._clock.monotonic() + self._settings.upkeep_s
            try:
                async with asyncio.timeout(self._every_s):
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

    async def _tell_stale(self) -> None:
        """What the registry says, so every process with this duty says the same."""
        look = await self._staleness.look()
        metrics.served_documents.set(look.served)
        for why, count in look.stale.items():
            metrics.stale_documents.labels(why).set(count)
        metrics.stale_passage_ratio.set(sum(look.stale.values()) / look.served if look.served else 0.0)
        metrics.oldest_waiting_document_s.set(look.oldest_waiting_s)

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
