"""The hot tier: a `Cache` that cannot hurt a query.

A query waits for it at most its deadline. One that fails or is late several times running is left out; from then on it costs
nothing, and a probe beside the queries looks whether it is back. What is written is written beside them too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from ragline import metrics
from ragline.breaker import RUNNING, Breaker
from ragline.clock import Clock
from ragline.errors import EngineError
from ragline.hot_entry import Unusable, dump_entry, load_entry
from ragline.protocols import Cache
from ragline.settings import CacheSettings

T = TypeVar("T")

TIER = "hot"
MOST_WRITING = 64
"""Entries on their way to the cache; what is found while it is that slow is not kept."""

SKEW_S = 5.0
"""How far ahead of this process's clock another's may have made an entry. Further, and one of them is wrong."""

PROBE = "0" * 32

LAST_RESORT_S = 0.5
"""How long the cache is waited for when it is all that is left: a late entry is better than none."""

Kind: TypeAlias = Literal["search", "answer"]
Outcome: TypeAlias = Literal[
    "hit", "miss", "expired", "behind", "stale", "unchecked", "unusable", "failed", "skipped"
]  # fmt: skip
"""What became of a look: served; not there; its time is over; older than `min_sequence` asks for; what it shows has changed;
the registry was away, so nobody could tell; no entry of ours; the cache failed or was late; it was left out."""


@dataclass(frozen=True, slots=True)
class Found:
    """`fresh`: it may be served; else it is kept only for while nothing else is left."""

    payload: bytes
    fresh: bool


class HotTier:
    def __init__(
        self, cache: Cache, settings: CacheSettings, clock: Clock, *, in_process: bool, after: int = RUNNING
    ) -> None:
        """`in_process`: it answers at once, and so needs no deadline."""
        self.cache = cache
        self._settings = settings
        self._clock = clock
        self._in_process = in_process
        self.breaker = Breaker("cache", clock, called="The cache", after=after)
        self._tasks: set[asyncio.Task[Any]] = set()
        self.counts: dict[tuple[Kind, Outcome], int] = {}
        """Of this process since its start."""

    @property
    def rests(self) -> bool:
        """Whether the cache is left out for now."""
        return self.breaker.is_open

    def now(self) -> float:
        return self._clock.now()

    async def get(self, kind: Kind, namespace: str, key: str, *, last: bool = False) -> Found | None:
        """None: whatever stands in the way; it is counted. `namespace`: its uid.

        last: there is nothing else: it is asked though it is left out, since it may only be slow, and waited for longer.
        """
        if self.rests and not last:
            self.count(kind, "skipped")
            return None
        began = time.perf_counter()
        try:
            kept = await self._in_time(self.cache.get(namespace, key), last=last)
        except (EngineError, TimeoutError) as error:
            self._failed(error)
            self.count(kind, "failed")
            return None
        self.breaker.came_through(time.perf_counter() - began)
        if kept is None:
            self.count(kind, "miss")
            return None
        try:
            entry = load_entry(kept.value, key=key)
        except Unusable as unusable:
            self.unusable(kind, namespace, key, unusable.fault)
            return None
        age_s = self._clock.now() - entry.made_at
        # Two clocks, and each may jump: that of the cache, which ends an entry's life, and that of whoever made it.
        fresh = kept.left_s > self._settings.grace_s and -SKEW_S <= age_s <= self._settings.ttl_s
        return Found(entry.payload, fresh)

    def put(self, namespace: str, key: str, payload: bytes, *, made_at: float) -> None:
        """Keep it, some time soon, until its time is over. It may come to nothing. Units: `made_at` seconds since 1970."""
        ttl_s = made_at + self._settings.ttl_s + self._settings.grace_s - self._clock.now()
        if self.rests or len(self._tasks) >= MOST_WRITING or ttl_s <= 0:
            return
        entry = dump_entry(payload, key=key, made_at=made_at)
        self._beside(self.cache.put(namespace, key, entry, ttl_s=ttl_s))

    def unusable(self, kind: Kind, namespace: str, key: str, fault: str) -> None:
        """What lies there is no entry: it goes."""
        self.count(kind, "unusable")
        metrics.cache_unusable_total.labels(TIER, fault).inc()
        self.remove(namespace, key)

    def remove(self, namespace: str, key: str) -> None:
        """Some time soon."""
        if not self.rests:
            self._beside(self.cache.remove(namespace, key))

    def count(self, kind: Kind, outcome: Outcome) -> None:
        self.counts[kind, outcome] = self.counts.get((kind, outcome), 0) + 1
        metrics.cache_requests_total.labels(TIER, kind, outcome).inc()

    async def written(self) -> None:
        """Wait until what is on its way to the cache has arrived, or failed."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def aclose(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, self.breaker.aclose(), return_exceptions=True)
        await self.cache.aclose()

    async def _in_time(self, call: Coroutine[Any, Any, T], *, last: bool = False) -> T:
        """The answer of `call`, or TimeoutError. A call that is late goes on to its own end: to break it off would cost the
        connection, and an event loop that is behind is not the cache's fault."""
        if self._in_process:
            return await call
        task = self._track(asyncio.ensure_future(call))
        task.add_done_callback(_heard)
        deadline_s = self._settings.deadline_ms / 1000
        await asyncio.wait({task}, timeout=max(LAST_RESORT_S, deadline_s) if last else deadline_s)
        for _ in range(3):  # what has arrived meanwhile is taken
            if not task.done():
                await asyncio.sleep(0)
        if not task.done():
            raise TimeoutError
        return task.result()

    def _beside(self, call: Coroutine[Any, Any, object]) -> None:
        async def run() -> None:
            try:
                await call
            except EngineError as error:
                self._failed(error)

        self._track(asyncio.ensure_future(run()))

    def _track(self, task: asyncio.Task[T]) -> asyncio.Task[T]:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _failed(self, error: Exception) -> None:
        metrics.cache_errors_total.labels(TIER, type(error).__name__).inc()
        self.breaker.failed(error, self._probe)

    async def _probe(self) -> None:
        """The first call may have to connect; the second has the deadline that a query has. Raises EngineError, TimeoutError."""
        await self.cache.get("", PROBE)
        await self._in_time(self.cache.get("", PROBE))


def _heard(task: asyncio.Task[Any]) -> None:
    """The failure of a call that nobody waits for any more was told when it was late."""
    if not task.cancelled():
        task.exception()
