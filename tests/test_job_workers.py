"""The loops: woken by a word or by the clock, never more at a time than they may, and giving back what they cannot finish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from ragline import metrics
from ragline.build import build
from ragline.errors import EngineDenied, EngineError, EngineUnavailable
from ragline.job_workers import JobUpkeep, JobWorker
from ragline.jobs import Jobs
from ragline.queues.memory import InProcessJobQueue
from ragline.settings import JobsSettings, Settings
from ragline.system import System
from ragline.types import Job, JobState, QueueName, Wake
from tests.job_house import JobHouse, Scripted, says

WITHIN_S = 60.0


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    settings = JobsSettings(generations=2, retrievals=2, drain_s=0.0, lease_s=30.0)
    system = await build(Settings(data_dir=tmp_path, jobs=settings))
    yield system
    await system.aclose()


@pytest.fixture
async def house(system: System) -> JobHouse:
    house = JobHouse(system)
    await house.fill()
    return house


class DeafQueue(InProcessJobQueue):
    """Away: nobody can be told, nobody hears."""

    async def notify(self, queue: QueueName, job: str) -> None:
        raise EngineUnavailable("The queue is away.", next_step="Wait.", engine="queue:test")

    async def wait(self, queue: QueueName, *, most: int, within_s: float) -> list[Wake]:
        raise EngineUnavailable("The queue is away.", next_step="Wait.", engine="queue:test")


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not await holds():
            await asyncio.sleep(0.01)


async def _ended(house: JobHouse, ids: list[str]) -> bool:
    return all([(await house.store.get(id)).queue is None for id in ids])


async def _stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _worker(house: JobHouse, name: QueueName, jobs: Jobs | None = None) -> JobWorker:
    system = house.system
    queue = InProcessJobQueue(system.clock)
    return JobWorker(name, jobs=jobs or system.jobs, queue=queue, clock=system.clock, settings=system.settings.jobs)


async def test_all_jobs_are_done_and_never_more_at_a_time_than_may(house: JobHouse) -> None:
    at_once, most, both = 0, 0, asyncio.Event()

    class Counted(Scripted):
        async def generate(self, prompt, *, max_tokens):  # type: ignore[no-untyped-def]
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            if at_once == 2:
                both.set()
            try:
                await both.wait()
                async for token in super().generate(prompt, max_tokens=max_tokens):
                    yield token
            finally:
                at_once -= 1

    says(house.system, Counted())
    working = asyncio.create_task(house.system.work(["retrieve", "generate"]))
    ids = [(await house.ask()).id for _ in range(12)]
    await _until(lambda: _ended(house, ids))
    await _stopped(working)
    assert [(await house.store.get(id)).state for id in ids] == [JobState.DONE] * 12
    assert most == 2


async def test_a_queue_that_is_away_costs_time_and_no_job(house: JobHouse) -> None:
    says(house.system, Scripted())
    system = house.system
    deaf = DeafQueue(system.clock)
    jobs = Jobs(
        store=system.jobs.store, queue=deaf, search=system.search, answers=system.jobs.answers, clock=system.clock,
        settings=system.settings.jobs,
    )  # fmt: skip
    names: tuple[QueueName, ...] = ("retrieval", "generation")
    workers = [JobWorker(n, jobs=jobs, queue=deaf, clock=system.clock, settings=system.settings.jobs) for n in names]
    working = [asyncio.create_task(worker.run()) for worker in workers]
    object.__setattr__(system, "jobs", jobs)
    id = (await house.ask()).id
    await _until(lambda: _ended(house, [id]))
    assert (await house.store.get(id)).state is JobState.DONE
    for task in working:
        await _stopped(task)


async def test_a_worker_that_stops_gives_back_and_another_finishes(house: JobHouse) -> None:
    steps = asyncio.Semaphore(1)
    stuck = Scripted(steps=steps)
    says(house.system, stuck)
    job = await house.ask()
    await house.retrieve()
    working = asyncio.create_task(_worker(house, "generation").run())
    await stuck.said.wait()
    await _stopped(working)
    assert stuck.closed == 1
    says(house.system, Scripted())
    later = await house.generate()  # claimed at once: it was given back, its lease need not end
    assert later.state is JobState.DONE
    assert (await house.names(job.id)).count("done") == 1


async def test_a_worker_that_may_finish_in_time_does(system: System, house: JobHouse) -> None:
    steps = asyncio.Semaphore(1)
    slow = Scripted(steps=steps)
    says(system, slow)
    job = await house.ask()
    await house.retrieve()
    settings = system.settings.jobs.model_copy(update={"drain_s": WITHIN_S})
    queue = InProcessJobQueue(system.clock)
    worker = JobWorker("generation", jobs=system.jobs, queue=queue, clock=system.clock, settings=settings)
    working = asyncio.create_task(worker.run())
    await slow.said.wait()
    working.cancel()
    for _ in slow.pieces:
        steps.release()
    await asyncio.gather(working, return_exceptions=True)
    assert (await house.store.get(job.id)).state is JobState.DONE


@pytest.mark.parametrize("kind", [EngineUnavailable, EngineDenied])
async def test_an_engine_that_is_away_or_wants_its_account_mended_is_waited_for(
    house: JobHouse, monkeypatch: pytest.MonkeyPatch, kind: type[EngineError]
) -> None:
    async def away(request: object) -> object:
        raise kind("Both legs are away.", next_step="Wait.", engine="vectors")

    monkeypatch.setattr(house.system.jobs.answers, "passages", away)
    job = await house.ask()
    worker = _worker(house, "retrieval")
    await worker._one(await house.claim("retrieval"))
    found = await house.store.get(job.id)
    assert (found.state, found.queue) == (JobState.RETRIEVING, "retrieval")
    assert await house.store.claim("retrieval", most=1, lease_s=60.0) == []  # later, not at once


async def test_what_cannot_come_right_ends_the_job_in_words(house: JobHouse) -> None:
    job = await house.ask()
    await house.system.namespaces.delete("default")
    house.system.snapshots.forget("default")
    await _worker(house, "retrieval")._one(await house.claim("retrieval"))
    found = await house.store.get(job.id)
    assert (found.state, found.reason) == (JobState.FAILED, "not_found")
    assert "default" in found.detail
    assert found.next_step


async def test_a_defect_is_tried_again_and_then_fails_its_own_job_only(
    house: JobHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(job: Job) -> None:
        raise ZeroDivisionError

    worker = _worker(house, "retrieval")
    monkeypatch.setattr(worker, "_stage", broken)
    job = await house.ask()
    for attempt in (1, 2, 3):
        claimed = await house.claim("retrieval")
        assert claimed.attempt == attempt
        await worker._one(claimed)
        now = await house.store.get(job.id)
        if attempt < 3:
            assert now.state is JobState.RETRIEVING
            await house.store.release(job.id, now.attempt, after_s=0.0)
    assert (now.state, now.reason) == (JobState.FAILED, "defect")
    assert "ZeroDivisionError" in now.detail


async def test_a_job_that_was_cancelled_elsewhere_is_stopped_though_its_model_is_silent(
    house: JobHouse,
) -> None:
    steps = asyncio.Semaphore(1)
    silent = Scripted(steps=steps)
    says(house.system, silent)
    system = house.system
    settings = system.settings.jobs.model_copy(update={"lease_s": 0.3})
    queue = InProcessJobQueue(system.clock)
    worker = JobWorker("generation", jobs=system.jobs, queue=queue, clock=system.clock, settings=settings)
    job = await house.ask()
    await house.retrieve()
    working = asyncio.create_task(worker.run())
    await silent.said.wait()
    await house.store.cancel(job.id, system.jobs.failed(job, "cancelled", "By another process.", "None."))

    async def closed() -> bool:
        return silent.closed == 1

    await _until(closed)
    await _stopped(working)


async def test_an_overdue_job_stops_whoever_is_at_it_here(house: JobHouse) -> None:
    steps = asyncio.Semaphore(1)
    silent = Scripted(steps=steps)
    says(house.system, silent)
    job = await house.ask(deadline_s=1.0)
    await house.retrieve()
    working = asyncio.create_task(house.system.work(["generate"]))
    await silent.said.wait()
    await _until(lambda: _ended(house, [job.id]))

    async def closed() -> bool:
        return silent.closed == 1

    await _until(closed)
    await _stopped(working)
    found = await house.store.get(job.id)
    assert (found.state, found.reason) == (JobState.FAILED, "deadline")


async def test_of_two_processes_one_exports_the_lengths_and_lets_go_when_it_cannot_say(
    house: JobHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = house.system

    def upkeep() -> JobUpkeep:
        return JobUpkeep(jobs=system.jobs, workers={}, clock=system.clock, settings=system.settings.jobs)

    first, second = upkeep(), upkeep()
    await house.ask()
    await house.ask()
    await house.retrieve()
    await first.round()
    assert _exported() == {"retrieval": 1, "generation": 1}
    await second.round()  # in one process for the test: it takes down what it must not say
    assert _exported() == {}
    await first.round()
    assert _exported() == {"retrieval": 1, "generation": 1}

    async def away() -> dict[QueueName, int]:
        raise EngineUnavailable("It is away.", next_step="Wait.", engine="jobs")

    monkeypatch.setattr(system.jobs.store, "lengths", away)
    running = asyncio.create_task(first.run())

    async def silent() -> bool:
        return _exported() == {}

    await _until(silent)
    await _stopped(running)


def _exported() -> dict[str, float]:
    (family,) = metrics.queue_length.collect()
    return {sample.labels["queue"]: sample.value for sample in family.samples}
