"""The contract of `Cache`, as tests.

class TestMine(CacheContract):
    @pytest.fixture
    def connect(self):
        url = a cache of its own for each test
        return lambda entries: MyCache(url, entries=entries)

Where the adapter's clock can be moved, `move` moves it; else time is the engine's own, and short.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from ragline.protocols import Cache

WITHIN_S = 60.0
"""For what must come to an end: nothing is asserted about how long it took."""

Connect = Callable[[int], Cache]
Move = Callable[[float], Awaitable[None]]


@pytest.mark.asyncio
class CacheContract:
    @pytest.fixture
    def connect(self) -> Connect:
        """Yours: a function (entries) that opens the adapter, each time on the same cache, which is empty at first."""
        raise NotImplementedError

    @pytest.fixture
    def move(self) -> Move | None:
        """Yours, if you can: moves the adapter's clock on by seconds."""
        return None

    @pytest_asyncio.fixture
    async def cache(self, connect: Connect) -> AsyncIterator[Cache]:
        cache = connect(100)
        yield cache
        await cache.aclose()

    async def test_it_can_serve(self, cache: Cache) -> None:
        await cache.check()
        assert cache.name

    async def test_what_was_put_comes_back_byte_for_byte(self, cache: Cache) -> None:
        value = bytes(range(256)) * 100 + b"\r\n*1\r\n$4\r\nPING\r\n"
        assert await cache.get("n", "k") is None
        await cache.put("n", "k", value, ttl_s=600)
        found = await cache.get("n", "k")
        assert found is not None
        assert found.value == value
        assert 0 < found.left_s <= 600
        await cache.put("n", "k", b"", ttl_s=60)
        found = await cache.get("n", "k")
        assert found is not None
        assert found.value == b""
        assert 0 < found.left_s <= 60, "the last put counts, its time as well"

    async def test_keys_and_namespaces_are_told_apart(self, cache: Cache) -> None:
        names = [("n", "k"), ("n", "kk"), ("nk", "k"), ("nn", "k")]
        for n, (namespace, key) in enumerate(names):
            await cache.put(namespace, key, str(n).encode(), ttl_s=600)
        for n, (namespace, key) in enumerate(names):
            found = await cache.get(namespace, key)
            assert found is not None
            assert found.value == str(n).encode()

    async def test_its_time_ends(self, cache: Cache, move: Move | None) -> None:
        await cache.put("n", "short", b"1", ttl_s=0.05)
        await cache.put("n", "long", b"2", ttl_s=600)
        if move is not None:
            await move(0.06)
        async with asyncio.timeout(WITHIN_S):
            while await cache.get("n", "short") is not None:  # noqa: ASYNC110 (an engine's own clock tells nobody)
                await asyncio.sleep(0.01)
        assert await cache.get("n", "long") is not None

    async def test_over_the_bound_those_asked_for_longest_ago_go(self, connect: Connect) -> None:
        cache = connect(5)
        for n in range(5):
            await cache.put("n", str(n), b"x", ttl_s=600)
        assert await cache.get("n", "0") is not None
        for n in range(5, 8):
            await cache.put("m", str(n), b"x", ttl_s=600)
        kept = [n for n in range(5) if await cache.get("n", str(n)) is not None]
        assert kept == [0, 4]
        assert [n for n in range(5, 8) if await cache.get("m", str(n)) is not None] == [5, 6, 7]
        assert await cache.size() == 5
        await cache.aclose()

    async def test_put_again_counts_once(self, connect: Connect) -> None:
        cache = connect(2)
        for _ in range(5):
            await cache.put("n", "a", b"x", ttl_s=600)
        await cache.put("n", "b", b"x", ttl_s=600)
        assert await cache.get("n", "a") is not None
        assert await cache.get("n", "b") is not None
        assert await cache.size() == 2
        await cache.aclose()

    async def test_remove(self, cache: Cache) -> None:
        await cache.put("n", "a", b"1", ttl_s=600)
        await cache.put("n", "b", b"2", ttl_s=600)
        await cache.remove("n", "a")
        await cache.remove("n", "a")
        await cache.remove("never", "there")
        assert await cache.get("n", "a") is None
        assert await cache.get("n", "b") is not None
        assert await cache.size() == 1

    async def test_clear_takes_one_namespace_and_no_other(self, connect: Connect) -> None:
        cache = connect(5_000)
        for n in range(2_500):
            await cache.put("mine", str(n), b"x", ttl_s=600)
        for namespace in ("mine2", "m", "other"):
            await cache.put(namespace, "k", b"x", ttl_s=600)
        assert await cache.clear("mine") == 2_500
        assert await cache.clear("mine") == 0
        assert await cache.size() == 3
        assert await cache.get("mine", "7") is None
        assert await cache.get("mine2", "k") is not None
        await cache.aclose()

    async def test_many_at_once(self, cache: Cache) -> None:
        async def one(n: int) -> bool:
            await cache.put("n", str(n % 10), str(n % 10).encode() * 1000, ttl_s=600)
            found = await cache.get("n", str(n % 10))
            return found is not None and found.value == str(n % 10).encode() * 1000

        assert all(await asyncio.gather(*map(one, range(300))))
        assert await cache.size() == 10

    async def test_a_call_that_is_cancelled_leaves_the_rest_working(self, cache: Cache) -> None:
        await cache.put("n", "k", b"1", ttl_s=600)
        for _ in range(20):
            call = asyncio.create_task(cache.get("n", "k"))
            await asyncio.sleep(0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        found = await cache.get("n", "k")
        assert found is not None
        assert found.value == b"1"

    async def test_closing_twice(self, connect: Connect) -> None:
        cache = connect(1)
        await cache.put("n", "k", b"1", ttl_s=1)
        await cache.aclose()
        await cache.aclose()


@pytest.mark.asyncio
class SharedCacheContract(CacheContract):
    """Of a cache that processes share: two that are connected alike hold the same entries."""

    async def test_two_share_what_they_hold(self, connect: Connect) -> None:
        one, other = connect(100), connect(100)
        await one.put("n", "k", b"1", ttl_s=600)
        found = await other.get("n", "k")
        assert found is not None
        assert found.value == b"1"
        await other.remove("n", "k")
        assert await one.get("n", "k") is None
        await one.aclose()
        await other.aclose()
