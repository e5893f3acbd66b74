"""The job store on Redis: the contract, and what is its alone. Real servers; those that are killed keep an append-only file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
import structlog

from ragline.connections.redis import Durability
from ragline.errors import ConfigurationError, EngineError, EngineTimeout, EngineUnavailable
from ragline.jobstores.redis import RedisJobStore
from ragline.jobstores.redis_server import check
from ragline.testing.jobstores import (
    LEASE_S,
    ROOM,
    Connect,
    JobStoreContract,
    PassTime,
    done,
    failed,
    generating,
    one,
    order,
    told,
)
from ragline.types import JobLimits, JobState, NewEvent
from tests.engines import redis as engine
from tests.engines.redis import Redis

TIMES = (b"queued", b"lease", b"created", b"deadline", b"retrieved", b"finished", b"due")
"""Of jobs and deliveries."""

NO_TIMES = (b":jobs:all", b":jobs:of:")
"""Sorted sets whose scores are no times."""

KEEPS = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """That keeps what it takes, so that jobs are let in."""
    with engine.server(tmp_path_factory.mktemp("redis-jobs"), *KEEPS) as ours:
        yield ours


@pytest.fixture
def url(server: Redis) -> str:
    return server.url()


def client_of(url: str) -> Any:
    return redis.asyncio.Redis.from_url(url.partition("?")[0])


@pytest.fixture
async def client(url: str) -> AsyncIterator[Any]:
    """Past the store."""
    async with client_of(url) as client:
        yield client


@pytest.fixture
async def store(url: str) -> AsyncIterator[RedisJobStore]:
    store = await RedisJobStore.open(url)
    yield store
    await store.aclose()


class TestContract(JobStoreContract):
    @pytest.fixture
    async def connect(self, url: str) -> Connect:
        async def connect() -> RedisJobStore:
            return await RedisJobStore.open(url)

        return connect

    @pytest.fixture
    def pass_time(self, client: Any, url: str) -> PassTime:
        async def pass_time(seconds: float) -> None:
            await older(client, url.partition("prefix=")[2], seconds)

        return pass_time


async def older(client: Any, prefix: str, seconds: float) -> None:
    """All that lies there becomes older: times, places in the lines, and what goes by itself."""
    by = round(seconds * 1_000_000)
    async for key in client.scan_iter(f"{prefix}:jobs:*"):
        kind = await client.type(key)
        if kind == b"hash" and (b":job:" in key or b":delivery:" in key):
            for name in TIMES:
                if (at := await client.hget(key, name)) is not None and int(at):
                    await client.hset(key, name, int(at) - by)
        if kind == b"zset" and not any(one in key for one in NO_TIMES):
            for member, score in await client.zrange(key, 0, -1, withscores=True):
                await client.zadd(key, {member: int(score) - by})
        if (left := await client.pttl(key)) > 0:
            await client.pexpire(key, max(1, left - round(seconds * 1000)))
            if left <= seconds * 1000:
                await client.delete(key)


# ── what it keeps ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_nothing_accepted_is_lost_when_the_server_is_killed(own_redis: Redis) -> None:
    """Killed while 8 callers accept, claim and end jobs as fast as it answers, six times over."""
    url = own_redis.url(timeout_s=5)
    store = await RedisJobStore.open(url)
    answered: dict[str, str] = {}

    async def caller(n: int) -> None:
        while True:
            try:
                job, _ = await store.accept(order(idempotency_key=f"{n}-{len(answered)}"), ROOM)
                answered[job.id] = "accepted"
                for claimed in await store.claim("retrieval", most=1, lease_s=LEASE_S):
                    if await store.retrieved(
                        claimed.id, claimed.attempt, b"p", ttl_s=60.0, events=[NewEvent("passages")]
                    ):
                        answered[claimed.id] = "retrieved"
                for claimed in await store.claim("generation", most=1, lease_s=LEASE_S):
                    if await store.finish(claimed.id, claimed.attempt, done()):
                        answered[claimed.id] = "done"
            except EngineError:
                return

    for _ in range(6):
        callers = [asyncio.create_task(caller(n)) for n in range(8)]
        before = len(answered)
        async with asyncio.timeout(60):
            while len(answered) < before + 40:
                await asyncio.sleep(0.001)
        own_redis.kill()
        await asyncio.gather(*callers)
        own_redis.start()
    reached = {"accepted": 1, "retrieved": 2, "done": 3}
    places = {JobState.QUEUED: 1, JobState.RETRIEVING: 1, JobState.GENERATING: 2, JobState.DONE: 3}
    for id, what in answered.items():
        job = await store.get(id)
        assert places[job.state] >= reached[what], "it may stand further on: an answer that was lost on its way"
        events = [event.name for event in await store.events(id, after=0, most=99)]
        assert len(events) == job.events
        assert (events[-1] == "done") == (job.state is JobState.DONE)
    assert len(answered) > 200
    open_jobs = [job for job in await store.page(principal=None, state=None, most=10**6, before=None) if job.queue]
    lengths = await store.lengths()
    assert sum(lengths.values()) == len(open_jobs), "what is counted is what is there"
    await store.aclose()


async def test_a_server_that_is_away_is_told_and_comes_back(own_redis: Redis) -> None:
    store = await RedisJobStore.open(own_redis.url(timeout_s=1))
    heard: list[str | None] = []
    store.watch(heard.append)
    job, _ = await store.accept(order(), ROOM)
    own_redis.stop()
    with pytest.raises(EngineUnavailable) as away:
        await store.accept(order(), ROOM)
    assert away.value.status == 503
    own_redis.start()
    assert (await one(store, "retrieval")).id == job.id
    heard.clear()
    async with asyncio.timeout(60):
        while None not in heard:  # connected again, and told that words may be missing
            await asyncio.sleep(0.01)
    own_redis.pause()
    with pytest.raises(EngineTimeout):
        await store.accept(order(), ROOM)
    own_redis.resume()
    await store.accept(order(), ROOM)
    await store.aclose()


async def test_a_full_server_refuses_orders_and_lets_the_accepted_ones_end(tmp_path: Path) -> None:
    with engine.server(tmp_path, *KEEPS, "--maxmemory", "4mb", "--maxmemory-policy", "noeviction") as full:
        store = await RedisJobStore.open(full.url())
        accepted: list[str] = []

        async def fill() -> None:
            while len(accepted) < 10_000:
                job, _ = await store.accept(order("x" * 5_000, webhook="https://example.org/"), ROOM_FOR_ALL)
                accepted.append(job.id)

        with pytest.raises(EngineUnavailable, match="memory is full") as refused:
            await fill()
        assert refused.value.status == 503
        assert len(accepted) > 50
        assert await store.lengths() == {"retrieval": len(accepted), "generation": 0}, "the refused one left nothing"
        async with client_of(full.url()) as client:
            prefix = store._jobs.prefix
            assert await client.zcard(f"{prefix}:all") == len(accepted)
        for id in accepted:
            job = await one(store, "retrieval")
            assert job.id == id
            assert await store.retrieved(id, job.attempt, b"passages", ttl_s=60.0, events=[NewEvent("passages")])
            job = await one(store, "generation")
            assert await store.append(id, job.attempt, [NewEvent("token", '{"text": "a"}')])
            assert await store.finish(id, job.attempt, done(webhook=b"{}"))
        assert await store.lengths() == {"retrieval": 0, "generation": 0}
        for delivery in await store.claim_deliveries(most=10_000, of_host=10_000, in_flight={}, lease_s=60.0):
            assert await store.delivered(delivery.id, delivery.attempt, status=200)
        assert await store.upkeep(events_s=0.0, jobs_s=0.0) == len(accepted)
        assert (await store.accept(order(), ROOM))[1], "there is room again"
        await store.aclose()


ROOM_FOR_ALL = JobLimits(most=10**6, of_namespace=10**6)


# ── which servers it takes ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "reason", "command"),
    [
        (("--appendonly", "no"), "appendonly is no", "CONFIG SET appendonly yes"),
        (("--appendonly", "yes", "--appendfsync", "everysec"), "appendfsync is everysec", "CONFIG SET appendfsync always"),
        ((*KEEPS, "--maxmemory-policy", "allkeys-lru"), "throws jobs away", "CONFIG SET maxmemory-policy noeviction"),
        ((*KEEPS, "--maxmemory-policy", "volatile-ttl"), "throws jobs away", "CONFIG SET maxmemory-policy noeviction"),
    ],
)  # fmt: skip
async def test_a_server_that_may_lose_jobs_is_refused_with_the_command_that_mends_it(
    tmp_path: Path, words: tuple[str, ...], reason: str, command: str
) -> None:
    with engine.server(tmp_path, *words) as wrong:
        with pytest.raises(ConfigurationError, match=reason) as refused:
            await RedisJobStore.open(wrong.url(), vouched=True)
        assert command in refused.value.next_step
        async with client_of(wrong.url()) as client:
            for words_ in refused.value.next_step.split("`")[1::2]:
                if words_.startswith("redis-cli CONFIG SET"):
                    await client.execute_command(*words_.split()[1:])
        await (await RedisJobStore.open(wrong.url())).aclose()


async def test_a_server_that_does_not_tell_is_taken_at_the_operators_word(tmp_path: Path) -> None:
    with engine.server(tmp_path, *KEEPS, "--rename-command", "CONFIG", "") as hosted:
        with pytest.raises(ConfigurationError, match="does not say") as refused:
            await RedisJobStore.open(hosted.url())
        assert "jobs.redis_vouched = true" in refused.value.next_step
        store = await RedisJobStore.open(hosted.url(), vouched=True)
        await store.accept(order(), ROOM)
        await store.aclose()


def test_what_a_server_may_say() -> None:
    check(Durability(True, "always", "noeviction"), "here", vouched=False)
    check(Durability(None, None, None), "here", vouched=True)
    check(Durability(True, None, "noeviction"), "here", vouched=True)
    for told_ in (
        Durability(False, "always", None),
        Durability(None, "no", None),
        Durability(None, None, "allkeys-lfu"),
    ):
        with pytest.raises(ConfigurationError):
            check(told_, "here", vouched=True)


async def test_settings_that_are_changed_later_are_seen(own_redis: Redis) -> None:
    store = await RedisJobStore.open(own_redis.url())
    async with client_of(own_redis.url()) as client:
        await client.config_set("appendfsync", "no")
    with structlog.testing.capture_logs() as logged:
        await store.upkeep(events_s=1.0, jobs_s=1.0)
    (line,) = logged
    assert line["log_level"] == "error"
    assert "appendfsync is no" in line["error"]
    await store.aclose()


# ── what is left ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_nothing_stays_of_jobs_that_are_forgotten(store: RedisJobStore, client: Any, url: str) -> None:
    for n in range(5):
        job = await generating(store, webhook="https://example.org/", idempotency_key=str(n))
        assert await store.finish(job.id, job.attempt, done(webhook=b"{}"))
    for delivery in await store.claim_deliveries(most=9, of_host=9, in_flight={}, lease_s=60.0):
        assert await store.delivered(delivery.id, delivery.attempt, status=200)
    assert await store.upkeep(events_s=0.0, jobs_s=0.0) == 5
    prefix = url.partition("prefix=")[2]
    left = [key.decode().removeprefix(f"{prefix}:jobs:") async for key in client.scan_iter(f"{prefix}:*")]
    assert {name.split(":")[0] for name in left} <= {"key", "left"}
    assert not [key for key in left if await client.ttl(f"{prefix}:jobs:{key}") < 0], "what is left goes by itself"
    await store.accept(order(idempotency_key="0"), ROOM)


async def test_events_of_a_job_begun_again_after_its_events_were_forgotten(store: RedisJobStore) -> None:
    job = await generating(store)
    assert (await store.cancel(job.id, done())).state is JobState.DONE
    job = await generating(store)
    await store.finish(job.id, job.attempt, failed())
    assert await store.upkeep(events_s=0.0, jobs_s=1e6) == 0
    known = (await store.get(job.id)).events
    await store.retry(job.id, deadline_s=60.0, limits=ROOM)
    events = await store.events(job.id, after=0, most=9)
    assert [(event.id, event.name) for event in events] == [(known + 1, "queued")]
    assert await store.events(job.id, after=known + 1, most=9) == []


async def test_a_clock_that_went_back(store: RedisJobStore, client: Any, url: str) -> None:
    job = await generating(store)
    await store.append(job.id, job.attempt, [NewEvent("token")])
    waiting, _ = await store.accept(order(), ROOM)
    await older(client, url.partition("prefix=")[2], -86_400.0)
    assert await store.claim("generation", most=1, lease_s=1.0) == []
    await store.upkeep(events_s=1e6, jobs_s=1e6)
    assert (await one(store, "generation")).id == job.id
    assert (await one(store, "retrieval")).id == waiting.id
    found = await store.get(waiting.id)
    assert found.deadline_at - found.created_at == pytest.approx(waiting.deadline_at - waiting.created_at, abs=1e-3)
    assert await told(store, job.id)


async def test_closed_says_so(url: str) -> None:
    store = await RedisJobStore.open(url)
    await store.aclose()
    await store.aclose()
    for call in (
        store.accept(order(), ROOM),
        store.get("a"),
        store.lengths(),
        store.claim("retrieval", most=1, lease_s=1),
    ):
        with pytest.raises(EngineUnavailable, match="closed"):
            await call
