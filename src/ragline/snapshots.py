"""A namespace's serving state, read once a query.

Kept for a second, so that a query costs no extra read, and for as long as the registry is away, so that reads go on.
An old epoch's collections outlive this by far (`cut_over`), so a kept snapshot never names a dropped one.
"""

from __future__ import annotations

import asyncio
import contextvars
from functools import partial

import structlog

from ragline.breaker import Breaker
from ragline.clock import Clock
from ragline.errors import EngineError
from ragline.registry.namespaces import Namespaces
from ragline.singleflight import SingleFlight
from ragline.types import Namespace

log = structlog.get_logger()

KEEP_S = 1.0
"""How old a snapshot may be while the registry answers, in seconds."""

READ_S = 0.25
"""Longest wait for a newer one, where there is one; a hundred times what it takes."""


class Snapshots:
    """`registry`: while it is left out, what is kept serves without another try. After a read that came to nothing the next are
    beside the queries, until one comes through: a silent registry costs those of one moment their wait, not everybody's."""

    def __init__(self, namespaces: Namespaces, clock: Clock, registry: Breaker) -> None:
        self._registry = registry
        self._namespaces = namespaces
        self._clock = clock
        self._kept: dict[str, tuple[float, Namespace]] = {}
        self._forgotten = 0
        self._reading: SingleFlight[Namespace] = SingleFlight()
        self._silent: set[str] = set()
        self._beside: dict[str, asyncio.Task[Namespace]] = {}

    async def get(self, name: str) -> Namespace:
        """Raises NotFound, and EngineError when the registry is away and the namespace was never read."""
        read_at, namespace = self._kept.get(name, (0.0, None))
        age_s = self._clock.monotonic() - read_at
        if namespace is not None and (age_s < KEEP_S or self._registry.is_open):
            return namespace
        if namespace is not None and name in self._silent and age_s < KEEP_S + READ_S:
            self._look(name, namespace)
            return namespace
        # One read for all who find it too old: under load that is everybody at once.
        return await self._reading.run((name, self._forgotten), partial(self._read, name, namespace))

    def _look(self, name: str, kept: Namespace) -> None:
        if name not in self._beside:
            reading = self._reading.run((name, self._forgotten), partial(self._read, name, kept))
            self._beside[name] = task = asyncio.create_task(reading, context=contextvars.Context())
            task.add_done_callback(lambda _: self._looked(name))

    def _looked(self, name: str) -> None:
        task = self._beside.pop(name)
        if not task.cancelled() and (error := task.exception()) is not None:  # nothing is kept: the next query meets it
            log.info("snapshot not read", namespace=name, error=str(error))

    async def _read(self, name: str, kept: Namespace | None) -> Namespace:
        forgotten = self._forgotten
        try:
            async with asyncio.timeout(None if kept is None else READ_S):
                fresh = await self._namespaces.get(name)
        except (EngineError, TimeoutError):
            if kept is None:
                raise
            self._silent.add(name)
            if forgotten == self._forgotten:  # a silent registry is asked again in a while, not by every query
                self._kept[name] = (self._clock.monotonic(), kept)
            return kept
        except Exception:
            self._kept.pop(name, None)
            raise
        self._silent.discard(name)
        if forgotten == self._forgotten:  # else it may have been read before the change
            self._kept[name] = (self._clock.monotonic(), fresh)
        return fresh

    def forget(self, name: str) -> None:
        """Read it anew next time: this process has just changed it."""
        self._forgotten += 1
        self._kept.pop(name, None)
