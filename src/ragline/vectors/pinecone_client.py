"""Pinecone's own client, bounded: what is asked again and for how long, and when a write is seen.

The client's types stay here. An index is opened by its description, which says where it is reached; a namespace
of it is a collection's.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import pinecone.errors as vendor
from pinecone import AsyncIndex, AsyncPinecone, PodDeployment, RetryConfig

from ragline.errors import ConfigurationError, EngineRejected, EngineTimeout, EngineUnavailable
from ragline.vectors.pinecone_errors import NEXT_STEP, translated
from ragline.vectors.pinecone_rows import ENGINE, MARK, Json
from ragline.vectors.pinecone_url import Options
from ragline.vectors.pinecone_waiting import FIRST_PAUSE_S, patiently, slept, together

logging.getLogger("pinecone").setLevel(logging.WARNING)  # it logs every call

T = TypeVar("T")

SEARCH_PATIENCE_S = 0.5
"""That a search waits while the service says 429 or breaks the line; its leg has a deadline of its own."""
CONNECTIONS = 128
"""As many searches as a leg lets out."""
FETCH_AT_A_TIME = 50
"""Ids stand in the URL of a fetch, and gateways cut URLs at 8 KB."""
DELETE_AT_A_TIME = 1_000
LIST_AT_A_TIME = 100
ONCE_MORE = 200
"""Hits; an answer with more of them and their texts may be over the 4 MB of a query."""
NOISE = 3e-7
"""Of a cosine in 32 bits."""
NO_RETRIES = RetryConfig(max_retries=0)


@dataclass(frozen=True, slots=True)
class Match:
    id: str
    score: float
    metadata: Mapping[str, Any] | None


class PineconeProject:
    """The control plane, and the indexes that are open."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._indexes: dict[str, PineconeIndex] = {}
        self._left: list[PineconeIndex] = []
        self._opening = asyncio.Lock()
        self._closed = False
        try:
            self._client = AsyncPinecone(
                options.key or None, host=options.control or None, timeout=options.timeout_s,
                connection_pool_maxsize=CONNECTIONS, retry_config=NO_RETRIES,
            )  # fmt: skip
        except vendor.PineconeValueError as error:
            raise ConfigurationError(
                "vectors: there is no API key for Pinecone, or it is no key.",
                next_step="Set PINECONE_API_KEY, or write pinecone://…?key_file=FILE or pinecone://:API_KEY@INDEX.",
            ) from error

    async def index(self, name: str) -> PineconeIndex | None:
        """None: there is no such index. Raises EngineRejected: it cannot hold ours.  EngineUnavailable: not yet ready."""
        async with self._opening:
            self.check_open()
            known = self._indexes.get(name)
            if known is None or known.doubted:
                found = await self._described(name)
                if known is not None and (found is None or (found.host, found.dim) != (known.host, known.dim)):
                    self._left.append(self._indexes.pop(name))
                if found is None:
                    return None
                known = self._indexes.setdefault(name, found)
                known.doubted = False
            return known

    def check_open(self) -> None:
        """Raises EngineUnavailable: it was closed; the client would fail with words of its own."""
        if self._closed:
            raise EngineUnavailable("The vector store is closed.", next_step="Send the request again.", engine=ENGINE)

    async def create(self, name: str, dim: int) -> PineconeIndex:
        """A serverless index for cosines where the options say; returns when it is ready."""
        where = {"deployment_type": "managed", "cloud": self._options.cloud, "region": self._options.region}
        field = {"type": "dense_vector", "dimension": dim, "metric": "cosine"}
        # Another process may make it at the same moment; its description tells what it is.
        with translated(name), suppress(vendor.ConflictError):
            await self._client.indexes.create(
                name=name, schema={"fields": {"_values": field}}, deployment=where, timeout=-1
            )
        waited, pause = 0.0, FIRST_PAUSE_S
        while True:
            try:
                if found := await self.index(name):
                    return found
            except EngineUnavailable:
                if waited > self._options.fresh_s:
                    raise
            waited, pause = await slept(waited, pause)

    async def _described(self, name: str) -> PineconeIndex | None:
        with translated(name):
            try:
                told = await patiently(lambda: self._client.indexes.describe(name), SEARCH_PATIENCE_S)
            except vendor.NotFoundError:
                return None
            if isinstance(told.deployment, PodDeployment):
                raise _rejected(f"The Pinecone index {name} is made of pods.", "Name a serverless index in the URL.")
            try:
                dim, metric = told.dimension, told.metric
            except AttributeError:
                dim, metric = None, ""
            if dim is None or metric not in ("cosine", "dotproduct"):
                raise _rejected(
                    f"The Pinecone index {name} does not compare dense vectors by cosine"
                    + (f", but by {metric}." if metric else "."),
                    "Name another index in the URL: a serverless one of dense vectors with the metric cosine.",
                )
            if not told.status.ready or told.host is None:
                raise EngineUnavailable(
                    f"The Pinecone index {name} is not ready ({told.status.state}).", next_step=NEXT_STEP, engine=ENGINE
                )
            index = await self._client.index(host=told.host)
        # The client's indexes retry four times, up to 90 s each, and take no other word for it.
        index._http._config = replace(index._http._config, retry_config=NO_RETRIES)
        return PineconeIndex(index, name, told.host, dim, self._options)

    async def aclose(self) -> None:
        self._closed = True
        async with self._opening:
            left, self._left = [*self._left, *self._indexes.values()], []
            self._indexes.clear()
            for index in left:
                await index.aclose()
            await self._client.close()


class PineconeIndex:
    """One index. `doubted`: it was not reached, or not found, and is to be described anew before it is used."""

    def __init__(self, index: AsyncIndex, name: str, host: str, dim: int, options: Options) -> None:
        self.name, self.host, self.dim, self.doubted = name, host, dim, False
        self._index, self._options = index, options

    async def query(
        self, namespace: str, vector: list[float], *, top_k: int, where: Json, metadata: bool
    ) -> list[Match]:
        async def ask(whole: bool) -> list[Match]:
            found = await self._asked(
                lambda: self._index.query(
                    top_k=top_k, vector=vector, namespace=namespace, filter=where, include_metadata=whole
                ),
                SEARCH_PATIENCE_S,
            )
            return list(_level([Match(one.id, one.score, one.metadata) for one in found.matches]))

        try:
            return await ask(metadata)
        except vendor.ApiError as error:
            if not metadata or top_k <= ONCE_MORE or error.status_code != 400:
                raise
        return await self.with_metadata(namespace, await ask(False))

    async def with_metadata(self, namespace: str, matches: Sequence[Match]) -> list[Match]:
        """Those that are still there."""
        records = await self.fetch(namespace, [one.id for one in matches])
        return [replace(one, metadata=records[one.id]["metadata"]) for one in matches if one.id in records]

    async def fetch(self, namespace: str, ids: Sequence[str]) -> dict[str, Json]:
        async def some(part: Sequence[str]) -> dict[str, Json]:
            found = await self._asked(lambda: self._index.fetch(ids=part, namespace=namespace), SEARCH_PATIENCE_S)
            return {
                name: {"id": name, "values": one.values, "metadata": one.metadata or {}}
                for name, one in found.vectors.items()
            }

        every = await together([partial(some, part) for part in _cut(ids, FETCH_AT_A_TIME)], self._options.parallel)
        return {name: row for part in every for name, row in part.items()}

    async def mark(self, namespace: str) -> Mapping[str, Any] | None:
        """What stands beside the mark of the collection; None: there is none, or no such namespace."""
        try:
            found = await self.fetch(namespace, [MARK])
        except vendor.NotFoundError:
            return None
        return found[MARK]["metadata"] if MARK in found else None

    async def marked(self, namespace: str) -> None:
        """Return once the mark is fetched: fetches follow a write on their own, not with searches."""
        waited, pause = 0.0, FIRST_PAUSE_S
        while await self.mark(namespace) is None:
            if waited > self._options.fresh_s:
                raise EngineTimeout(
                    f"Pinecone has made the namespace {namespace}, but does not show what is in it.",
                    next_step="Try again.",
                    engine=ENGINE,
                )
            waited, pause = await slept(waited, pause)

    async def ids(self, namespace: str, prefix: str = "") -> AsyncIterator[str]:
        token: str | None = None
        while True:
            try:
                page = await self._patient(
                    partial(
                        self._index.list_paginated,
                        prefix=prefix, limit=LIST_AT_A_TIME, pagination_token=token, namespace=namespace,
                    )
                )  # fmt: skip
            except vendor.NotFoundError:
                return
            for one in page.vectors:
                if one.id:
                    yield one.id
            token = page.pagination.next if page.pagination else None
            if token is None:
                return

    async def upsert(self, namespace: str, parts: Sequence[list[Json]]) -> int | None:
        """The last place in the log that one of `parts` took."""

        async def some(part: list[Json]) -> int | None:
            told = await self._patient(lambda: self._index.upsert(vectors=part, namespace=namespace))
            return told.response_info.lsn_committed if told.response_info else None

        places = await together([partial(some, part) for part in parts], self._options.parallel)
        return max((place for place in places if place is not None), default=None)

    async def delete(self, namespace: str, ids: Sequence[str]) -> int | None:
        """The place in the log of something behind it: the client does not tell the delete's own."""

        async def some(part: Sequence[str]) -> None:
            await self._patient(lambda: self._index.delete(ids=part, namespace=namespace))

        await together([partial(some, part) for part in _cut(ids, DELETE_AT_A_TIME)], self._options.parallel)
        told = await self._patient(
            lambda: self._index.update(id=MARK, set_metadata={"swept": random.getrandbits(32)}, namespace=namespace)
        )
        return told.response_info.lsn_committed if told.response_info else None

    async def indexed(self, namespace: str) -> int:
        """Up to which place in the log a search sees; -1: it does not tell."""
        told = await self._patient(
            lambda: self._index.query(top_k=1, vector=[1.0] + [0.0] * (self.dim - 1), namespace=namespace)
        )
        place = told.response_info.lsn_reconciled if told.response_info else None
        return -1 if place is None else place

    async def namespaces(self, prefix: str) -> list[str]:
        names: list[str] = []
        token: str | None = None
        while True:
            page = await self._patient(
                partial(
                    self._index.list_namespaces_paginated, prefix=prefix, limit=LIST_AT_A_TIME, pagination_token=token
                )
            )
            names += [one.name for one in page.namespaces]
            token = page.pagination.next if page.pagination else None
            if token is None:
                return names

    async def make(self, namespace: str, filterable: Sequence[str]) -> None:
        schema = {"fields": {name: {"filterable": True} for name in filterable}}
        with suppress(vendor.ConflictError):  # left half made, or another process is at it: the mark decides
            await self._patient(lambda: self._index.create_namespace(name=namespace, schema=schema))

    async def remove(self, namespace: str) -> None:
        """Returns once it is not there any more, so that one of the same name can be made."""
        waited, pause = 0.0, FIRST_PAUSE_S
        try:
            await self._patient(lambda: self._index.delete_namespace(name=namespace))
            while waited <= self._options.fresh_s:
                await self._patient(lambda: self._index.describe_namespace(name=namespace))
                waited, pause = await slept(waited, pause)
        except vendor.NotFoundError:
            return
        raise EngineTimeout(
            f"Pinecone has not removed the namespace {namespace} within {self._options.fresh_s:.0f} s.",
            next_step="Try again.",
            engine=ENGINE,
        )

    async def _patient(self, call: Callable[[], Awaitable[T]]) -> T:
        return await self._asked(call, self._options.patience_s)

    async def _asked(self, call: Callable[[], Awaitable[T]], patience_s: float) -> T:
        try:
            return await patiently(call, patience_s)
        except (vendor.NotFoundError, vendor.PineconeConnectionError):
            self.doubted = True
            raise

    async def aclose(self) -> None:
        await self._index.close()


def _level(matches: Sequence[Match]) -> Iterator[Match]:
    """Scores within the rounding of 32 bits are one score: else equal vectors come in whatever order they were added up."""
    level = 2.0
    for one in matches:
        level = one.score if level - one.score > NOISE else level
        yield replace(one, score=min(1.0, max(-1.0, level)))


def _cut(ids: Sequence[str], most: int) -> list[Sequence[str]]:
    return [ids[at : at + most] for at in range(0, len(ids), most)]


def _rejected(message: str, next_step: str) -> EngineRejected:
    return EngineRejected(message, next_step=next_step, engine=ENGINE)
