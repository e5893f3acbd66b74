"""The job queue on Amazon SQS, by aiobotocore: two standard queues, long polls, a wake deleted once it is looked after.

Credentials come from where every client of AWS looks for them; none stands in a setting. Queues are made by whoever owns the
account, with a dead-letter queue; Ragline makes none. docs/engines/sqs.md describes all of it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import structlog
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

from ragline.errors import EngineError, EngineUnavailable
from ragline.queues.messages import job_of
from ragline.queues.sqs_connection import ENGINE, LONGEST_POLL_S, MOST_AT_ONCE, Options, failure, options_of
from ragline.types import QueueName, Wake

log = structlog.get_logger()

CONNECTIONS = 100
"""Each waiting worker holds one."""

ATTEMPTS = 2

STALE = ("ReceiptHandleIsInvalid", "InvalidParameterValue")
"""Of a wake that has come again since, or is gone: there is nothing to settle."""


class SqsJobQueue:
    """Connects at the first call. Raises ConfigurationError: the URL."""

    def __init__(self, url: str) -> None:
        self._options = options_of(url)
        self._opening = asyncio.Lock()
        self._open = AsyncExitStack()
        self._client: Any = None
        self._urls: dict[QueueName, str] = {}
        self._closed = False

    async def check(self) -> None:
        for queue in self._options.names:
            async with self._calling("asking for its settings", queue) as (client, url):
                wanted = ["RedrivePolicy", "VisibilityTimeout"]
                told = await client.get_queue_attributes(QueueUrl=url, AttributeNames=wanted)
            if "RedrivePolicy" not in told.get("Attributes", {}):
                log.warning("the queue has no dead-letter queue", queue=self._options.names[queue])

    async def notify(self, queue: QueueName, job: str) -> None:
        async with self._calling("sending", queue) as (client, url):
            await client.send_message(QueueUrl=url, MessageBody=job)

    async def wait(self, queue: QueueName, *, most: int, within_s: float) -> list[Wake]:
        """At most 10, which is SQS's own limit. SQS waits in whole seconds, so up to one second longer than `within_s`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        while True:
            poll_s = min(LONGEST_POLL_S, max(0, math.ceil(until - loop.time())))
            async with self._calling("receiving", queue) as (client, url):
                told = await client.receive_message(
                    QueueUrl=url, MaxNumberOfMessages=min(most, MOST_AT_ONCE), WaitTimeSeconds=poll_s,
                    VisibilityTimeout=self._options.visibility_s,
                )  # fmt: skip
            # What is no job is not deleted: the queue's own rule moves it to the dead letters.
            found = [
                Wake(job, one["ReceiptHandle"])
                for one in told.get("Messages", ())
                if (job := job_of(one.get("Body", ""), queue=self._options.names[queue]))
            ]
            if found or loop.time() >= until:
                return found

    async def settle(self, queue: QueueName, wakes: Sequence[Wake]) -> None:
        tokens = list(dict.fromkeys(str(wake.token) for wake in wakes))
        refused = set()
        for start in range(0, max(1, len(tokens)), MOST_AT_ONCE):
            entries = [
                {"Id": str(n), "ReceiptHandle": token} for n, token in enumerate(tokens[start : start + MOST_AT_ONCE])
            ]
            async with self._calling("deleting", queue) as (client, url):
                told = await client.delete_message_batch(QueueUrl=url, Entries=entries) if entries else {}
            refused |= {str(one.get("Code")) for one in told.get("Failed", ())} - set(STALE)
        if refused:
            raise EngineError(
                f"Amazon SQS did not delete some messages of {self._options.names[queue]} ({', '.join(sorted(refused))}).",
                next_step="They come again, which is harmless; look at the queue's metrics if it stays so.", engine=ENGINE,
            )  # fmt: skip

    async def aclose(self) -> None:
        self._closed = True
        async with self._opening:
            self._client = None
            await self._open.aclose()

    @asynccontextmanager
    async def _calling(self, what: str, queue: QueueName) -> AsyncIterator[tuple[Any, str]]:
        """The client and the queue's URL; vendor's errors in the block become ours."""
        if self._closed:
            raise EngineUnavailable("The job queue is closed.", next_step="Start the process again.", engine=ENGINE)
        name = self._options.names[queue]
        try:
            async with asyncio.timeout(LONGEST_POLL_S + ATTEMPTS * self._options.timeout_s):
                client = await self._connected()
                if queue not in self._urls:
                    self._urls[queue] = await _url_of(client, name)
                yield client, self._urls[queue]
        except (BotoCoreError, ClientError, OSError, ValueError) as error:
            if self._closed:
                raise EngineUnavailable(
                    "The job queue is closed.", next_step="Start the process again.", engine=ENGINE
                ) from error
            raise failure(error, what, name, self._options.region) from error

    async def _connected(self) -> Any:
        async with self._opening:
            if self._client is None:
                given: Options = self._options
                session = get_session()
                # The description of the service is a large file: it is read beside the event loop.
                await asyncio.to_thread(session.get_component("data_loader").load_service_model, "sqs", "service-2")
                config = AioConfig(
                    connect_timeout=given.timeout_s, read_timeout=LONGEST_POLL_S + given.timeout_s,
                    max_pool_connections=CONNECTIONS, retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
                )  # fmt: skip
                making = session.create_client(
                    "sqs", region_name=given.region, endpoint_url=given.endpoint or None, config=config
                )
                self._client = await self._open.enter_async_context(making)
            return self._client


async def _url_of(client: Any, name: str) -> str:
    if "://" in name:
        return name
    told = await client.get_queue_url(QueueName=name)
    return str(told["QueueUrl"])
