"""Identical work in flight together is done once."""

from __future__ import annotations

import asyncio

import pytest

from ragline.singleflight import SingleFlight


class Work:
    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.release = asyncio.Event()

    async def __call__(self) -> int:
        self.started += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.started


async def _turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_callers_with_one_key_share_one_flight_and_others_do_not() -> None:
    flights: SingleFlight[int] = SingleFlight()
    one, other = Work(), Work()
    tasks = [asyncio.create_task(flights.run("a", one)) for _ in range(3)]
    tasks.append(asyncio.create_task(flights.run("b", other)))
    await _turns()
    one.release.set()
    other.release.set()
    assert await asyncio.gather(*tasks) == [1, 1, 1, 1]
    assert (one.started, other.started) == (1, 1)


async def test_a_caller_that_leaves_does_not_cancel_the_others() -> None:
    flights: SingleFlight[int] = SingleFlight()
    work = Work()
    leaving, staying = (asyncio.create_task(flights.run("a", work)) for _ in range(2))
    await _turns()
    leaving.cancel()
    await _turns()
    work.release.set()
    assert await staying == 1
    assert work.cancelled == 0


async def test_when_the_last_caller_leaves_the_work_stops_and_the_next_begins_anew() -> None:
    flights: SingleFlight[int] = SingleFlight()
    work = Work()
    task = asyncio.create_task(flights.run("a", work))
    await _turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    again = asyncio.create_task(flights.run("a", work))
    await _turns()
    assert (work.started, work.cancelled) == (2, 1)
    work.release.set()
    assert await again == 2


async def test_an_error_reaches_every_caller_and_is_not_kept() -> None:
    flights: SingleFlight[int] = SingleFlight()

    async def fail() -> int:
        await asyncio.sleep(0)
        raise ValueError("no")

    results = await asyncio.gather(*(flights.run("a", fail) for _ in range(2)), return_exceptions=True)
    assert all(isinstance(result, ValueError) for result in results)
    work = Work()
    work.release.set()
    assert await flights.run("a", work) == 1


async def test_a_flight_that_has_ended_is_not_joined() -> None:
    """Else a caller that asks again at once, not content with its answer, would get it for ever, and nobody else a turn."""
    flights: SingleFlight[int] = SingleFlight()
    works = iter(range(10))

    async def work() -> int:
        return next(works)

    async def later() -> tuple[int, int]:
        """In the turn in which the first one's work has ended, before anybody was told."""
        await asyncio.sleep(0)
        return await flights.run("a", work), await flights.run("a", work)

    first, second = asyncio.create_task(flights.run("a", work)), asyncio.create_task(later())
    assert (await first, await second) == (0, (1, 2))
