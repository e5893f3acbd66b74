"""One search of a query, kept from hurting the others: a deadline, a bound on how many run at once, and a breaker.

A leg that fails, is late or is left out raises `EngineError`; the query path goes on without it and says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from ragline import metrics
from ragline.breaker import RUNNING, Breaker, Probe, Standing
from ragline.clock import Clock
from ragline.errors import EngineError
from ragline.types import Hit, LegName


class Leg:
    """`cap_ms`: the longest deadline, and the one until enough searches were seen; `floor_ms`: the shortest. It covers waiting
    for a place as well, so that a stalled engine holds no request beyond it."""

    def __init__(
        self, name: LegName, *, cap_ms: int, floor_ms: int, concurrency: int, clock: Clock, after: int = RUNNING
    ) -> None:
        self.name = name
        self.breaker = Breaker(name, clock, called=f"The {name} leg", after=after)
        self._cap_s, self._floor_s = cap_ms / 1000, floor_ms / 1000
        self._places = asyncio.Semaphore(concurrency)
        self._step = f"Look at the engine's load, or raise query.{name}_deadline_ms."

    @property
    def deadline_s(self) -> float:
        return self.breaker.deadline_s(cap_s=self._cap_s, floor_s=self._floor_s)

    async def run(self, search: Callable[[], Awaitable[list[Hit]]]) -> list[Hit]:
        """Raises EngineError: the engine's own; EngineTimeout; EngineUnavailable: it is left out."""
        if self.breaker.is_open:
            raise self._counted("left out", self.breaker.left_out())
        deadline_s, asked = self.deadline_s, time.perf_counter()
        try:
            async with asyncio.timeout(deadline_s):
                await self._places.acquire()
        except TimeoutError:  # too many searches wait: that says nothing of the engine
            raise self._counted("no place", self.breaker.late(deadline_s, self._step)) from None
        try:
            left_s = deadline_s - (time.perf_counter() - asked)
            return await self.breaker.call(search, within_s=left_s, next_step=self._step, probe=self._probe(search))
        except EngineError as error:
            self._counted(type(error).__name__, error)
            raise
        finally:
            self._places.release()

    def was_late(self, search: Callable[[], Awaitable[list[Hit]]], waited_s: float) -> None:
        """The query did not wait for its deadline: another leg was in."""
        late = self.breaker.late(waited_s, self._step)
        self.breaker.failed(self._counted("late", late), self._probe(search), waited_s=waited_s)

    def standing(self) -> Standing:
        return self.breaker.standing(self.deadline_s)

    def _probe(self, search: Callable[[], Awaitable[list[Hit]]]) -> Probe:
        """The search once more, for nobody: within the longest time that a query would wait."""

        async def probe() -> None:
            async with asyncio.timeout(self._cap_s):
                await search()

        return probe

    def _counted(self, how: str, error: EngineError) -> EngineError:
        metrics.retrieval_errors_total.labels(self.name, how).inc()
        return error
