"""What a queue adds to its vendor's client: a wake told, heard and settled, beside the same three calls made directly.

8 tellers at a time, then one who hears, ten wakes a call. Both take turns in one run, on a server of their own.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench.figures import Figure, median
from ragline.protocols import JobQueue
from ragline.queues.redis import RedisJobQueue
from ragline.queues.sqs import SqsJobQueue
from tests.engines import elasticmq, redis

TELLERS, WAKES, ROUNDS, AT_ONCE = 8, 400, 5, 10

Told = Callable[[str], Awaitable[object]]
Heard = Callable[[], Awaitable[int]]
"""Hears some, settles them, and says how many."""


async def run(folder: Path) -> list[Figure]:
    for name in ("redis", "sqs"):
        (folder / name).mkdir()
    with redis.server(folder / "redis") as server:
        figures = await _redis(RedisJobQueue(server.url()))
    os.environ.update(AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret")
    with elasticmq.server(folder / "sqs") as sqs:
        figures += await _sqs(SqsJobQueue(sqs.url(visibility_s=60)))
    return figures


async def _redis(jobs: RedisJobQueue) -> list[Figure]:
    client, stream = jobs._server.client, "direct"
    await client.xgroup_create(stream, "g", id="0", mkstream=True)

    async def tell(job: str) -> None:
        await client.xadd(stream, {"job": job}, maxlen=100_000, approximate=True)

    async def hear() -> int:
        told: Any = await client.xreadgroup("g", "c", {stream: ">"}, count=AT_ONCE)
        ids = [id for id, _ in told[0][1]]
        async with client.pipeline(transaction=False) as both:
            both.xack(stream, "g", *ids)
            both.xdel(stream, *ids)
            await both.execute()
        return len(ids)

    return await _compared("Redis Streams", jobs, tell, hear)


async def _sqs(jobs: SqsJobQueue) -> list[Figure]:
    await jobs.check()
    client = await jobs._connected()
    url = (await client.create_queue(QueueName="direct"))["QueueUrl"]

    async def tell(job: str) -> None:
        await client.send_message(QueueUrl=url, MessageBody=job)

    async def hear() -> int:
        told = await client.receive_message(QueueUrl=url, MaxNumberOfMessages=AT_ONCE, WaitTimeSeconds=1)
        found = told.get("Messages", [])
        entries = [{"Id": str(n), "ReceiptHandle": one["ReceiptHandle"]} for n, one in enumerate(found)]
        await client.delete_message_batch(QueueUrl=url, Entries=entries)
        return len(found)

    return await _compared("Amazon SQS (ElasticMQ)", jobs, tell, hear)


async def _compared(name: str, jobs: JobQueue, tell: Told, hear: Heard) -> list[Figure]:
    async def ours(job: str) -> None:
        await jobs.notify("retrieval", job)

    async def heard() -> int:
        wakes = await jobs.wait("retrieval", most=AT_ONCE, within_s=1.0)
        await jobs.settle("retrieval", wakes)
        return len(wakes)

    try:
        pairs = [(await _us(tell, hear), await _us(ours, heard)) for _ in range(ROUNDS + 1)][1:]
    finally:
        await jobs.aclose()
    return [
        Figure(f"{name}: the client's own, a wake", median([own for own, _ in pairs]), "µs"),
        Figure(f"{name}: by the queue", median([by for _, by in pairs]), "µs"),
        Figure(f"{name}: queue / client", median([by / own for own, by in pairs]), at_most=1.15),
    ]


async def _us(tell: Told, hear: Heard) -> float:
    waiting = iter(range(WAKES))

    async def teller() -> None:
        for n in waiting:
            await tell(f"{n:032x}")

    start = time.perf_counter()
    await asyncio.gather(*(teller() for _ in range(TELLERS)))
    left = WAKES
    while left > 0:
        left -= await hear()
    return (time.perf_counter() - start) / WAKES * 1e6
