"""One client for one cluster, shared by the rooms that name it: opened at the first call, closed by the last that leaves.

What it adds to the vendor's client: the check of who answers, before anything else is asked; errors of our tree; writes
in bodies that a cluster of any size takes; and patience with one that is busy, within bounds.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import elasticsearch
from elastic_transport import ApiError

from ragline.connections.elasticsearch_errors import OLD, OLDEST, failed, kind_of, translating
from ragline.connections.elasticsearch_url import Server
from ragline.errors import EngineError, EngineRejected, EngineUnavailable

T = TypeVar("T")

BUSY, TOO_LARGE = frozenset({429, 502, 503}), 413
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 5.0


class ElasticsearchServer:
    """A cluster, as several rooms use it. `joined` for each that does, `aclose` for each that leaves."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._users = 0
        self._checked = False
        self._checking = asyncio.Lock()
        scheme = "https" if server.tls else "http"
        tls: dict[str, Any] = {"verify_certs": server.verify, "ssl_show_warn": False} if server.tls else {}
        if server.ca:
            tls["ca_certs"] = server.ca
        if server.user:
            tls["basic_auth"] = (server.user, server.password)
        elif server.password:
            tls["api_key"] = server.password
        self._client = elasticsearch.AsyncElasticsearch(
            [f"{scheme}://{host}" for host in server.hosts], request_timeout=server.timeout_s, connections_per_node=32,
            # A connection that a restarted node has left is tried anew once; whatever else is tried again, we do.
            max_retries=max(1, len(server.hosts) - 1), retry_on_status=(), retry_on_timeout=False, **tls,
        )  # fmt: skip

    def joined(self) -> ElasticsearchServer:
        self._users += 1
        return self

    async def call(self, engine: str, what: str, ask: Callable[[elasticsearch.AsyncElasticsearch], Awaitable[T]]) -> T:
        """What `ask` gets. Raises EngineError: of `engine`, with `what` was to be done."""
        if not self._checked:
            await self.check(engine)
        with translating(what, engine):
            return await ask(self._client)

    async def patiently(
        self, engine: str, what: str, ask: Callable[[elasticsearch.AsyncElasticsearch], Awaitable[T]]
    ) -> T:
        """The same, again while the cluster is too busy: for what no reader waits for."""
        for wait_s in self._waits():
            try:
                return await self.call(engine, what, ask)
            except EngineUnavailable as error:
                if not _busy(error):
                    raise
            await asyncio.sleep(wait_s)
        return await self.call(engine, what, ask)

    async def check(self, engine: str) -> None:
        """Whether it is an Elasticsearch that we know. Raises EngineError."""
        async with self._checking:
            if self._checked:
                return
            with translating("the first call", engine):
                told = (await self._client.info()).body
            number = str(told["version"]["number"])
            if tuple(int(part) for part in number.split(".")[:2]) < OLDEST:
                raise EngineRejected(
                    f"Elasticsearch {number} is older than this version supports.", next_step=OLD, engine=engine
                )
            self._checked = True

    async def write(self, engine: str, what: str, actions: Sequence[bytes], *, most_bytes: int, index: str) -> None:
        """Bulk `actions`, lines of NDJSON each; durable, and visible to every search, when this returns.

        In bodies of about `most_bytes`, one after the other: two at a time make twice the segments, and searches of vectors
        a fifth slower. Raises EngineError; then some of them may be in.
        """
        bodies = list(_bodies(actions, most_bytes))
        for body in bodies:
            await self._bulk(engine, what, body, refresh=len(bodies) == 1)
        if len(bodies) > 1:
            await self.refresh(engine, what, index)

    async def refresh(self, engine: str, what: str, index: str) -> None:
        """What was written until now is seen by searches."""
        await self.patiently(engine, what, lambda client: client.indices.refresh(index=index))

    async def _bulk(self, engine: str, what: str, body: list[bytes], *, refresh: bool) -> None:
        for wait_s in (*self._waits(), None):
            try:
                told = await self.call(engine, what, partial(_post, body=body, refresh=refresh))
            except EngineRejected as error:
                if len(body) == 1 or _status(error) != TOO_LARGE:
                    raise
                half = len(body) // 2  # a proxy before the cluster takes less than the cluster does
                await self._bulk(engine, what, body[:half], refresh=refresh)
                await self._bulk(engine, what, body[half:], refresh=refresh)
                return
            except EngineUnavailable as error:
                if wait_s is None or not _busy(error):
                    raise
            else:
                body = list(_again(body, told["items"], what, engine, last=wait_s is None)) if told["errors"] else []
                if not body:
                    return
            await asyncio.sleep(wait_s or 0.0)

    def _waits(self) -> Iterator[float]:
        for attempt in range(self.server.retries):
            yield min(FIRST_WAIT_S * 2**attempt, LONGEST_WAIT_S) * random.uniform(0.5, 1.0)

    async def aclose(self) -> None:
        self._users -= 1
        if self._users <= 0:
            await self._client.close()


async def _post(client: elasticsearch.AsyncElasticsearch, *, body: list[bytes], refresh: bool) -> dict[str, Any]:
    lines: Any = body  # the client takes lines as they are, too; its types do not say so
    told = await client.bulk(
        operations=lines, refresh=refresh, require_alias=True,
        filter_path=["errors", "items.*.status", "items.*.error.type"],
    )  # fmt: skip
    answer: dict[str, Any] = told.body
    return answer


def _status(error: EngineError) -> int:
    return error.__cause__.meta.status if isinstance(error.__cause__, ApiError) else 0


def _busy(error: EngineError) -> bool:
    """A full disk answers 429 as well, and stays full."""
    cause = error.__cause__
    return isinstance(cause, ApiError) and _status(error) in BUSY and kind_of(cause) != "cluster_block_exception"


def _again(
    body: list[bytes], items: Sequence[dict[str, Any]], what: str, engine: str, *, last: bool
) -> Iterator[bytes]:
    """Of `body`, what the cluster was too busy for. Raises EngineError: what it refuses."""
    for action, item in zip(body, items, strict=True):
        (told,) = item.values()
        kind = told.get("error", {}).get("type", "")
        if not kind or kind == "document_missing_exception":  # an update of a chunk that is gone: nothing to do
            continue
        if last or told["status"] not in BUSY or kind == "cluster_block_exception":
            raise failed(kind, told["status"], what, engine)
        yield action


def _bodies(actions: Sequence[bytes], most_bytes: int) -> Iterator[list[bytes]]:
    body: list[bytes] = []
    size = 0
    for action in actions:
        if body and size + len(action) > most_bytes:
            yield body
            body, size = [], 0
        body.append(action)
        size += len(action)
    if body:
        yield body
