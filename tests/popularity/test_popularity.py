"""How often something was asked for within a day: in this process, and in a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from ragline.errors import EngineUnavailable
from ragline.popularity.memory import DAY_S, MemoryPopularity
from ragline.popularity.redis import RedisPopularity
from ragline.protocols import Popularity
from tests.engines.played import nowhere

MIDNIGHT = 20_000.0 * DAY_S


class MovedClock:
    def __init__(self) -> None:
        self.at = MIDNIGHT

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture(params=["memory", "redis"])
async def popularity(request: pytest.FixtureRequest, clock: MovedClock) -> AsyncIterator[Popularity]:
    made: Popularity
    if request.param == "memory":
        made = MemoryPopularity(clock)
    else:
        server: Any = request.getfixturevalue("redis")
        made = RedisPopularity(server.url(), clock=clock)
    yield made
    await made.aclose()
    await made.aclose()


async def test_each_time_counts_by_itself(popularity: Popularity) -> None:
    assert [await popularity.seen("a") for _ in range(3)] == [1, 2, 3]
    assert await popularity.seen("b") == 1


async def test_a_day_is_a_window_that_moves(popularity: Popularity, clock: MovedClock) -> None:
    for _ in range(10):
        await popularity.seen("a")
    clock.at += DAY_S
    assert await popularity.seen("a") == 11, "yesterday has just ended"
    clock.at += DAY_S / 2
    assert await popularity.seen("a") == 7, "two today, and half of yesterday's ten"
    clock.at += 2 * DAY_S
    assert await popularity.seen("a") == 1


def test_memory_is_bounded(clock: MovedClock) -> None:
    popularity = MemoryPopularity(clock, most=10)

    async def ask() -> int:
        for number in range(100):
            await popularity.seen(str(number))
            await popularity.seen("often")
        return await popularity.seen("often")

    import asyncio

    assert asyncio.run(ask()) == 101
    assert len(popularity._counts) == 10


async def test_a_redis_that_is_away_is_an_error_of_ours(clock: MovedClock) -> None:
    popularity = RedisPopularity(nowhere().replace("http", "redis"), clock=clock)
    with pytest.raises(EngineUnavailable):
        await popularity.seen("a")
    await popularity.aclose()
