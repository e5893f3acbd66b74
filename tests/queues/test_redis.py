"""Redis Streams as the job queue, on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis.asyncio
import structlog

from ragline.errors import ConfigurationError, EngineRejected, EngineTimeout
from ragline.protocols import JobQueue
from ragline.queues.redis import CONSUMER, GROUP, RedisJobQueue
from ragline.testing.queues import ServedJobQueueContract, first, take
from tests.engines.redis import Redis
from tests.engines.server import free_port

AGAIN_S = 1.0


@pytest.fixture
def url(redis: Redis) -> str:
    return redis.url()


@pytest.fixture
async def client(redis: Redis) -> AsyncIterator[Any]:
    """Past the adapter."""
    host, port = redis.address
    async with redis_client(host, port) as client:
        yield client


def redis_client(host: str, port: int) -> Any:
    return redis.asyncio.Redis(host=host, port=port)


def stream(url: str, queue: str = "retrieval") -> str:
    return f"{url.partition('prefix=')[2]}:queue:{queue}"


class TestContract(ServedJobQueueContract):
    AGAIN_S = AGAIN_S

    @pytest.fixture
    def connect(self, url: str) -> Callable[[], JobQueue]:
        return lambda: RedisJobQueue(url, again_s=AGAIN_S)

    @pytest.fixture
    def away(self) -> JobQueue:
        return RedisJobQueue(f"redis://127.0.0.1:{free_port()}")

    @pytest.fixture
    def server(self, own_redis: Redis) -> tuple[Callable[[], JobQueue], Callable[[], None], Callable[[], None]]:
        url = own_redis.url()
        return lambda: RedisJobQueue(url, again_s=AGAIN_S), own_redis.stop, own_redis.start


async def test_what_is_settled_leaves_nothing_behind(url: str, client: Any) -> None:
    jobs = RedisJobQueue(url)
    for n in range(20):
        await jobs.notify("retrieval", f"job-{n}")
    await take(jobs, [f"job-{n}" for n in range(20)])
    assert await client.xlen(stream(url)) == 0
    assert (await client.xpending(stream(url), GROUP))["pending"] == 0
    await jobs.aclose()


async def test_a_stream_cannot_grow(url: str, client: Any) -> None:
    jobs = RedisJobQueue(url, most_waiting=100)
    for n in range(2_000):
        await jobs.notify("retrieval", f"job-{n}")
    assert await client.xlen(stream(url)) < 400, "trimmed by whole nodes, so not to the entry"
    await take(jobs, ["job-1999"])
    await jobs.aclose()


async def test_wakes_that_were_trimmed_away_while_somebody_had_them_are_forgotten(url: str, client: Any) -> None:
    jobs = RedisJobQueue(url, again_s=0.01)
    await jobs.notify("retrieval", "job-1")
    await first(jobs)
    await client.xtrim(stream(url), maxlen=0, approximate=False)
    assert await jobs.wait("retrieval", most=9, within_s=0.2) == []
    assert (await client.xpending(stream(url), GROUP))["pending"] == 0
    await jobs.aclose()


async def test_many_processes_leave_one_consumer(url: str, client: Any) -> None:
    for n in range(5):
        jobs = RedisJobQueue(url)
        await jobs.notify("retrieval", f"job-{n}")
        await take(jobs, [f"job-{n}"])
        await jobs.aclose()
    assert [one["name"] for one in await client.xinfo_consumers(stream(url), GROUP)] == [CONSUMER.encode()]


async def test_a_stream_that_is_deleted_under_us_is_made_again(url: str, client: Any) -> None:
    jobs = RedisJobQueue(url, again_s=AGAIN_S)
    assert await jobs.wait("retrieval", most=1, within_s=0.0) == []
    await client.delete(stream(url))
    await jobs.notify("retrieval", "job-1")
    await take(jobs, ["job-1"])
    await jobs.aclose()


async def test_what_a_stranger_wrote_wakes_nobody_and_goes(url: str, client: Any) -> None:
    jobs = RedisJobQueue(url)
    await client.xadd(stream(url), {"job": '{"no": "job"}'})
    await client.xadd(stream(url), {"other": b"\xff"})
    await jobs.notify("retrieval", "job-1")
    with structlog.testing.capture_logs() as logged:
        assert {wake.job for wake in await take(jobs, ["job-1"])} == {"job-1"}
    assert len(logged) == 2
    assert not [line for line in logged if '{"no"' in str(line)], "not its words"
    assert await client.xlen(stream(url)) == 0
    await jobs.aclose()


async def test_a_key_that_holds_something_else_is_told(url: str, client: Any) -> None:
    jobs = RedisJobQueue(url)
    await client.set(stream(url), "mine")
    for call in (jobs.notify("retrieval", "a"), jobs.wait("retrieval", most=1, within_s=0.0), jobs.check()):
        with pytest.raises(EngineRejected, match="WRONGTYPE"):
            await call
    await client.delete(stream(url))
    await jobs.aclose()


async def test_a_server_that_answers_nothing_is_a_timeout(own_redis: Redis) -> None:
    jobs = RedisJobQueue(own_redis.url(timeout_s=0.3))
    await jobs.notify("retrieval", "job-1")
    own_redis.pause()
    with pytest.raises(EngineTimeout):
        await jobs.notify("retrieval", "job-2")
    own_redis.resume()
    await take(jobs, ["job-1"])
    await jobs.aclose()


def test_a_wrong_url_names_the_setting() -> None:
    with pytest.raises(ConfigurationError, match=r"jobs\.queue: there is no option 'nosuch'"):
        RedisJobQueue("redis://host?nosuch=1")
