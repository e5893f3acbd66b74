"""Concurrent identical work is done once; a caller that leaves does not cancel the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

R = TypeVar("R")


class SingleFlight(Generic[R]):
    """Joins callers by key. The work is cancelled only when its last caller has left."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[R]] = {}

    async def run(self, key: Hashable, work: Callable[[], Awaitable[R]]) -> R:
        """The result, or the error, of the flight that is under way for `key`, or of a new one."""
        flight = self._flights.get(key)
        if flight is None or flight.task.done():  # done, and about to land
            flight = self._flights[key] = _Flight(asyncio.ensure_future(work()))
            flight.task.add_done_callback(lambda _: self._land(key, flight))
        flight.callers += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.callers -= 1
            if not flight.callers and not flight.task.done():
                self._land(key, flight)
                flight.task.cancel()

    def _land(self, key: Hashable, flight: _Flight[R]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


class _Flight(Generic[R]):
    def __init__(self, task: asyncio.Future[R]) -> None:
        self.task = task
        self.callers = 0
