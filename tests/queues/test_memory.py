"""The queue inside one process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ragline.clock import SystemClock
from ragline.protocols import JobQueue
from ragline.queues import memory
from ragline.queues.memory import InProcessJobQueue
from ragline.testing.queues import JobQueueContract


class Watch:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class TestContract(JobQueueContract):
    AGAIN_S = 0.1

    @pytest.fixture
    def connect(self) -> Callable[[], JobQueue]:
        return lambda: InProcessJobQueue(SystemClock(), again_s=self.AGAIN_S)


async def test_oldest_first_and_once_however_often_it_is_told() -> None:
    jobs = InProcessJobQueue(SystemClock())
    for job in ("b", "a", "b", "c", "a"):
        await jobs.notify("generation", job)
    assert [wake.job for wake in await jobs.wait("generation", most=9, within_s=0)] == ["b", "a", "c"]
    assert await jobs.wait("generation", most=9, within_s=0) == []


async def test_it_comes_again_by_the_clock_and_not_before() -> None:
    watch = Watch()
    jobs = InProcessJobQueue(watch, again_s=60)
    await jobs.notify("retrieval", "a")
    (wake,) = await jobs.wait("retrieval", most=1, within_s=0)
    watch.at += 59.9
    assert await jobs.wait("retrieval", most=1, within_s=0) == []
    watch.at += 0.2
    (again,) = await jobs.wait("retrieval", most=1, within_s=0)
    assert again.job == wake.job
    await jobs.settle("retrieval", [wake])
    watch.at += 61
    assert [one.job for one in await jobs.wait("retrieval", most=1, within_s=0)] == ["a"], (
        "settling an old wake is not it"
    )


async def test_it_cannot_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MOST_WAITING", 3)
    jobs = InProcessJobQueue(SystemClock())
    for n in range(10):
        await jobs.notify("retrieval", str(n))
    assert [wake.job for wake in await jobs.wait("retrieval", most=9, within_s=0)] == ["7", "8", "9"]
