"""The contract of `JobQueue`, as tests. `JobQueueContract` for every adapter, `ServedJobQueueContract` for those on a server.

class TestMine(ServedJobQueueContract):
    @pytest.fixture
    def connect(self):
        url = queues of its own for each test, where a wake that is not settled comes again after a second
        return lambda: MyJobQueue(url)
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import suppress

import pytest
import pytest_asyncio

from ragline.errors import EngineError, EngineTimeout, EngineUnavailable
from ragline.protocols import JobQueue
from ragline.types import QueueName, Wake

WITHIN_S = 60.0
"""For what must arrive. Nothing is asserted about how long it took."""


async def take(jobs: JobQueue, expected: Collection[str], queue: QueueName = "retrieval") -> list[Wake]:
    """Wakes until each of `expected` has come, settled as they come, as a worker does; some may come twice."""
    found: list[Wake] = []
    async with asyncio.timeout(WITHIN_S):
        while not set(expected) <= {wake.job for wake in found}:
            some = await jobs.wait(queue, most=10, within_s=1.0)
            await jobs.settle(queue, some)
            found += some
    return found


async def first(jobs: JobQueue, queue: QueueName = "retrieval") -> Wake:
    """The next wake, not settled."""
    async with asyncio.timeout(WITHIN_S):
        while not (found := await jobs.wait(queue, most=1, within_s=1.0)):
            pass
    return found[0]


@pytest.mark.asyncio
class JobQueueContract:
    AGAIN_S = 1.0
    """After which, in your fixture, a wake that was not settled comes again."""

    @pytest.fixture
    def connect(self) -> Callable[[], JobQueue]:
        """Yours: a function that opens the adapter, each time on the same queues."""
        raise NotImplementedError

    @pytest_asyncio.fixture
    async def jobs(self, connect: Callable[[], JobQueue]) -> AsyncIterator[JobQueue]:
        jobs = connect()
        yield jobs
        await jobs.aclose()

    async def nothing_comes(self, jobs: JobQueue, queue: QueueName = "retrieval") -> None:
        """Not for longer than what is not settled takes to come again."""
        assert await jobs.wait(queue, most=10, within_s=2.5 * self.AGAIN_S) == []

    @pytest.mark.parametrize("queue", ["retrieval", "generation"])
    async def test_a_job_that_is_due_is_told_once_and_settled(self, jobs: JobQueue, queue: QueueName) -> None:
        await jobs.notify(queue, "job-1")
        assert {wake.job for wake in await take(jobs, ["job-1"], queue)} == {"job-1"}
        await self.nothing_comes(jobs, queue)

    async def test_it_can_be_worked_with(self, jobs: JobQueue) -> None:
        await jobs.check()

    async def test_nothing_is_due(self, jobs: JobQueue) -> None:
        assert await jobs.wait("retrieval", most=5, within_s=0.0) == []
        assert await jobs.wait("retrieval", most=5, within_s=0.05) == []
        await jobs.settle("retrieval", [])

    async def test_the_two_queues_are_apart(self, jobs: JobQueue) -> None:
        await jobs.notify("retrieval", "job-1")
        await jobs.notify("generation", "job-2")
        assert {wake.job for wake in await take(jobs, ["job-2"], "generation")} == {"job-2"}
        assert {wake.job for wake in await take(jobs, ["job-1"], "retrieval")} == {"job-1"}

    async def test_a_waiter_that_waits_already_is_woken(self, jobs: JobQueue) -> None:
        waiting = asyncio.create_task(first(jobs))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not waiting.done()
        await jobs.notify("retrieval", "job-1")
        assert (await waiting).job == "job-1"

    async def test_what_is_not_settled_comes_again(self, jobs: JobQueue) -> None:
        await jobs.notify("retrieval", "job-1")
        wake = await first(jobs)
        assert (await first(jobs)).job == wake.job
        await take(jobs, ["job-1"])
        await self.nothing_comes(jobs)

    async def test_settled_late_and_twice_is_harmless(self, jobs: JobQueue) -> None:
        await jobs.notify("retrieval", "job-1")
        stale = await first(jobs)
        again = await first(jobs)
        await jobs.settle("retrieval", [again, again])
        await jobs.settle("retrieval", [again])
        await jobs.settle("retrieval", [stale])
        await self.nothing_comes(jobs)
        await jobs.notify("retrieval", "job-2")
        assert {wake.job for wake in await take(jobs, ["job-2"])} == {"job-2"}

    async def test_told_many_times_and_mixed_up_every_job_comes(self, jobs: JobQueue) -> None:
        told = [f"job-{n}" for n in range(8)] * 3
        random.Random(6).shuffle(told)
        for job in told:
            await jobs.notify("retrieval", job)
        found = await take(jobs, set(told))
        while some := await jobs.wait("retrieval", most=10, within_s=2.5 * self.AGAIN_S):
            await jobs.settle("retrieval", some)
            found += some
            assert len(found) <= len(told), "what was settled comes again"

    async def test_no_more_than_asked_for_and_more_than_a_batch_of_the_vendor(self, jobs: JobQueue) -> None:
        expected = {f"job-{n}" for n in range(25)}
        await asyncio.gather(*(jobs.notify("retrieval", job) for job in expected))
        assert len(await jobs.wait("retrieval", most=3, within_s=WITHIN_S)) in (1, 2, 3)
        found: list[Wake] = []
        async with asyncio.timeout(WITHIN_S):
            while {wake.job for wake in found} != expected:
                some = await jobs.wait("retrieval", most=50, within_s=1.0)
                found += some
                await jobs.settle("retrieval", some)
        await jobs.settle("retrieval", found)

    async def test_several_waiters_share(self, jobs: JobQueue) -> None:
        expected = {f"job-{n}" for n in range(30)}
        found: list[str] = []

        async def work() -> None:
            while not expected <= set(found):
                some = await jobs.wait("retrieval", most=2, within_s=0.5)
                await jobs.settle("retrieval", some)
                found.extend(wake.job for wake in some)

        waiters = [asyncio.create_task(work()) for _ in range(4)]
        for job in sorted(expected):
            await jobs.notify("retrieval", job)
        async with asyncio.timeout(WITHIN_S):
            await asyncio.gather(*waiters)
        assert set(found) == expected
        assert len(found) < 2 * len(expected), "a wake is one waiter's"

    async def test_a_wait_that_is_cancelled_loses_nothing(self, jobs: JobQueue) -> None:
        found: set[str] = set()
        turns = random.Random(6)
        for n in range(30):
            waiting = asyncio.create_task(jobs.wait("retrieval", most=2, within_s=WITHIN_S))
            for _ in range(turns.randrange(4)):
                await asyncio.sleep(0)
            await jobs.notify("retrieval", f"job-{n}")
            for _ in range(turns.randrange(4)):
                await asyncio.sleep(0)
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                found.update(wake.job for wake in await waiting)
        missing = {f"job-{n}" for n in range(30)} - found
        if missing:
            await take(jobs, missing)

    async def test_closed_says_so_and_closes_twice(self, connect: Callable[[], JobQueue]) -> None:
        jobs = connect()
        await jobs.notify("retrieval", "job-1")
        wake = await first(jobs)
        await jobs.aclose()
        await jobs.aclose()
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: jobs.notify("retrieval", "job-2"),
            lambda: jobs.wait("retrieval", most=1, within_s=0.1),
            lambda: jobs.settle("retrieval", [wake]),
            jobs.check,
        ]
        for call in calls:
            with pytest.raises(EngineUnavailable, match="closed"):
                await call()


class ServedJobQueueContract(JobQueueContract):
    """Beside the contract: the server goes away and comes again, and processes share it."""

    ASKS = True
    """Whether `wait` asks the server; one that is pushed to asks nobody."""

    @pytest.fixture
    def away(self) -> JobQueue:
        """Yours: an adapter whose server is at an address where nobody listens, and which gives up after a second or two."""
        raise NotImplementedError

    @pytest.fixture
    def server(self) -> tuple[Callable[[], JobQueue], Callable[[], None], Callable[[], None]]:
        """Yours: opens the adapter on a server of this test alone; stops that server; starts it again, with its queues."""
        raise NotImplementedError

    async def test_what_a_process_has_not_settled_goes_to_another(self, connect: Callable[[], JobQueue]) -> None:
        one = connect()
        await one.notify("retrieval", "job-1")
        await first(one)
        await one.aclose()
        two = connect()
        await take(two, ["job-1"])
        await two.aclose()

    async def test_a_server_that_is_away_is_an_error_of_our_tree(self, away: JobQueue) -> None:
        calls: list[Callable[[], Awaitable[object]]] = [lambda: away.notify("retrieval", "job-1"), away.check]
        if self.ASKS:
            calls.append(lambda: away.wait("retrieval", most=1, within_s=1.0))
        for call in calls:
            with pytest.raises((EngineUnavailable, EngineTimeout)) as said:
                await call()
            assert said.value.next_step
        await away.aclose()

    async def test_after_a_restart_of_the_server_it_goes_on(
        self, server: tuple[Callable[[], JobQueue], Callable[[], None], Callable[[], None]]
    ) -> None:
        connect, stop, start = server
        jobs = connect()
        await jobs.notify("retrieval", "job-1")
        await take(jobs, ["job-1"])
        stop()
        with pytest.raises(EngineError):
            await jobs.notify("retrieval", "job-2")
        start()
        async with asyncio.timeout(WITHIN_S):
            while True:  # a client may wait a moment before it connects again
                try:
                    await jobs.notify("retrieval", "job-3")
                    break
                except EngineUnavailable:
                    await asyncio.sleep(0.05)
        await take(jobs, ["job-3"])
        await jobs.aclose()
