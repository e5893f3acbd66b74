"""Both caches hold to the contract, on the real engines."""

from __future__ import annotations

import pytest

from ragline.caches.memory import MemoryCache
from ragline.caches.redis import RedisCache
from ragline.testing.caches import CacheContract, Connect, Move, SharedCacheContract
from tests.clock import HandClock
from tests.engines.redis import Redis


class TestMemory(CacheContract):
    @pytest.fixture
    def clock(self) -> HandClock:
        return HandClock()

    @pytest.fixture
    def connect(self, clock: HandClock) -> Connect:
        return lambda entries: MemoryCache(clock, entries=entries, max_bytes=10_000_000)

    @pytest.fixture
    def move(self, clock: HandClock) -> Move:
        async def move(seconds: float) -> None:
            clock.move(seconds)

        return move


class TestRedis(SharedCacheContract):
    @pytest.fixture
    def connect(self, redis: Redis) -> Connect:
        url = redis.url()
        return lambda entries: RedisCache(url, entries=entries)


async def test_memory_is_bounded_in_bytes_too() -> None:
    cache = MemoryCache(HandClock(), entries=1_000, max_bytes=10_000)
    for n in range(100):
        await cache.put("n", str(n), b"x" * 700, ttl_s=60)
    assert await cache.size() == 10
    await cache.put("n", "huge", b"x" * 20_000, ttl_s=60)
    assert await cache.size() == 0, "what is larger than all of it is not kept"


async def test_redis_forgets_the_place_of_what_has_ended(redis: Redis) -> None:
    cache = RedisCache(redis.url(), entries=100)
    for n in range(10):
        await cache.put("n", str(n), b"x", ttl_s=0.001)
    while any([await cache.server.client.exists(cache._key("n", str(n))) for n in range(10)]):
        pass
    await cache.put("n", "new", b"x", ttl_s=0.001)
    assert await cache.size() == 1
    await cache.put("n", "new", b"x", ttl_s=600)
    ended = cache._key("n", "new")
    await cache.server.client.delete(ended)
    assert await cache.get("n", "new") is None
    assert await cache.size() == 0
    await cache.aclose()
