"""A namespace's serving state, read once a query.

Kept for a second, so that a query costs no extra read, and for as long as the registry is away, so that reads go on.
An old epoch's collections outlive this by far (`cut_over`), so a kept snapshot never names a dropped one.
"""

from __future__ import annotations

import asyncio
from functools import partial

from ragline.breaker import Breaker
from ragline.clock import Clock
from ragline.errors import EngineError
from ragline.registry.namespaces import Namespaces
from ragline.singleflight import SingleFlight
from ragline.types import Namespace

KEEP_S = 1.0
"""How old a snapshot may be while the registry answers, in seconds."""

READ_S = 1.0
"""Longest wait for a newer one, where there is one."""


class Snapshots:
    """`registry`: while it is left out, what is kept serves without another try."""

    def __init__(self, namespaces: Namespaces, clock: Clock, registry: Breaker) -> None:
        self._registry = registry
        self._namespaces = namespaces
        self._clock = clock
        self._kept: dict[str, tuple[float, Namespace]] = {}
        self._forgotten = 0
        self._reading: SingleFlight[Namespace] = SingleFlight()

    async def get(self, name: str) -> Namespace:
        """Raises NotFound, and EngineError when the registry is away and the namespace was never read."""
        read_at, namespace = self._kept.get(name, (0.0, None))
        if namespace is not None and (self._clock.monotonic() - read_at < KEEP_S or self._registry.is_open):
            return namespace
        # One read for all who find it too old: under load that is everybody at once.
        return await self._reading.run((name, self._forgotten), partial(self._read, name, namespace))

    async def _read(self, name: str, kept: Namespace | None) -> Namespace:
        forgotten = self._forgotten
        try:
            async with asyncio.timeout(None if kept is None else READ_S):
                fresh = await self._namespaces.get(name)
        except (EngineError, TimeoutError):
            if kept is None:
                raise
            if forgotten == self._forgotten:  # a silent registry is asked again in a while, not by every query
                self._kept[name] = (self._clock.monotonic(), kept)
            return kept
        except Exception:
            self._kept.pop(name, None)
            raise
        if forgotten == self._forgotten:  # else it may have been read before the change
            self._kept[name] = (self._clock.monotonic(), fresh)
        return fresh

    def forget(self, name: str) -> None:
        """Read it anew next time: this process has just changed it."""
        self._forgotten += 1
        self._kept.pop(name, None)
