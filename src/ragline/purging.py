"""The loop that brings purges from the outbox to the edge, and does not rest before it has acknowledged them.

Each is purged twice. The first purge drops what is stored. An answer that was looked for before the change may still be on
its way then, and be stored behind the purge; so `edge.purge_again_s` later, when no request can last any more, the same is
purged again. (Varnish refuses such an answer by itself; there the second purge finds nothing.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from ragline import metrics
from ragline.clock import Clock
from ragline.cold_tier import document_key, namespace_key
from ragline.connections.database import Database
from ragline.connections.model_server import Busy
from ragline.errors import EngineError
from ragline.protocols import Edge
from ragline.registry.edge_purges import EdgePurges
from ragline.settings import EdgeSettings
from ragline.types import Purge

log = structlog.get_logger()

MOST = 1_000
"""Rows in one round."""

LOOK_S = 0.5
"""Between two looks for rows that another process has written, and for second purges."""

SHORTEST_S = 0.02
"""Between two looks at all: under ingest there are many commits a second."""

FORGET_S = 60.0
"""Between two looks where there is no edge."""

FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 60.0

RETRY_AFTER_AT_MOST_S = 600.0

WARN_EVERY_S = 60.0


class PurgeWorker:
    """`edge` None: rows are forgotten once whatever could have been stored would be over by itself."""

    def __init__(
        self, *, purges: EdgePurges, edge: Edge | None, database: Database, clock: Clock, settings: EdgeSettings
    ) -> None:
        self._purges = purges
        self._edge = edge
        self._database = database
        self._clock = clock
        self._settings = settings
        self._warn_after = 0.0

    async def run(self) -> None:
        while True:
            seen = self._database.commits
            try:
                worked = await self.round()
            except EngineError as error:  # of the registry: it is taken up again
                log.warning("purging interrupted", error=str(error))
                worked = 0
            except Exception:
                log.exception("defect in purging")
                worked = 0
            await asyncio.sleep(SHORTEST_S if self._edge else FORGET_S)
            if not worked and self._edge:
                await self._database.next_commit(since=seen, within_s=LOOK_S)

    async def round(self) -> int:
        """Purge what is due; how many rows that were, done or not."""
        if self._edge is None:
            return await self._forget()
        longest = self._settings.purge_again_s + RETRY_AFTER_AT_MOST_S + self._lease_s
        claimed = await self._purges.claim(most=MOST, lease_s=self._lease_s, longest_s=longest)
        of_namespace: dict[str, list[Purge]] = {}
        for one in claimed:
            of_namespace.setdefault(one.namespace, []).append(one)
        for namespace, some in of_namespace.items():
            await self._purge(self._edge, namespace, some)
        if claimed:
            await self._tell()
        return len(claimed)

    @property
    def _lease_s(self) -> float:
        return 30.0 + 10 * self._settings.timeout_s

    async def _purge(self, edge: Edge, namespace: str, some: Sequence[Purge]) -> None:
        keys = [self._key(one) for one in some]
        if (whole := namespace_key(namespace)) in keys:
            keys = [whole]
        try:
            await edge.purge(keys, namespace=namespace, visible=max(one.visible for one in some))
        except EngineError as error:
            metrics.edge_purges_total.labels("failed").inc(len(some))
            await self._purges.put_off(some, after_s=self._backoff_s(error, max(one.attempt for one in some)))
            await self._complain(error)
            return
        for one in some:
            metrics.edge_purges_total.labels("again" if one.passes else "done").inc()
        await self._purges.acknowledged(some, again_s=self._settings.purge_again_s)

    def _key(self, purge: Purge) -> str:
        by_document = purge.document and not self._settings.purge_namespaces
        return document_key(purge.document) if by_document else namespace_key(purge.namespace)

    def _backoff_s(self, error: EngineError, attempt: int) -> float:
        told = error.retry_after_s if isinstance(error, Busy) else None
        own: float = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(attempt - 1, 16))
        return min(max(own, told or 0.0), RETRY_AFTER_AT_MOST_S)

    async def _tell(self) -> None:
        waiting = await self._purges.waiting()
        metrics.edge_purges_waiting.set(waiting.count)
        metrics.edge_purge_lag.set(waiting.oldest_s)

    async def _complain(self, error: EngineError) -> None:
        waiting = await self._purges.waiting()
        if waiting.oldest_s < self._settings.stuck_after_s or self._clock.monotonic() < self._warn_after:
            return
        self._warn_after = self._clock.monotonic() + WARN_EVERY_S
        log.error(
            "purges are stuck: the edge may serve what has changed", waiting=waiting.count,
            oldest_s=round(waiting.oldest_s), error=error.message, next_step=error.next_step,
        )  # fmt: skip

    async def _forget(self) -> int:
        return await self._purges.drop(older_than_s=2 * self._settings.s_maxage_s + self._settings.purge_again_s)
