"""The whole job path on other engines: jobs in Redis, wakes by each queue; and a queue that does all that one may do wrong."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ragline.api.app import worker
from ragline.build import build
from ragline.clock import SystemClock
from ragline.errors import ConfigurationError, EngineRejected
from ragline.job_workers import JobWorker
from ragline.jobs import Jobs
from ragline.jobstores.redis import RedisJobStore
from ragline.queues.memory import InProcessJobQueue
from ragline.queues.redis import RedisJobQueue
from ragline.settings import JobsSettings, Settings
from ragline.system import System
from ragline.types import QUEUES, JobState, QueueName, Wake
from tests.engines import cloudtasks_door
from tests.engines.cloudtasks import Emulator
from tests.engines.elasticmq import ElasticMQ
from tests.engines.redis import Redis
from tests.job_house import JobHouse, Scripted, says

WITHIN_S = 60.0
MANY = 12


@asynccontextmanager
async def built(folder: Path, **jobs: str) -> AsyncIterator[JobHouse]:
    system = await build(Settings(data_dir=folder, jobs=JobsSettings.model_validate(jobs)))
    try:
        house = JobHouse(system)
        await house.fill()
        yield house
    finally:
        await system.aclose()


@asynccontextmanager
async def working(system: System) -> AsyncIterator[None]:
    running = asyncio.create_task(system.work(["retrieve", "generate"]))
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])


async def answered(house: JobHouse, *, told: Callable[[], bool] = lambda: True) -> None:
    """Many questions become as many answers, each generated once; and `told`."""
    scripted = Scripted()
    says(house.system, scripted)
    ids = [(await house.ask(f"How many days to return an item, case {n}?")).id for n in range(MANY)]
    async with asyncio.timeout(WITHIN_S), working(house.system):
        while not all([(await house.store.get(id)).queue is None for id in ids]) or not told():
            await asyncio.sleep(0.02)
    jobs = [await house.store.get(id) for id in ids]
    assert {job.state for job in jobs} == {JobState.DONE}
    assert len(scripted.asked) == MANY
    for id in ids:
        names = await house.names(id)
        assert (names.count("retrieving"), names.count("done"), names.count("restarted")) == (1, 1, 0)
    assert await house.store.lengths() == {"retrieval": 0, "generation": 0}


class Heard:
    """Which wakes came by the queue, whatever it is."""

    def __init__(self, system: System, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wakes: dict[QueueName, int] = dict.fromkeys(QUEUES, 0)
        queue = system.job_queue
        wait = queue.wait

        async def listening(name: QueueName, *, most: int, within_s: float) -> list[Wake]:
            found = await wait(name, most=most, within_s=within_s)
            self.wakes[name] += len(found)
            return found

        monkeypatch.setattr(queue, "wait", listening)

    def both(self) -> bool:
        return all(self.wakes.values())


async def test_jobs_in_redis_wake_workers_by_its_streams(
    own_redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with built(tmp_path, url=own_redis.url()) as house:
        assert isinstance(house.store, RedisJobStore)
        assert isinstance(house.system.job_queue, RedisJobQueue), "without a setting"
        heard = Heard(house.system, monkeypatch)
        await answered(house, told=heard.both)


async def test_wakes_by_sqs(elasticmq: ElasticMQ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    async with built(tmp_path, queue=elasticmq.url()) as house:
        heard = Heard(house.system, monkeypatch)
        await answered(house, told=heard.both)


async def test_wakes_by_cloud_tasks_through_the_workers_own_route(
    cloudtasks: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cloudtasks_door.door() as door:
        url = f"cloudtasks://tests/here/{cloudtasks.queues()}?{door.words()}&endpoint={cloudtasks.host}&hold_s=1"
        async with built(tmp_path, queue=url) as house:
            door.app = worker(house.system, owner_token="t")
            heard = Heard(house.system, monkeypatch)
            await answered(house, told=heard.both)


async def test_a_queue_that_is_not_there_stops_the_start(
    elasticmq: ElasticMQ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with pytest.raises(EngineRejected, match="no such queue"):
        await build(Settings(data_dir=tmp_path, jobs=JobsSettings(queue=elasticmq.url("nosuch"))))


async def test_the_caches_redis_is_refused_for_jobs(redis: Redis, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="may lose accepted jobs"):
        await build(Settings(data_dir=tmp_path, jobs=JobsSettings(url=redis.url())))


class UnrulyQueue(InProcessJobQueue):
    """Says things twice, in any order, late or never, and names jobs that are not there."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self._dice = random.Random(6)
        self._kept: list[tuple[QueueName, str]] = []

    async def notify(self, queue: QueueName, job: str) -> None:
        self._kept += [(queue, job)] * self._dice.choice((0, 1, 3))
        self._kept.append((queue, "0" * 32))
        self._dice.shuffle(self._kept)
        while len(self._kept) > 4:
            await super().notify(*self._kept.pop())

    async def settle(self, queue: QueueName, wakes: Sequence[Wake]) -> None:
        if self._dice.random() < 0.5:
            await super().settle(queue, wakes)
        for wake in wakes:
            if self._dice.random() < 0.3:
                await super().notify(queue, wake.job)


async def test_a_queue_that_says_things_twice_late_never_and_mixed_up_changes_nothing(tmp_path: Path) -> None:
    async with built(tmp_path) as house:
        system, queue = house.system, UnrulyQueue()
        jobs = Jobs(
            store=house.store, queue=queue, search=system.search, answers=system.jobs.answers, clock=system.clock,
            settings=system.settings.jobs,
        )  # fmt: skip
        scripted = Scripted()
        jobs.answers = type(system.jobs.answers)(
            search=system.search,
            generators=[scripted],
            embedder=system.embedder,
            settings=system.settings.query,
            clock=system.clock,
        )
        system.jobs.notify = jobs.notify  # type: ignore[method-assign]
        ids = [(await house.ask(f"How many days to return an item, case {n}?")).id for n in range(MANY)]
        loops = [
            asyncio.create_task(
                JobWorker(name, jobs=jobs, queue=queue, clock=system.clock, settings=system.settings.jobs).run()
            )
            for name in QUEUES
            for _ in range(2)
        ]
        async with asyncio.timeout(WITHIN_S):
            while not all([(await house.store.get(id)).queue is None for id in ids]):
                await asyncio.sleep(0.02)
        for loop in loops:
            loop.cancel()
        await asyncio.wait(loops)
        assert {(await house.store.get(id)).state for id in ids} == {JobState.DONE}
        assert len(scripted.asked) == MANY
