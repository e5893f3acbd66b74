"""Experiment by experiment: load, fault, healing, verdict. Whatever ends it, no fault stays behind."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import httpx

from ragline.chaos.experiment import Experiment, Fault, Sample, Verdict, judge
from ragline.chaos.stack import FACTS, TOPICS, Stack

MOST_IN_FLIGHT = 2_000
"""Requests on their way; what is due beyond that counts as not answered."""

AT_ONCE = 8
"""Callers that measure what the process can do: each asks again when it has its answer."""

HANG_S = 30.0
"""What no answer counts as: the client's patience."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Units: queries a second; seconds. `before_s`: of the time before a fault; `after_s`: behind the time for healing."""

    rate: float = 50.0
    before_s: float = 8.0
    after_s: float = 4.0
    stretch: float = 1.0
    """Times as long as an experiment's file says that its faults last."""


class Model(Protocol):
    """The LLM that an experiment may trouble."""

    def fail(self, kind: str) -> None: ...


class Proving:
    def __init__(self, stack: Stack, pace: Pace, *, llm: Model | None = None, seed: int = 1) -> None:
        self._stack = stack
        self._pace = pace
        self._llm = llm
        self._dice = random.Random(seed)

    async def run(self, experiment: Experiment) -> Verdict:
        """Raises httpx.HTTPError: there is nobody to ask at all."""
        pace, expect = self._pace, experiment.expect
        stretched = tuple(replace(fault, for_s=fault.for_s * pace.stretch) for fault in experiment.faults)
        experiment = replace(experiment, faults=stretched)
        async with self._stack.http() as http:
            overload = next((fault for fault in stretched if fault.target == "load"), None)
            capacity = await self._capacity(http, experiment) if overload else 0.0
            rate = min(pace.rate, capacity / 2) if overload else pace.rate
            drive = _Drive(http, self._asks(experiment, http), rate, self._dice)
            driving = asyncio.create_task(drive.run())
            try:
                await asyncio.sleep(pace.before_s)
                fault_s = drive.at_s
                if overload:
                    drive.rate = overload.by * capacity
                self._play(stretched)
                await asyncio.sleep(experiment.for_s)
                self._play(())
                drive.rate = rate
                healed_s = drive.at_s
                await asyncio.sleep(expect.healed_after_s + pace.after_s)
                end_s = drive.at_s
            finally:
                self._play(())
                drive.stop()
                await driving
        verdict = judge(experiment, drive.samples, fault_s=fault_s, healed_s=healed_s, end_s=end_s)
        return verdict if not overload else _served_enough(verdict, capacity)

    def _play(self, faults: Sequence[Fault]) -> None:
        self._stack.play({one.target: one for one in faults if one.target not in ("load", "llm")})
        if self._llm is not None:
            self._llm.fail(next((one.kind for one in faults if one.target == "llm"), ""))

    async def _capacity(self, http: httpx.AsyncClient, experiment: Experiment) -> float:
        """Answers a second when so many callers ask again as soon as they have their answer."""
        ask, done, until = self._asks(experiment, http), 0, time.perf_counter() + self._pace.before_s

        async def caller() -> None:
            nonlocal done
            while time.perf_counter() < until:
                status, _, _ = await ask()
                done += status == 200

        start = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
        return done / (time.perf_counter() - start)

    def _asks(self, experiment: Experiment, http: httpx.AsyncClient) -> _Ask:
        queries = self._queries(experiment)
        path = "/v1/answers" if experiment.answers else "/v1/search"

        async def ask() -> tuple[int, tuple[str, ...], bool]:
            body = {"query": next(queries), "namespace": self._stack.namespace, "top_k": 5}
            try:
                answer = await http.post(path, json=body)
            except httpx.HTTPError:
                return 0, (), False
            if answer.status_code != httpx.codes.OK:
                return answer.status_code, (), False
            told = answer.json()
            return answer.status_code, tuple(told["degraded"]), bool(told.get("cached"))

        return ask

    def _queries(self, experiment: Experiment) -> Iterator[str]:
        """Fresh: no two alike, so that none is answered from the cache. Repeated: twenty, over and over."""
        numbers = itertools.count(self._dice.randrange(10**6) * 1_000)
        for n in numbers:
            topic, fact = self._dice.choice(TOPICS), self._dice.choice(FACTS)
            if experiment.queries == "repeated":
                yield f"When was the {TOPICS[n % len(TOPICS)]} restored?"
            else:
                yield f"Which {topic} {fact} the year {n}?"


_Ask = Callable[[], Awaitable[tuple[int, tuple[str, ...], bool]]]


def _served_enough(verdict: Verdict, capacity: float) -> Verdict:
    """Of overload: what the process could do before it, it does now, or nearly."""
    least = 0.9 * capacity
    if verdict.during.rate >= least:
        return verdict
    words = f"{verdict.during.rate:.1f} served a second under overload, of the {capacity:.1f} that it can"
    return replace(verdict, faults=(*verdict.faults, words))


class _Drive:
    """Requests by chance at `rate` a second, whatever becomes of those before: a caller does not wait for the others (an open
    loop). A latency counts from when its request was due."""

    def __init__(self, http: httpx.AsyncClient, ask: _Ask, rate: float, dice: random.Random) -> None:
        self.rate = rate
        self.samples: list[Sample] = []
        self._ask, self._dice = ask, dice
        self._stopped = asyncio.Event()
        self._began = time.perf_counter()

    @property
    def at_s(self) -> float:
        return time.perf_counter() - self._began

    def stop(self) -> None:
        self._stopped.set()

    async def run(self) -> None:
        """Until stopped, and everything is in."""
        due, asking = self.at_s, set[asyncio.Task[None]]()
        while not self._stopped.is_set():
            due += self._dice.expovariate(self.rate)
            if (wait_s := due - self.at_s) > 0:
                await asyncio.sleep(wait_s)
            if len(asking) >= MOST_IN_FLIGHT:
                self.samples.append(Sample(due, HANG_S * 1000, 0))
                continue
            task = asyncio.create_task(self._one(due))
            asking.add(task)
            task.add_done_callback(asking.discard)
        await asyncio.gather(*asking)

    async def _one(self, due: float) -> None:
        status, degraded, cached = await self._ask()
        self.samples.append(Sample(due, (self.at_s - due) * 1000, status, degraded, cached))
