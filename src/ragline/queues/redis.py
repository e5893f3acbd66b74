"""The job queue on Redis Streams: a stream and a consumer group for each queue, bounded, so that neither can grow.

A wake is added, read by one worker, and removed once settled; one that is not settled is claimed by whoever looks next. All
workers read under one consumer name: who has a wake is of no interest, and names of dead processes would pile up.
docs/engines/redis.md describes all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis import exceptions

from ragline.connections.redis import RedisServer, code_of
from ragline.errors import EngineUnavailable
from ragline.queues.messages import job_of
from ragline.types import QUEUES, QueueName, Wake

ENGINE = "queue:redis"
GROUP, CONSUMER = "workers", "worker"

AGAIN_S = 60.0
"""After which a wake that was not settled comes again; a claim takes milliseconds."""

MOST_WAITING = 100_000
"""Entries of a stream, about; the oldest go first. Their jobs are found by the clock."""

BLOCK_S = 5.0
"""Longest that one command waits at the server."""


class RedisJobQueue:
    """Connects at the first call. Raises ConfigurationError: the URL."""

    def __init__(self, url: str, *, again_s: float = AGAIN_S, most_waiting: int = MOST_WAITING) -> None:
        self._server = RedisServer(url, setting="jobs.queue", engine=ENGINE)
        # What waits at the server holds a connection, and must not hold those of the others.
        self._waiting = RedisServer(url, setting="jobs.queue", engine=ENGINE, longest_wait_s=BLOCK_S)
        self._again_s = again_s
        self._most_waiting = most_waiting
        self._looked: dict[QueueName, float] = {}
        self._closed = False

    async def check(self) -> None:
        self._open()
        await self._server.check_version()
        for queue in QUEUES:
            with self._server.translating("making the group"):
                await self._make_group(queue)

    async def notify(self, queue: QueueName, job: str) -> None:
        self._open()
        with self._server.translating("adding to the queue"):
            await self._server.client.xadd(
                self._stream(queue), {"job": job}, maxlen=self._most_waiting, approximate=True
            )

    async def wait(self, queue: QueueName, *, most: int, within_s: float) -> list[Wake]:
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        while True:
            self._open()
            look_at = self._looked.get(queue, 0.0) + self._again_s / 2
            if loop.time() >= look_at:
                if found := await self._left_over(queue, most):
                    return found
                self._looked[queue] = loop.time()
                look_at = loop.time() + self._again_s / 2
            left_s = min(until, look_at) - loop.time()
            if found := await self._next(queue, most, min(left_s, BLOCK_S)):
                return found
            if loop.time() >= until:
                return []

    async def settle(self, queue: QueueName, wakes: Sequence[Wake]) -> None:
        self._open()
        if wakes:
            await self._remove(queue, [wake.token for wake in wakes])

    async def aclose(self) -> None:
        self._closed = True
        await self._server.aclose()
        await self._waiting.aclose()

    async def _next(self, queue: QueueName, most: int, block_s: float) -> list[Wake]:
        """What nobody was given yet."""
        told: Any = await self._in_group(queue, "waiting", lambda: self._waiting.client.xreadgroup(
            GROUP, CONSUMER, {self._stream(queue): ">"}, count=most,
            block=max(1, int(block_s * 1000)) if block_s > 0 else None,
        ))  # fmt: skip
        return await self._wakes(queue, told[0][1]) if told else []

    async def _left_over(self, queue: QueueName, most: int) -> list[Wake]:
        """What somebody was given and did not settle."""
        told: Any = await self._in_group(queue, "looking for what was left", lambda: self._server.client.xautoclaim(
            self._stream(queue), GROUP, CONSUMER, min_idle_time=int(self._again_s * 1000), count=most
        ))  # fmt: skip
        return await self._wakes(queue, told[1]) if told else []

    async def _wakes(self, queue: QueueName, entries: Sequence[tuple[bytes, dict[bytes, bytes] | None]]) -> list[Wake]:
        """The entries that are jobs; what is none, or was trimmed away meanwhile, is removed."""
        wakes, others = [], []
        for token, fields in entries:
            text = (fields or {}).get(b"job", b"").decode("utf-8", "replace")
            if fields and (job := job_of(text, queue=queue)):
                wakes.append(Wake(job, token))
            else:
                others.append(token)
        if others:
            await self._remove(queue, others)
        return wakes

    async def _remove(self, queue: QueueName, tokens: Sequence[Any]) -> None:
        with self._server.translating("settling"):
            async with self._server.client.pipeline(transaction=False) as both:
                both.xack(self._stream(queue), GROUP, *tokens)
                both.xdel(self._stream(queue), *tokens)
                await both.execute()

    async def _in_group(self, queue: QueueName, what: str, call: Callable[[], Awaitable[Any]]) -> Any:
        """What the call says; None: its group was gone, and was made."""
        with self._server.translating(what):
            try:
                return await call()
            except exceptions.ResponseError as error:
                if code_of(error) != "NOGROUP":
                    raise
                await self._make_group(queue)
        return None

    async def _make_group(self, queue: QueueName) -> None:
        """From the first entry on: what was added before the group was there is read."""
        try:
            await self._server.client.xgroup_create(self._stream(queue), GROUP, id="0", mkstream=True)
        except exceptions.ResponseError as error:
            if code_of(error) != "BUSYGROUP":
                raise

    def _stream(self, queue: QueueName) -> str:
        return self._server.key("queue", queue)

    def _open(self) -> None:
        if self._closed:
            raise EngineUnavailable("The job queue is closed.", next_step="Start the process again.", engine=ENGINE)
