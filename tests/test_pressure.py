"""Overload: as many are served as the machine can serve in time, and the others are told at once.

The machine is played, by the event: one queue, one server. Time is the test's own.
"""

from __future__ import annotations

import heapq
import random
import statistics
from collections import deque
from contextlib import ExitStack

import pytest

from ragline.errors import Overloaded
from ragline.pressure import FIRST, LEAST, Pressure
from tests.clock import HandClock

TARGET_MS = 200


class Machine:
    """Searches that come at `rate` a second by chance, each `work_s` of a processor, and `away_s` that is waited elsewhere."""

    def __init__(self, *, rate: float, work_s: float, away_s: float = 0.0, seed: int = 1) -> None:
        self.clock = HandClock()
        self.pressure = Pressure(self.clock, target_ms=TARGET_MS)
        self.refused = 0
        self.took_ms: list[float] = []
        self.shed: dict[str, int] = {"rerank": 0, "candidates": 0, "generator": 0}
        self._rate, self._work_s, self._away_s = rate, work_s, away_s
        self._dice = random.Random(seed)

    def run(self, for_s: float) -> None:
        """Events: (when, order, kind, which). A search waits for the processor, then elsewhere, then it is done."""
        self.took_ms, self.refused = [], 0
        begun: dict[int, float] = {}
        places: dict[int, ExitStack] = {}
        waiting, busy = deque[int](), False
        start, n = self.clock.since, 0
        events = [(start + self._dice.expovariate(self._rate), 0, "comes", 0)]
        while events:
            at, _, kind, which = heapq.heappop(events)
            self.clock.move(at - self.clock.since)
            if kind == "comes":
                if at < start + for_s:
                    n += 1
                    heapq.heappush(events, (at + self._dice.expovariate(self._rate), n, "comes", n))
                with ExitStack() as stack:
                    try:
                        stack.enter_context(self.pressure.place())
                    except Overloaded:
                        self.refused += 1
                        continue
                    places[which], begun[which] = stack.pop_all(), at
                for what in self.shed:
                    self.shed[what] += self.pressure.sheds(what)  # type: ignore[arg-type]
                waiting.append(which)
            elif kind == "worked":
                busy = False
                heapq.heappush(events, (at + self._away_s, which, "done", which))
            else:
                self.took_ms.append((at - begun.pop(which)) * 1000)
                places.pop(which).close()
            if waiting and not busy:
                busy, mine = True, waiting.popleft()
                took_s = self._work_s * self._dice.uniform(0.5, 1.5)
                heapq.heappush(events, (self.clock.since + took_s, mine, "worked", mine))

    @property
    def p95_ms(self) -> float:
        return statistics.quantiles(self.took_ms, n=20)[-1]


def _alone(pressure: Pressure, clock: HandClock) -> None:
    """It learns what a search takes that has the machine to itself."""
    for _ in range(100):
        with pressure.place():
            clock.move(0.01)


def test_three_times_what_the_machine_can_do_is_served_to_capacity_and_in_time() -> None:
    machine = Machine(rate=300, work_s=0.01)
    machine.run(60)
    assert len(machine.took_ms) >= 0.9 * 60 / 0.01
    assert machine.p95_ms <= 2 * TARGET_MS
    assert machine.refused > 0
    assert all(machine.shed.values())


def test_afterwards_nobody_is_refused_and_nothing_left_out() -> None:
    machine = Machine(rate=300, work_s=0.01)
    machine.run(60)
    machine._rate = 30
    machine.run(30)
    machine.shed = dict.fromkeys(machine.shed, 0)
    machine.run(60)
    assert machine.refused == 0
    assert not any(machine.shed.values())


def test_a_minute_later_as_many_are_let_in_at_once_as_at_the_start() -> None:
    """Else the first moment of a fault, in which searches wait, would be one of refusals."""
    machine = Machine(rate=300, work_s=0.01)
    machine.run(60)
    assert machine.pressure.places < FIRST / 2
    machine._rate = 30
    machine.run(60)
    assert machine.pressure.places == FIRST


@pytest.mark.parametrize("rate", [5, 50, 80])
def test_below_capacity_nobody_is_refused(rate: float) -> None:
    machine = Machine(rate=rate, work_s=0.01)
    machine.run(120)
    assert machine.refused == 0


def test_an_engine_that_is_slow_by_itself_is_no_reason_to_refuse() -> None:
    """Each takes longer than the target, and no processor is busy: refusing would help nobody."""
    machine = Machine(rate=100, work_s=0.001, away_s=0.5)
    machine.run(120)
    assert machine.refused == 0


def test_one_that_becomes_slow_is_learnt_to_be_so() -> None:
    machine = Machine(rate=50, work_s=0.001)
    machine.run(30)
    machine._away_s = 0.5
    machine.run(20)
    assert machine.refused < 150, "before it was learnt"
    machine.run(600)
    assert machine.refused == 0


def test_what_a_search_takes_alone_is_not_learnt_from_a_long_overload() -> None:
    pressure = Pressure(clock := HandClock(), target_ms=TARGET_MS)
    _alone(pressure, clock)
    under_way = deque[ExitStack]()
    _full(pressure, clock, under_way, each_s=0.001_5, for_s=300)
    before = pressure.places
    _full(pressure, clock, under_way, each_s=0.003_5, for_s=10)
    assert pressure.places < 0.8 * before


def _full(pressure: Pressure, clock: HandClock, under_way: deque[ExitStack], *, each_s: float, for_s: float) -> None:
    """One ends each `each_s`; then the next is let in, and another one refused."""
    until = clock.monotonic() + for_s
    while clock.monotonic() < until:
        try:
            while True:
                with ExitStack() as stack:
                    stack.enter_context(pressure.place())
                    under_way.append(stack.pop_all())
        except Overloaded:
            clock.move(each_s)
            under_way.popleft().close()


def test_more_than_was_thought_are_taken_when_they_are_fast() -> None:
    machine = Machine(rate=4_000, work_s=0.000_01, away_s=0.05)
    machine.run(20)
    machine.run(5)
    assert machine.refused == 0
    assert machine.pressure.places > 1.5 * FIRST


def test_a_batch_always_has_its_places() -> None:
    machine = Machine(rate=1_000, work_s=0.1)
    machine.run(30)
    assert machine.pressure.places >= LEAST


def test_a_search_that_fails_gives_its_place_back() -> None:
    pressure = Pressure(HandClock(), target_ms=TARGET_MS)
    for _ in range(3 * FIRST):
        with pytest.raises(RuntimeError), pressure.place():
            raise RuntimeError
    assert not pressure.full


def test_one_that_waits_for_something_else_says_nothing_of_the_machine() -> None:
    clock = HandClock()
    pressure = Pressure(clock, target_ms=TARGET_MS)
    for _ in range(200):
        with pressure.place(waits=True):
            clock.move(5)
    assert pressure.places == FIRST


def test_a_busy_moment_after_a_step_down_does_not_undo_it() -> None:
    """Callers take every place there is, and ask again at once; what `rate` a second the machine does is shared by them."""
    clock = HandClock()
    pressure = Pressure(clock, target_ms=TARGET_MS)
    _alone(pressure, clock)

    def crowd(for_s: float, rate: float) -> None:
        until = clock.since + for_s
        while clock.since < until:
            with ExitStack() as stack:
                for _ in range(pressure.places):
                    stack.enter_context(pressure.place())
                with pytest.raises(Overloaded), pressure.place():
                    pass
                clock.move(pressure.places / rate)

    crowd(for_s=2, rate=250)
    kept = pressure.places
    assert LEAST < kept < FIRST / 2
    crowd(for_s=2, rate=125)
    assert pressure.places <= kept
