"""The job queue on Google Cloud Tasks: it pushes. A notice is a task, and Google calls a worker with it.

Each worker serves a route (`api/wakes.py`) that hands the wake to whoever waits in its process, and answers once it is settled.
One that finds nobody, or is not settled in time, is answered with 503, and Google calls again, later and maybe another
worker. docs/engines/cloud-tasks.md describes all of it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import google.auth
import grpc
from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcAsyncIOTransport

from ragline.clock import Clock, SystemClock
from ragline.errors import EngineUnavailable
from ragline.queues.cloudtasks_connection import ENGINE, failure, options_of
from ragline.queues.cloudtasks_tokens import Tokens
from ragline.queues.messages import job_of
from ragline.types import QUEUES, QueueName, Wake

MOST_HELD = 1_000
"""Calls of one queue that wait for a worker; beyond them Google is sent away at once."""

SHORTEST_DEADLINE_S = 15
"""Google's own limit for the deadline of a call."""

SCOPE = "https://www.googleapis.com/auth/cloud-platform"

_CHANNEL = (("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 5_000))


@dataclass(frozen=True, slots=True)
class _Call:
    """A call of Google's that waits for its answer. settled: whether it was looked after."""

    job: str
    settled: asyncio.Future[bool]


class CloudTasksJobQueue:
    """Connects at the first call. Raises ConfigurationError: the URL."""

    def __init__(self, url: str, *, clock: Clock | None = None) -> None:
        self._options = options_of(url)
        self._clock = clock or SystemClock()
        self._tokens = Tokens(self._options, self._clock)
        self._calls: dict[QueueName, asyncio.Queue[_Call | None]] = {queue: asyncio.Queue() for queue in QUEUES}
        self._held: dict[QueueName, set[asyncio.Future[bool]]] = {queue: set() for queue in QUEUES}
        self._opening = asyncio.Lock()
        self._client: tasks_v2.CloudTasksAsyncClient | None = None
        self._closed = False

    async def check(self) -> None:
        for queue, name in self._options.names.items():
            async with self._calling("asking for it", queue) as client:
                await client.get_queue(name=name, retry=None, timeout=self._options.timeout_s)

    async def notify(self, queue: QueueName, job: str) -> None:
        """A job that was told less than `dedupe_s` ago is not told again: Google knows the name of the task."""
        given = self._options
        task = tasks_v2.Task(
            name=self._name(queue, job),
            dispatch_deadline=timedelta(seconds=max(SHORTEST_DEADLINE_S, given.hold_s + 10)),
            http_request=tasks_v2.HttpRequest(
                http_method=tasks_v2.HttpMethod.POST, url=given.url_of(queue), body=job.encode(),
                headers={"Content-Type": "text/plain"},
                oidc_token=tasks_v2.OidcToken(
                    service_account_email=given.account, audience=given.audience_of(queue)
                ),
            ),
        )  # fmt: skip
        async with self._calling("sending", queue) as client:
            try:
                await client.create_task(parent=given.names[queue], task=task, retry=None, timeout=given.timeout_s)
            except api.AlreadyExists:
                return

    async def deliver(self, queue: QueueName, text: str, *, token: str) -> bool:
        """Hand over what Google calls with; whether it was settled. Raises Unauthenticated, Forbidden, EngineUnavailable."""
        await self._tokens.check(token, audience=self._options.audience_of(queue))
        job = job_of(text, queue=queue)
        if job is None:
            return True  # it will never be one: let Google forget it
        if self._closed or len(self._held[queue]) >= MOST_HELD:
            return False
        call = _Call(job, asyncio.get_running_loop().create_future())
        self._held[queue].add(call.settled)
        self._calls[queue].put_nowait(call)
        try:
            async with asyncio.timeout(self._options.hold_s):
                return await call.settled
        except TimeoutError:
            return False
        finally:
            self._held[queue].discard(call.settled)
            call.settled.cancel()  # whoever has not taken it yet passes it over

    async def wait(self, queue: QueueName, *, most: int, within_s: float) -> list[Wake]:
        self._open()
        found: list[Wake] = []
        calls = self._calls[queue]
        try:
            async with asyncio.timeout(within_s):
                while not found:
                    self._take(await calls.get(), queue, found)
        except TimeoutError:
            pass
        while len(found) < most and not calls.empty():
            self._take(calls.get_nowait(), queue, found)
        return found

    def _take(self, call: _Call | None, queue: QueueName, found: list[Wake]) -> None:
        if call is None:
            self._calls[queue].put_nowait(None)  # for whoever else waits
            self._open()
        elif not call.settled.done():
            found.append(Wake(call.job, call))

    async def settle(self, queue: QueueName, wakes: Sequence[Wake]) -> None:
        self._open()
        for wake in wakes:
            if isinstance(wake.token, _Call) and not wake.token.settled.done():
                wake.token.settled.set_result(True)

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            for queue in QUEUES:
                self._calls[queue].put_nowait(None)
                for settled in self._held[queue]:
                    if not settled.done():
                        settled.set_result(False)
        async with self._opening:
            client, self._client = self._client, None
            if client is not None:
                await client.transport.close()  # type: ignore[no-untyped-call]
        await self._tokens.aclose()

    def _name(self, queue: QueueName, job: str) -> str:
        """Google spreads its work by the beginning of names, so that this must not be alike."""
        if not self._options.dedupe_s:
            return ""
        spread = hashlib.sha256(job.encode()).hexdigest()[:16]
        turn = int(self._clock.now() / self._options.dedupe_s)
        return f"{self._options.names[queue]}/tasks/{spread}-{job}-{turn}"

    def _open(self) -> None:
        if self._closed:
            raise EngineUnavailable("The job queue is closed.", next_step="Start the process again.", engine=ENGINE)

    @asynccontextmanager
    async def _calling(self, what: str, queue: QueueName) -> AsyncIterator[Any]:
        self._open()
        try:
            yield await self._connected()
        except (api.GoogleAPIError, auth.GoogleAuthError, OSError, ValueError) as error:
            raise failure(error, what, self._options.names[queue]) from error

    async def _connected(self) -> tasks_v2.CloudTasksAsyncClient:
        async with self._opening:
            if self._client is None:
                if endpoint := self._options.endpoint:
                    channel = grpc.aio.insecure_channel(endpoint, options=_CHANNEL)
                    transport = CloudTasksGrpcAsyncIOTransport(channel=channel)
                    self._client = tasks_v2.CloudTasksAsyncClient(transport=transport)
                else:
                    # Looks for files, and asks the machine's own metadata server.
                    credentials, _ = await asyncio.to_thread(google.auth.default, scopes=[SCOPE])
                    self._client = tasks_v2.CloudTasksAsyncClient(credentials=credentials)
            return self._client
