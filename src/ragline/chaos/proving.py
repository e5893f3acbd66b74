"""Experiment by experiment: load, fault, healing, verdict. Whatever ends it, no fault stays behind."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import aiohttp
import httpx

from ragline.chaos.alarms import Alarmed, Alarms
from ragline.chaos.asking import Asked, Asking
from ragline.chaos.experiment import Experiment, Fault
from ragline.chaos.llm import Behaviour, Llm
from ragline.chaos.load import Load
from ragline.chaos.met import unmet
from ragline.chaos.process import Pause, fill_disk, kill_children, resident_mib
from ragline.chaos.receivers import Receivers
from ragline.chaos.samples import Samples
from ragline.chaos.stack import FACTS, TOPICS, Stack, documents
from ragline.chaos.target import CouldNotRun, Target
from ragline.chaos.verdict import FEWEST, Verdict, broken_off, judge
from ragline.chaos.writing import Writing, Written
from ragline.faults import TARGETS

AT_ONCE = 8
"""Callers that measure what the process can do: each asks again when it has its answer."""

SURELY = 2
"""Times the fewest requests that say something: they come by chance, and half as many come hardly ever."""

WAITING_SHARE = 0.1
"""Of the rate, while an alert has yet to clear: it must by what is seen, not because nobody asks."""

WAITED_FOR = ("queued", "failed")
"""Of uploads, where it counts what is not live yet when the fault ends; the registry, which is asked, may not answer then."""

FRESH, REPEATED = 100_000, 5
"""Queries to draw from, each as likely: so many that hardly one comes twice; so few that each does, again and again."""

WELL = Behaviour(first_token_s=0.05, tokens_per_s=200)
TROUBLES = {
    "limit": replace(WELL, limited_share=1.0, retry_after_s=5.0),
    "refuse": replace(WELL, failing_share=1.0),
    "hang": replace(WELL, hang_after=3),
}
"""What the played LLM does, by a fault's kind; where it is slow, the fault says by how much."""

PLAYED_BY = {
    "load": "by the load", "llm": "by the played LLM", "workers": "by SIGKILL", "disk": "by the kernel", "process": "by SIGSTOP",
    "edge": "by the played edge", "webhooks": "by the played receiver",
}  # fmt: skip
"""Of what no call of the process under test plays."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Units: `rate` queries a second; seconds: `before_s` of the time before a fault, `after_s` behind the time for healing.

    stretch: times as long as an experiment's file says that its faults last.
    """

    rate: float = 50.0
    before_s: float = 12.0
    after_s: float = 4.0
    stretch: float = 1.0


@dataclass(frozen=True, slots=True)
class _Course:
    """What was seen of an experiment. Units: seconds from the load's start. `grown`: metric → by how much, during the fault."""

    samples: Samples
    fault_s: float
    healed_s: float
    end_s: float
    written: Written | None
    asked: Asked | None
    alerts: Mapping[str, bool] | None
    purged: bool
    grown: Mapping[str, float]
    resident_mib: tuple[float, float]


class Proving:
    """`llm`, `receivers`: those that the process under test asks, where they are played. `tell`: is told when a fault begins."""

    def __init__(
        self,
        stack: Stack,
        pace: Pace,
        *,
        llm: Llm | None = None,
        receivers: Receivers | None = None,
        seed: int = 1,
        tell: Callable[[str], None] | None = None,
        alarms: Alarms | None = None,
    ) -> None:
        self._stack = stack
        self._pace = pace
        self._llm = llm
        self._receivers = receivers
        self._seeds = itertools.count(seed)
        self._killing: asyncio.Task[None] | None = None
        self._killed = 0
        self._disk_full = False
        self._pause: Pause | None = None
        self._tell = tell or (lambda words: None)
        self._alarms = alarms

    async def run(self, experiment: Experiment) -> Verdict:
        """Cancelled, it lifts the fault and ends the load."""
        try:
            return await self._run(experiment)
        except (CouldNotRun, httpx.HTTPError) as error:
            return broken_off(experiment, str(error) or type(error).__name__)

    async def _run(self, experiment: Experiment) -> Verdict:
        stretched = tuple(replace(fault, for_s=fault.for_s * self._pace.stretch) for fault in experiment.faults)
        experiment = replace(experiment, faults=stretched)
        seed = next(self._seeds)
        queries = _queries(experiment, seed)
        load = self._load(experiment, queries, seed)
        await self._play(())
        if self._stack.cold:
            await self._warm(experiment)
        await self._stack.well()
        overload = next((fault for fault in stretched if fault.target == "load"), None)
        capacity = await self._capacity(queries) if overload else 0.0
        load.rate = min(self._pace.rate, capacity / 2) if overload else self._pace.rate * experiment.rate_share
        rush = overload.by * capacity if overload else load.rate
        course = await self._course(
            experiment, load, rush=rush,
            writing=self._writing(experiment, load, seed) if experiment.expect.writes else None,
            asking=self._asking(experiment, queries) if experiment.jobs else None,
        )  # fmt: skip
        verdict = judge(
            experiment, course.samples, fault_s=course.fault_s, healed_s=course.healed_s, end_s=course.end_s,
            written=course.written, asked=course.asked, alerts=course.alerts,
        )  # fmt: skip
        verdict = replace(verdict, where=self.where(stretched), resident_mib=course.resident_mib)
        refused = self._receivers.refused if self._receivers else {}
        more = unmet(verdict, grown=course.grown, killed=self._killed, refused=refused)
        more += [] if course.purged else ["purges that were refused have not come again"]
        verdict = replace(verdict, faults=(*verdict.faults, *more))
        return verdict if not overload else _served_enough(verdict, capacity)

    async def _course(
        self, experiment: Experiment, load: Load, *, rush: float, writing: Writing | None, asking: Asking | None
    ) -> _Course:
        """Before, during and after. `rush`: the load's rate during the fault."""
        pace, expect, rate, receivers = self._pace, experiment.expect, load.rate, self._receivers
        enough_s = SURELY * FEWEST / rate
        loading = asyncio.create_task(load.run(float("inf")))
        beside = [asyncio.create_task(one.run()) for one in (writing, asking) if one]
        alarmed = Alarmed(self._alarms) if self._alarms else None
        try:
            await asyncio.sleep(max(pace.before_s, enough_s))
            fault_s = load.elapsed_s
            began_mib, began = await self._resident_mib(), await self._stack.counts()
            if alarmed:
                await alarmed.begin()
            if receivers:
                receivers.refused.clear()
            load.rate = rush
            await self._play(experiment.faults)
            self._tell(f"{experiment.name}: {_told(self.where(experiment.faults))}, for {experiment.for_s:g} s")
            await asyncio.sleep(experiment.for_s)
            ended_mib = await self._resident_mib()
            documents_wait = await writing.waiting() if writing and expect.writes in WAITED_FOR else None
            jobs_wait = await asking.waiting() if asking else 0
            await self._play(())
            ended = await self._stack.counts()
            load.rate, healed_s = rate, load.elapsed_s
            await asyncio.sleep(expect.healed_after_s + max(pace.after_s, 1.0 + enough_s))
            end_s = load.elapsed_s - 1.0  # what was due last may be under way
            load.rate = rate * WAITING_SHARE
            await _ended(beside)
            written = await writing.settled(documents_wait) if writing else None
            if writing:
                await writing.remove()
            asked = await asking.settled(jobs_wait) if asking else None
            purged = await receivers.purged() if receivers else True
            alerts = await alarmed.settled(expect.alerts) if alarmed else None
        finally:
            load.stop()
            if alarmed:
                alarmed.stop()
            try:
                await self._play(())
            finally:
                await asyncio.wait([loading])
                await _ended(beside)
        grown = {name: value - began.get(name, 0.0) for name, value in ended.items()}
        return _Course(
            loading.result(), fault_s, healed_s, end_s, written, asked, alerts, purged, grown, (began_mib, ended_mib)
        )

    async def _warm(self, experiment: Experiment) -> None:
        """What a process does first takes longer, and would let everything after it look fast."""
        seed = next(self._seeds)
        load = self._load(experiment, _queries(experiment, seed), seed)
        load.rate = self._pace.rate * experiment.rate_share
        await load.run(self._pace.before_s)
        self._stack.cold = False

    def where(self, faults: Sequence[Fault]) -> dict[str, str]:
        """Target → where its fault is played."""
        return {one.target: PLAYED_BY.get(one.target) or self._stack.where(one) for one in faults}

    async def _play(self, faults: Sequence[Fault]) -> None:
        if self._pause:  # first: what stands still takes nothing else, and does not end
            await asyncio.to_thread(self._pause.end)
            self._pause = None
        await self._stack.play({one.target: one for one in faults if one.target in TARGETS})
        if self._killing:
            self._killing.cancel()
            self._killing = None
        kills = next((one for one in faults if one.target == "workers"), None)
        if kills:
            self._killed, self._killing = 0, asyncio.create_task(self._kill(kills.by))
        full = any(one.target == "disk" for one in faults)
        if full != self._disk_full:
            fill_disk(self._stack.pid, full=full)
            self._disk_full = full
        if self._llm is not None:
            self._llm.behaviour = next((_trouble(one) for one in faults if one.target == "llm"), WELL)
        if any(one.target == "process" for one in faults):
            self._pause = await asyncio.to_thread(Pause, self._stack.pid)
        if self._receivers is not None:
            self._receivers.down = [one.target for one in faults if one.target in ("edge", "webhooks")]

    async def _resident_mib(self) -> float:
        return await asyncio.to_thread(resident_mib, self._stack.pid)

    async def _kill(self, every_s: float) -> None:
        while True:
            self._killed += await asyncio.to_thread(kill_children, self._stack.pid)
            await asyncio.sleep(every_s)

    @property
    def _target(self) -> Target:
        return Target(self._stack.url, self._stack.key or None, timeout_s=30.0)

    def _writing(self, experiment: Experiment, load: Load, seed: int) -> Writing:
        return Writing(
            self._target, self._stack.namespace, name=f"ledger-{seed}", elapsed_s=lambda: load.elapsed_s,
            for_s=experiment.for_s, pages=experiment.pages, served=asked_about(documents()) if experiment.rewrites else None,
            redrives=experiment.expect.writes == "failed",
        )  # fmt: skip

    def _asking(self, experiment: Experiment, queries: Sequence[str]) -> Asking:
        receivers = self._receivers
        assert receivers, "an experiment with jobs needs the receivers that are played"
        return Asking(
            self._target, self._stack.namespace, rate=experiment.jobs, queries=itertools.cycle(reversed(queries)),
            receiver=receivers.webhook, told=lambda: receivers.told,
        )  # fmt: skip

    def _load(self, experiment: Experiment, queries: Sequence[str], seed: int) -> Load:
        return Load(
            self._stack.url, self._stack.key or None, namespace=self._stack.namespace, queries=queries,
            rate=self._pace.rate, zipf=0.0, answers=1.0 if experiment.answers else 0.0, top_k=5, seed=seed,
        )  # fmt: skip

    async def _capacity(self, queries: Sequence[str]) -> float:
        """Good answers a second to so many callers that ask again as soon as they have their answer."""
        loop = asyncio.get_running_loop()
        until, turn, done = loop.time() + self._pace.before_s, itertools.cycle(reversed(queries)), 0
        headers = {"Authorization": f"Bearer {self._stack.key}"} if self._stack.key else {}

        async def caller(session: aiohttp.ClientSession) -> None:
            nonlocal done
            while loop.time() < until:
                body = {"query": next(turn), "namespace": self._stack.namespace, "top_k": 5}
                async with session.post(f"{self._stack.url}/v1/search", json=body) as answer:
                    await answer.read()
                    done += answer.status == 200

        async with aiohttp.ClientSession(headers=headers) as session:
            await asyncio.gather(*(caller(session) for _ in range(AT_ONCE)))
        return done / self._pace.before_s


async def _ended(tasks: Collection[asyncio.Task[None]]) -> None:
    """Raises what one of them has raised: what it was to do was not done."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


def _trouble(fault: Fault) -> Behaviour:
    return replace(WELL, first_token_s=fault.by) if fault.kind == "slow" else TROUBLES[fault.kind]


def asked_about(served: Mapping[str, str]) -> dict[str, str]:
    """Those of `served` that repeated queries ask about."""
    return {name: text for name, text in served.items() if name.startswith(TOPICS[:REPEATED])}


def _told(where: Mapping[str, str]) -> str:
    return ", ".join(f"{target} fails {place}" for target, place in where.items())


def _queries(experiment: Experiment, seed: int) -> list[str]:
    dice = random.Random(seed)
    if experiment.queries == "repeated":
        return [f"When was the {topic} restored?" for topic in TOPICS[:REPEATED]]
    return [f"Which {dice.choice(TOPICS)} {dice.choice(FACTS)} the year {seed}{n:05d}?" for n in range(FRESH)]


def _served_enough(verdict: Verdict, capacity: float) -> Verdict:
    """Of overload: what the process could do before it, it does now, or nearly."""
    least = 0.9 * capacity
    if verdict.during.rate >= least:
        return verdict
    words = f"{verdict.during.rate:.1f} served a second under overload, of the {capacity:.1f} that it can"
    return replace(verdict, faults=(*verdict.faults, words))
