"""A leg's deadline, its places and its breaker: what fails or is slow costs a few searches, and then nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from ragline import breaker, metrics
from ragline.breaker import FEWEST, LOOKED_AT, RUNNING, blames
from ragline.errors import EngineDenied, EngineError, EngineRejected, EngineTimeout, EngineUnavailable, InvalidRequest
from ragline.leg import Leg
from ragline.types import Hit
from tests.clock import HandClock

CAP_MS, FLOOR_MS = 60_000, 30_000
"""No search here takes so long: a test that waits for a deadline sets its own."""


class Engine:
    """Answers, or does what it is told. `asked`: how often."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.hangs: asyncio.Event | None = None
        self.asked = 0

    async def search(self) -> list[Hit]:
        self.asked += 1
        if self.hangs:
            await self.hangs.wait()
        if self.error:
            raise self.error
        return []


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
async def leg(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Leg]:
    monkeypatch.setattr(breaker, "PROBE_EVERY_S", 0.001)
    leg = Leg("dense", cap_ms=CAP_MS, floor_ms=FLOOR_MS, concurrency=4, clock=HandClock())
    yield leg
    await leg.breaker.aclose()


def _away() -> EngineUnavailable:
    return EngineUnavailable("It is away.", next_step="Wait.", engine="test")


async def _back(leg: Leg) -> None:
    while leg.breaker.is_open:
        await asyncio.sleep(0)


async def test_an_engine_that_refuses_is_asked_a_few_times_and_then_by_the_probe_alone(
    leg: Leg, engine: Engine
) -> None:
    engine.error = _away()
    for _ in range(RUNNING):
        assert not leg.breaker.is_open
        with pytest.raises(EngineUnavailable, match=r"^It is away"):
            await leg.run(engine.search)
    for _ in range(100):
        with pytest.raises(EngineUnavailable, match="left out: It is away"):
            await leg.run(engine.search)
    assert engine.asked == RUNNING, "nobody has waited, so no probe has run either"
    assert metrics.left_out.labels("dense")._value.get() == 1
    standing = leg.standing()
    assert (standing.left_out, standing.last_error) == (True, "It is away. Wait.")
    engine.error = None
    await _back(leg)
    assert await leg.run(engine.search) == []
    assert metrics.left_out.labels("dense")._value.get() == 0


async def test_one_that_hangs_is_left_out_as_well(leg: Leg, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leg, "_cap_s", 0.01)
    engine.hangs = asyncio.Event()
    for _ in range(RUNNING):
        with pytest.raises(EngineTimeout, match="no answer within 10 ms"):
            await leg.run(engine.search)
    assert leg.breaker.is_open
    with pytest.raises(EngineUnavailable, match="left out: The dense leg gave no answer"):
        await leg.run(engine.search)
    engine.hangs.set()
    engine.hangs = None
    monkeypatch.setattr(leg, "_cap_s", 60.0)
    await _back(leg)


async def test_when_it_is_left_out_nobody_waits_any_longer(leg: Leg, engine: Engine) -> None:
    engine.hangs = asyncio.Event()
    waiting = [asyncio.create_task(leg.run(engine.search)) for _ in range(4)]
    while engine.asked < 4:
        await asyncio.sleep(0)
    for _ in range(RUNNING):
        leg.was_late(engine.search, 0.5)
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in results] == [EngineTimeout] * 4
    engine.hangs.set()
    engine.hangs = None
    await _back(leg)


async def test_one_that_another_leg_was_not_waited_for_is_left_out(leg: Leg, engine: Engine) -> None:
    engine.error = _away()
    for _ in range(RUNNING):
        leg.was_late(engine.search, 0.5)
    assert leg.breaker.is_open


async def test_it_comes_back_when_two_probes_running_came_through(leg: Leg, engine: Engine) -> None:
    answers = iter([_away(), None, _away(), None, None])
    engine.error = _away()
    for _ in range(RUNNING):
        with pytest.raises(EngineUnavailable):
            await leg.run(engine.search)

    class Changing(Engine):
        async def search(self) -> list[Hit]:
            self.error = next(answers)
            return await super().search()

    changing = Changing()
    leg.breaker._probing.cancel()  # type: ignore[union-attr]
    leg.breaker._probing = asyncio.create_task(leg.breaker._probe(changing.search))
    await _back(leg)
    assert changing.asked == 5


async def test_half_of_the_last_calls_is_too_many(leg: Leg, engine: Engine) -> None:
    for n in range(LOOKED_AT):
        assert not leg.breaker.is_open
        engine.error = _away() if n % 2 else None
        if n % 2:
            with pytest.raises(EngineUnavailable):
                await leg.run(engine.search)
        else:
            await leg.run(engine.search)
    assert leg.breaker.is_open


async def test_a_failure_now_and_then_is_not(leg: Leg, engine: Engine) -> None:
    for n in range(5 * LOOKED_AT):
        engine.error = _away() if n % 3 == 0 else None
        if engine.error:
            with pytest.raises(EngineUnavailable):
                await leg.run(engine.search)
        else:
            await leg.run(engine.search)
    assert not leg.breaker.is_open


async def test_what_it_refuses_to_one_request_is_no_fault_of_the_engine(leg: Leg, engine: Engine) -> None:
    engine.error = EngineRejected("There is no such collection.", next_step="Reindex.", engine="test")
    for _ in range(3 * LOOKED_AT):
        with pytest.raises(EngineRejected):
            await leg.run(engine.search)
    assert not leg.breaker.is_open


async def test_waiting_for_a_place_is_no_fault_of_the_engine(
    leg: Leg, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.hangs = asyncio.Event()
    holding = [asyncio.create_task(leg.run(engine.search)) for _ in range(4)]
    while engine.asked < 4:
        await asyncio.sleep(0)
    monkeypatch.setattr(leg, "_cap_s", 0.01)
    for _ in range(2 * RUNNING):
        with pytest.raises(EngineTimeout):
            await leg.run(engine.search)
    assert (engine.asked, leg.breaker.is_open) == (4, False)
    engine.hangs.set()
    assert await asyncio.gather(*holding) == [[]] * 4


async def test_a_caller_that_leaves_blames_nobody(leg: Leg, engine: Engine) -> None:
    engine.hangs = asyncio.Event()
    for _ in range(2 * RUNNING):
        task = asyncio.create_task(leg.run(engine.search))
        while not engine.asked:
            await asyncio.sleep(0)
        engine.asked = 0
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert not leg.breaker.is_open


@pytest.mark.parametrize(
    ("took_s", "deadline_s"),
    [(0.010, 0.1), (0.100, 0.3), (2.0, 1.0)],
    ids=["not below the floor", "three times the p95", "not over the cap"],
)
async def test_the_deadline_follows_the_last_searches(took_s: float, deadline_s: float) -> None:
    leg = Leg("dense", cap_ms=1000, floor_ms=100, concurrency=4, clock=HandClock())
    for n in range(FEWEST):
        assert leg.deadline_s == 1.0, f"{n} searches say too little"
        leg.breaker.came_through(took_s)
    assert leg.deadline_s == pytest.approx(deadline_s)


async def test_searches_that_are_broken_off_lengthen_the_deadline() -> None:
    """Else an engine that is slower from now on would be broken off for ever."""
    leg, seen = Leg("dense", cap_ms=1000, floor_ms=10, concurrency=4, clock=HandClock()), []
    for n in range(400):
        leg.breaker.came_through(0.01) if n % 4 or n < 200 else leg.was_late(Engine().search, leg.deadline_s)
        seen.append(leg.deadline_s)
    assert seen[199] == pytest.approx(0.03)
    assert seen[-1] == 1.0
    assert not leg.breaker.is_open


@pytest.mark.parametrize(
    ("error", "blamed"),
    [
        (_away(), True), (TimeoutError(), True), (ConnectionResetError(), True),
        (EngineError("Odd.", next_step="Look.", engine="test"), True),
        (EngineDenied("The key is wrong.", next_step="Correct it.", engine="test"), True),
        (EngineRejected("No.", next_step="Reindex.", engine="test"), False),
        (InvalidRequest("No.", next_step="Correct it."), False),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_who_is_to_blame(error: Exception, blamed: bool) -> None:
    assert blames(error) is blamed
