"""Many followers on one pulse: nobody misses an event, those that stand together read once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ragline.clock import SystemClock
from ragline.connections.database import sqlite_url
from ragline.errors import EngineUnavailable
from ragline.job_watching import MOST_EVENTS, READS_AT_ONCE, JobWatching
from ragline.jobstores.sql import SqlJobStore
from ragline.testing.jobstores import ROOM, done, failed, generating, order
from ragline.types import JobEvent, NewEvent


class Counting(SqlJobStore):
    """Counts the reads of events. `deaf`: pulses are lost."""

    reads = 0
    at_once = 0
    most_at_once = 0
    deaf = False

    async def events(self, id: str, *, after: int, most: int) -> list[JobEvent]:
        self.reads += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await super().events(id, after=after, most=most)
        finally:
            self.at_once -= 1

    def watch(self, told: Callable[[str | None], None]) -> None:
        super().watch(lambda job: None if self.deaf else told(job))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Counting]:
    store = await Counting.open(sqlite_url(tmp_path / "jobs.sqlite"), SystemClock())
    assert isinstance(store, Counting)
    yield store
    await store.aclose()


@pytest.fixture
async def watching(store: Counting) -> AsyncIterator[JobWatching]:
    watching = JobWatching(store)
    yield watching
    await watching.aclose()


async def _all(events: AsyncGenerator[Sequence[JobEvent], None]) -> list[tuple[int, str, str]]:
    return [(one.id, one.name, one.data) async for found in events for one in found]


async def _next(events: AsyncGenerator[Sequence[JobEvent], None]) -> list[str]:
    async with asyncio.timeout(30):
        return [one.name for one in await anext(events)]


async def test_everything_from_any_place_on_is_the_same(store: Counting, watching: JobWatching) -> None:
    job = await generating(store)
    for n in range(20):
        await store.append(job.id, job.attempt, [NewEvent("token", f'{{"text":"{n}"}}')])
    await store.finish(job.id, job.attempt, done())
    whole = await _all(watching.follow(job.id, after=0))
    assert len(whole) == 26
    for after in range(len(whole)):
        assert await _all(watching.follow(job.id, after=after)) == whole[after:]


async def test_more_events_than_one_read_takes(store: Counting, watching: JobWatching) -> None:
    job = await generating(store)
    await store.append(job.id, job.attempt, [NewEvent("token")] * (2 * MOST_EVENTS + 3))
    await store.finish(job.id, job.attempt, done())
    assert len(await _all(watching.follow(job.id, after=0))) == 4 + 2 * MOST_EVENTS + 3 + 2


async def test_an_end_that_is_the_last_event_of_a_full_read_ends_the_stream(
    store: Counting, watching: JobWatching
) -> None:
    job = await generating(store)
    told = len(await store.events(job.id, after=0, most=MOST_EVENTS))
    await store.append(job.id, job.attempt, [NewEvent("token")] * (MOST_EVENTS - told - len(done().events)))
    await store.finish(job.id, job.attempt, done())
    async with asyncio.timeout(30):
        whole = await _all(watching.follow(job.id, after=0))
    assert len(whole) == MOST_EVENTS
    assert whole[-1][1] == "done"


async def test_a_follower_hears_what_comes_and_ends_with_the_job(store: Counting, watching: JobWatching) -> None:
    job, _ = await store.accept(order(), ROOM)
    events = watching.follow(job.id, after=0)
    assert await _next(events) == ["queued"]
    (claimed,) = await store.claim("retrieval", most=1, lease_s=60.0)
    assert await _next(events) == ["retrieving"]
    await store.finish(job.id, claimed.attempt, done())
    assert await _next(events) == ["token", "done"]
    with pytest.raises(StopAsyncIteration):
        await anext(events)


async def test_a_job_that_is_begun_again_is_followed_to_its_last_end(store: Counting, watching: JobWatching) -> None:
    job, _ = await store.accept(order(), ROOM)

    await store.cancel(job.id, failed("cancelled"))
    await store.retry(job.id, deadline_s=60.0, limits=ROOM)
    events = watching.follow(job.id, after=0)
    assert await _next(events) == ["queued", "failed", "queued"]
    (claimed,) = await store.claim("retrieval", most=1, lease_s=60.0)
    assert await _next(events) == ["retrieving"]
    await store.finish(job.id, claimed.attempt, done())
    assert (await _next(events))[-1] == "done"


async def test_hundreds_that_stand_together_read_together(store: Counting, watching: JobWatching) -> None:
    job = await generating(store)
    many = 300
    following = [asyncio.create_task(_all(watching.follow(job.id, after=0))) for _ in range(many)]
    while len(watching._followed.get(job.id, _Nobody()).followers) < many:
        await asyncio.sleep(0)
    for n in range(10):
        await store.append(job.id, job.attempt, [NewEvent("token", f'{{"text":"{n}"}}')])
    await store.finish(job.id, job.attempt, done())
    told = await asyncio.gather(*following)
    assert len(told[0]) == 4 + 10 + 2
    assert all(one == told[0] for one in told)
    assert store.reads < many  # a dozen pulses, not 3,600
    assert watching._followed == {}


async def test_followers_of_many_jobs_that_move_together_take_turns_at_the_store(
    store: Counting, watching: JobWatching
) -> None:
    """Else thousands would ask at once, and the last of them in vain."""
    many = 100
    jobs = [(await store.accept(order(), ROOM))[0].id for _ in range(many)]
    following = [watching.follow(id, after=0) for id in jobs]
    assert await asyncio.gather(*map(_next, following)) == [["queued"]] * many
    hearing = [asyncio.create_task(_next(events)) for events in following]
    await store.claim("retrieval", most=many, lease_s=60.0)
    assert await asyncio.gather(*hearing) == [["retrieving"]] * many
    assert store.most_at_once == READS_AT_ONCE
    for events in following:
        await events.aclose()


class _Nobody:
    followers: frozenset[Any] = frozenset()


async def test_a_pulse_that_was_lost_is_made_up_for_by_the_beat(store: Counting, watching: JobWatching) -> None:
    job, _ = await store.accept(order(), ROOM)
    events = watching.follow(job.id, after=0)
    assert await _next(events) == ["queued"]
    store.deaf = True
    await store.claim("retrieval", most=1, lease_s=60.0)
    waiting = asyncio.create_task(_next(events))
    await asyncio.sleep(0)
    await watching.beat()
    assert await waiting == ["retrieving"]
    await events.aclose()


async def test_a_beat_without_news_says_that_the_line_stands_and_reads_nothing(
    store: Counting, watching: JobWatching
) -> None:
    job, _ = await store.accept(order(), ROOM)
    events = watching.follow(job.id, after=0)
    assert await _next(events) == ["queued"]
    for _ in range(3):
        waiting = asyncio.create_task(_next(events))
        await asyncio.sleep(0)
        reads = store.reads
        await watching.beat()
        assert await waiting == []
        assert store.reads == reads
    await events.aclose()
    assert watching._followed == {}


async def test_a_store_that_is_away_at_the_beat_leaves_the_lines_standing(
    store: Counting, watching: JobWatching, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(ids: Sequence[str]) -> dict[str, int]:
        raise EngineUnavailable("It is away.", next_step="Wait.", engine="jobs")

    job, _ = await store.accept(order(), ROOM)
    events = watching.follow(job.id, after=0)
    await _next(events)
    monkeypatch.setattr(store, "latest", away)
    waiting = asyncio.create_task(_next(events))
    await asyncio.sleep(0)
    await watching.beat()
    assert await waiting == []
    await events.aclose()


async def test_an_event_told_while_a_read_is_under_way_is_not_missed(
    store: Counting, watching: JobWatching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower that was woken by it must not share the read that began before it."""
    job = await generating(store)
    began, go_on = asyncio.Event(), asyncio.Event()
    real = store.events

    async def slow(id: str, *, after: int, most: int) -> list[JobEvent]:
        found = await real(id, after=after, most=most)
        if after == 4 and not began.is_set():
            began.set()
            await go_on.wait()
        return found

    monkeypatch.setattr(store, "events", slow)
    early = asyncio.create_task(_all(watching.follow(job.id, after=4)))
    await began.wait()  # it has read that there is nothing, and does not know it yet
    await store.append(job.id, job.attempt, [NewEvent("token")])
    late = watching.follow(job.id, after=4)
    assert await _next(late) == ["token"]
    go_on.set()
    await store.finish(job.id, job.attempt, done())
    assert [name for _, name, _ in await early] == ["token", "token", "done"]
    assert await _next(late) == ["token", "done"]


async def test_closing_ends_every_stream(store: Counting, watching: JobWatching) -> None:
    job, _ = await store.accept(order(), ROOM)
    following = [asyncio.create_task(_all(watching.follow(job.id, after=0))) for _ in range(5)]
    while len(watching._followed.get(job.id, _Nobody()).followers) < 5:
        await asyncio.sleep(0)
    await watching.aclose()
    await watching.aclose()
    assert [[name for _, name, _ in told] for told in await asyncio.gather(*following)] == [["queued"]] * 5
