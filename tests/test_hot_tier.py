"""A cache that fails, hangs or comes back: what it costs a query, and that nothing else does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ragline import breaker, hot_tier, metrics
from ragline.breaker import RUNNING
from ragline.caches.memory import MemoryCache
from ragline.caches.redis import RedisCache
from ragline.errors import EngineUnavailable
from ragline.hot_tier import MOST_WRITING, HotTier
from ragline.settings import CacheSettings
from ragline.types import Kept
from tests.clock import HandClock
from tests.engines.redis import Redis

KEY, OTHER = "a" * 32, "b" * 32
SETTINGS = CacheSettings(ttl_s=300, grace_s=3600, deadline_ms=10)


class Faulty(MemoryCache):
    """In memory; it can be made to hang or to fail, and counts what it is asked."""

    def __init__(self, clock: HandClock) -> None:
        super().__init__(clock, entries=100, max_bytes=1_000_000)
        self.fails = False
        self.hangs: asyncio.Event | None = None
        self.asked = 0

    async def get(self, namespace: str, key: str) -> Kept | None:
        self.asked += 1
        await self._fault()
        return await super().get(namespace, key)

    async def put(self, namespace: str, key: str, value: bytes, *, ttl_s: float) -> None:
        await self._fault()
        await super().put(namespace, key, value, ttl_s=ttl_s)

    async def _fault(self) -> None:
        if self.fails:
            raise EngineUnavailable("It is away.", next_step="Wait.", engine="test")
        if self.hangs:
            await self.hangs.wait()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def cache(clock: HandClock) -> Faulty:
    return Faulty(clock)


@pytest.fixture
async def tier(cache: Faulty, clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HotTier]:
    monkeypatch.setattr(breaker, "PROBE_EVERY_S", 0.001)
    tier = HotTier(cache, SETTINGS, clock, in_process=False)
    yield tier
    await tier.aclose()


async def _put(tier: HotTier, key: str = KEY, payload: bytes = b"passages") -> None:
    tier.put("n", key, payload, made_at=tier.now())
    await tier.written()


async def _back(tier: HotTier) -> None:
    while tier.rests:
        await asyncio.sleep(0)


async def test_what_is_kept_is_fresh_for_its_time_and_then_kept_for_the_grace(tier: HotTier, clock: HandClock) -> None:
    await _put(tier)
    seen = []
    for moved in (0, 299, 2, 3590, 20):
        clock.move(moved)
        found = await tier.get("search", "n", KEY)
        seen.append(found and found.fresh)
    assert seen == [True, True, False, False, None]


@pytest.mark.parametrize("jump", [-86_400.0, -10.0, 301.0, 86_400.0])
async def test_a_clock_that_jumps_makes_nothing_live_longer(tier: HotTier, clock: HandClock, jump: float) -> None:
    """The wall clock jumps; the cache's own goes on."""
    await _put(tier)
    clock.at += jump
    found = await tier.get("search", "n", KEY)
    assert found is None or not found.fresh
    clock.at -= jump
    found = await tier.get("search", "n", KEY)
    assert found is not None
    assert found.fresh


async def test_an_entry_that_its_cache_keeps_too_long_is_not_served(
    tier: HotTier, clock: HandClock, cache: Faulty
) -> None:
    """The cache's clock stands still, as after a jump back; the wall clock goes on."""
    await _put(tier)
    clock.at += 301
    kept = await cache.get("n", KEY)
    assert kept is not None
    assert kept.left_s > SETTINGS.grace_s
    found = await tier.get("search", "n", KEY)
    assert found is not None
    assert not found.fresh


async def test_what_is_old_already_is_kept_for_the_rest_of_its_time(tier: HotTier, clock: HandClock) -> None:
    tier.put("n", KEY, b"old", made_at=clock.now() - 200)
    tier.put("n", OTHER, b"older", made_at=clock.now() - 5_000)
    await tier.written()
    assert await tier.get("search", "n", OTHER) is None
    clock.move(99)
    found = await tier.get("search", "n", KEY)
    assert found is not None
    assert found.fresh
    clock.move(2)
    found = await tier.get("search", "n", KEY)
    assert found is not None
    assert not found.fresh


@pytest.mark.parametrize(
    ("value", "fault"), [(b"theirs", "foreign"), (b"RLH0xxxxxxxx", "version"), (b"RLH1" + b"x" * 40, "damaged")]
)
async def test_what_is_not_ours_is_ignored_removed_and_counted(
    tier: HotTier, cache: Faulty, value: bytes, fault: str
) -> None:
    before = metrics.cache_unusable_total.labels("hot", fault)._value.get()
    await cache.put("n", KEY, value, ttl_s=600)
    assert await tier.get("search", "n", KEY) is None
    await tier.written()
    assert await cache.get("n", KEY) is None
    assert metrics.cache_unusable_total.labels("hot", fault)._value.get() == before + 1
    assert tier.counts == {("search", "unusable"): 1}


async def test_a_cache_that_hangs_costs_its_deadline_a_few_times_and_then_nothing(tier: HotTier, cache: Faulty) -> None:
    await _put(tier)
    cache.hangs = asyncio.Event()
    for _ in range(RUNNING):
        assert not tier.rests
        assert await tier.get("search", "n", KEY) is None
    assert tier.rests
    for _ in range(100):
        before = cache.asked
        assert await tier.get("search", "n", KEY) is None
        assert cache.asked == before, "a query asks it no more; the probe does, beside them"
    assert tier.counts == {("search", "failed"): RUNNING, ("search", "skipped"): 100}
    assert metrics.left_out.labels("cache")._value.get() == 1
    cache.hangs.set()
    cache.hangs = None
    await _back(tier)
    assert metrics.left_out.labels("cache")._value.get() == 0
    found = await tier.get("search", "n", KEY)
    assert found is not None
    assert found.payload == b"passages"


async def test_failures_now_and_then_do_not_leave_it_out(tier: HotTier, cache: Faulty) -> None:
    await _put(tier)
    for _ in range(20):
        cache.fails = True
        assert await tier.get("search", "n", KEY) is None
        cache.fails = False
        for _ in range(2):
            assert await tier.get("search", "n", KEY) is not None
    assert not tier.rests


async def test_writes_that_fail_leave_it_out_too(tier: HotTier, cache: Faulty) -> None:
    cache.fails = True
    for _ in range(RUNNING):
        await _put(tier)
    assert tier.rests


async def test_a_write_holds_nobody_up_and_they_are_bounded(tier: HotTier, cache: Faulty) -> None:
    cache.hangs = asyncio.Event()
    for n in range(1_000):
        tier.put("n", f"{n:032x}", b"x", made_at=tier.now())
    assert len(tier._tasks) == MOST_WRITING
    cache.hangs.set()
    await tier.written()
    assert await cache.size() == MOST_WRITING


async def test_whoever_has_nothing_else_waits_longer_also_for_one_that_is_left_out(
    tier: HotTier, cache: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot_tier, "LAST_RESORT_S", 60.0)
    await _put(tier)
    cache.hangs = asyncio.Event()
    patient = asyncio.create_task(tier.get("search", "n", KEY, last=True))
    while not tier.rests:
        assert await tier.get("search", "n", KEY) is None, "its deadline is over"
    later = asyncio.create_task(tier.get("search", "n", KEY, last=True))
    await asyncio.sleep(0)
    cache.hangs.set()
    for found in await asyncio.gather(patient, later):
        assert found is not None
        assert found.payload == b"passages"


async def test_a_caller_that_leaves_leaves_nothing_behind(tier: HotTier, cache: Faulty) -> None:
    cache.hangs = asyncio.Event()
    call = asyncio.create_task(tier.get("search", "n", KEY))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    cache.hangs.set()
    await tier.written()
    await tier.aclose()
    await tier.aclose()


async def test_a_real_redis_that_stops_and_comes_back(
    own_redis: Redis, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "PROBE_EVERY_S", 0.01)
    settings = SETTINGS.model_copy(update={"deadline_ms": 200})  # of a busy machine
    tier = HotTier(RedisCache(own_redis.url(timeout_s=0.5), entries=100), settings, clock, in_process=False)

    async def found() -> bytes | None:
        kept = await tier.get("search", "n", KEY)
        return kept.payload if kept else None

    async def back() -> None:
        async with asyncio.timeout(60):
            while tier.rests or await found() is None:
                await asyncio.sleep(0.01)

    async def left_out() -> None:
        async with asyncio.timeout(60):
            while not tier.rests:
                await found()

    await _put(tier)
    await back()
    own_redis.pause()
    await left_out()
    own_redis.resume()
    await back()
    own_redis.kill()
    await left_out()
    own_redis.start()
    await back()  # it wrote every command to its file
    await tier.aclose()


async def test_the_metrics_tell_hits_from_the_rest(tier: HotTier) -> None:
    def of(outcome: str) -> Any:
        return metrics.cache_requests_total.labels("hot", "search", outcome)._value.get()

    before = of("miss"), of("hit")
    await tier.get("search", "n", KEY)
    tier.count("search", "hit")
    assert (of("miss"), of("hit")) == (before[0] + 1, before[1] + 1)
