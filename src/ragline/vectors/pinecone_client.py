"""Pinecone's own client, bounded: what is asked again and for how long, when a write is seen, and the table of errors.

The client's types and exceptions stay here. An index is opened by its description, which says where it is reached; a namespace
of it is a collection's.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import httpx
import pinecone.errors as vendor
import structlog
from pinecone import AsyncIndex, AsyncPinecone, PodDeployment, RetryConfig

from ragline.errors import ConfigurationError, EngineError, EngineRejected, EngineTimeout, EngineUnavailable
from ragline.vectors.pinecone_rows import ENGINE, MARK, Json
from ragline.vectors.pinecone_url import Options

log = structlog.get_logger()
logging.getLogger("pinecone").setLevel(logging.WARNING)  # it logs every call

T = TypeVar("T")

SEARCH_PATIENCE_S = 0.5
"""That a search waits while the service says 429 or breaks the line; its leg has a deadline of its own."""
FIRST_PAUSE_S, MOST_PAUSE_S = 0.05, 1.0
CONNECTIONS = 128
"""As many searches as a leg lets out."""
FETCH_AT_A_TIME = 50
"""Ids stand in the URL of a fetch, and gateways cut URLs at 8 KB."""
DELETE_AT_A_TIME = 1_000
LIST_AT_A_TIME = 100
ONCE_MORE = 200
"""Hits; an answer with more of them and their texts may be over the 4 MB of a query."""
NO_RETRIES = RetryConfig(max_retries=0)

NEXT_STEP = "Try again; look at status.pinecone.io and the project's limits if it stays so."


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
            if self._closed:
                raise EngineUnavailable(
                    "The vector store is closed.", next_step="Send the request again.", engine=ENGINE
                )
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

    async def create(self, name: str, dim: int) -> PineconeIndex:
        """A serverless index for cosines where the options say; returns when it is ready."""
        where = {"deployment_type": "managed", "cloud": self._options.cloud, "region": self._options.region}
        field = {"type": "dense_vector", "dimension": dim, "metric": "cosine"}
        with translated():
            try:
                await self._client.indexes.create(
                    name=name, schema={"fields": {"_values": field}}, deployment=where, timeout=-1
                )
            except vendor.ConflictError:
                pass  # another process has made it at the same moment; its description tells what it is
        waited, pause = 0.0, FIRST_PAUSE_S
        while True:
            try:
                if found := await self.index(name):
                    return found
            except EngineUnavailable:
                if waited > self._options.fresh_s:
                    raise
            waited, pause = await _waited(waited, pause)

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
            return [Match(one.id, one.score, one.metadata) for one in found.matches]

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

        every = await together([some(part) for part in _cut(ids, FETCH_AT_A_TIME)], self._options.parallel)
        return {name: row for part in every for name, row in part.items()}

    async def mark(self, namespace: str) -> Mapping[str, Any] | None:
        """What stands beside the mark of the collection; None: there is none, or no such namespace."""
        try:
            found = await self.fetch(namespace, [MARK])
        except vendor.NotFoundError:
            return None
        return found[MARK]["metadata"] if MARK in found else None

    async def ids(self, namespace: str, prefix: str = "") -> AsyncIterator[str]:
        token: str | None = None
        while True:
            try:
                page = await self._patient(
                    lambda after=token: self._index.list_paginated(
                        prefix=prefix, limit=LIST_AT_A_TIME, pagination_token=after, namespace=namespace
                    )
                )
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

        places = await together([some(part) for part in parts], self._options.parallel)
        return max((place for place in places if place is not None), default=None)

    async def delete(self, namespace: str, ids: Sequence[str]) -> int | None:
        """The place in the log of something behind it: the client does not tell the delete's own."""

        async def some(part: Sequence[str]) -> None:
            await self._patient(lambda: self._index.delete(ids=part, namespace=namespace))

        await together([some(part) for part in _cut(ids, DELETE_AT_A_TIME)], self._options.parallel)
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
            page = await self._asked(
                lambda after=token: self._index.list_namespaces_paginated(
                    prefix=prefix, limit=LIST_AT_A_TIME, pagination_token=after
                ),
                SEARCH_PATIENCE_S,
            )
            names += [one.name for one in page.namespaces]
            token = page.pagination.next if page.pagination else None
            if token is None:
                return names

    async def make(self, namespace: str, filterable: Sequence[str]) -> None:
        schema = {"fields": {name: {"filterable": True} for name in filterable}}
        try:
            await self._patient(lambda: self._index.create_namespace(name=namespace, schema=schema))
        except vendor.ConflictError:
            pass  # left half made, or another process is at it: the mark decides

    async def remove(self, namespace: str) -> None:
        """Returns once it is not there any more, so that one of the same name can be made."""
        waited, pause = 0.0, FIRST_PAUSE_S
        try:
            await self._patient(lambda: self._index.delete_namespace(name=namespace))
            while waited <= self._options.fresh_s:
                await self._patient(lambda: self._index.describe_namespace(name=namespace))
                waited, pause = await _waited(waited, pause)
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


class Freshness:
    """Up to which write searches of one namespace see. One look serves everyone who waits."""

    def __init__(self, index: PineconeIndex, namespace: str, *, within_s: float) -> None:
        self._index, self._namespace, self._within_s = index, namespace, within_s
        self._seen = -1
        self._looking = asyncio.Lock()

    async def reached(self, place: int | None) -> None:
        """Return once a search sees what was written at `place`. Raises EngineTimeout: not in time; it is written all the
        same."""
        if place is None:
            log.warning("the service does not number its writes: when they are seen is not known", engine=ENGINE)
            return
        waited, pause = 0.0, FIRST_PAUSE_S / 4
        async with self._looking:
            while self._seen < place:
                self._seen = max(self._seen, await self._index.indexed(self._namespace))
                if self._seen >= place:
                    return
                if waited > self._within_s:
                    raise EngineTimeout(
                        f"Pinecone has taken a write, but no search sees it after {self._within_s:.0f} s.",
                        next_step="It is repeated by itself; set `fresh_s` higher in the URL if it stays so.",
                        engine=ENGINE,
                    )
                waited, pause = await _waited(waited, pause)


async def patiently(call: Callable[[], Awaitable[T]], patience_s: float) -> T:
    """Ask again while the service limits its rate or is away, as long as it asks for and no longer than `patience_s` in all.
    Whatever is asked here may be asked twice."""
    waited, pause = 0.0, FIRST_PAUSE_S
    while True:
        try:
            return await call()
        except (vendor.RateLimitError, vendor.ServiceError, vendor.PineconeConnectionError) as error:
            asked = max(pause, getattr(error, "retry_after", None) or 0.0)
            if waited + asked > patience_s:
                raise
            waited, pause = await _waited(waited, asked)


async def together(calls: Sequence[Awaitable[T]], most: int) -> list[T]:
    """All of them, `most` at a time, in order. When one fails, or we are cancelled, none is left at work."""
    if len(calls) == 1:
        return [await calls[0]]
    places = asyncio.Semaphore(most)

    async def one(call: Awaitable[T]) -> T:
        async with places:
            return await call

    tasks = [asyncio.ensure_future(one(call)) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _waited(waited: float, pause: float) -> tuple[float, float]:
    """Sleep a little more than `pause`, so that those who were refused together do not come back together."""
    slept = pause * random.uniform(1.0, 1.25)
    await asyncio.sleep(slept)
    return waited + slept, min(2 * pause, MOST_PAUSE_S)


def _cut(ids: Sequence[str], most: int) -> list[Sequence[str]]:
    return [ids[at : at + most] for at in range(0, len(ids), most)]


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


STATUSES: Mapping[int, tuple[type[EngineError], str, str]] = {
    400: (EngineRejected, "refused the request", "This is a defect of Ragline: report it with the log."),
    401: (EngineRejected, "refuses the API key", "Correct the key, and look whether it belongs to the index's project."),
    402: (EngineRejected, "waits for a payment", "Settle the project's bills in Pinecone's console."),
    403: (EngineRejected, "forbids it", "Look at the key's permissions, the project's quota and deletion protection."),
    404: (EngineRejected, "has no such index or namespace", "Correct the index in the URL, or run `ragline reindex`."),
    408: (EngineTimeout, "did not answer in time", NEXT_STEP),
    409: (EngineUnavailable, "says that somebody else changes it", "Try again."),
    412: (EngineRejected, "says that a precondition fails", "Look at the project's settings in Pinecone's console."),
    413: (EngineRejected, "finds the request too large", "Set a smaller chunk_tokens for the namespace."),
    422: (EngineRejected, "cannot read the request", "This is a defect of Ragline: report it with the log."),
    429: (EngineUnavailable, "limits its rate", "Write more slowly, or ask for higher limits of the project."),
    500: (EngineUnavailable, "has an error of its own", NEXT_STEP),
    502: (EngineUnavailable, "is not reached behind its gateway", NEXT_STEP),
    503: (EngineUnavailable, "is unavailable", NEXT_STEP),
    504: (EngineTimeout, "did not answer in time", NEXT_STEP),
}
"""Statuses that Pinecone documents, and those of gateways before it."""

KINDS: Mapping[type[vendor.PineconeError], tuple[type[EngineError], str, str]] = {
    vendor.PineconeTimeoutError: STATUSES[504],
    vendor.PineconeConnectionError: (
        EngineUnavailable, "is not reached", "Check the network, a proxy on the way, and `control` in the URL."
    ),
    vendor.ResponseParsingError: (EngineRejected, "answered what is no answer", "Check `control` in the URL."),
    vendor.IndexInitFailedError: (EngineRejected, "could not make the index", "Look at it in Pinecone's console."),
    vendor.IndexTerminatedError: (EngineRejected, "is taking the index away", "Name another index in the URL."),
    vendor.PineconeValueError: STATUSES[400],
    vendor.PineconeTypeError: STATUSES[400],
}  # fmt: skip
"""What the client raises without a status."""


@contextmanager
def translated(what: str = "") -> Iterator[None]:
    try:
        yield
    except (vendor.PineconeError, httpx.HTTPError, OSError) as error:
        raise failure(error, what) from error


def failure(error: BaseException, what: str = "") -> EngineError:
    """The error table. `what`: the index or collection that it was about."""
    words = " ".join(str(getattr(error, "message", "") or error).split())[:300]
    if isinstance(error, vendor.ApiError):
        status = error.status_code
        kind, said, next_step = STATUSES.get(status, STATUSES[500 if status >= 500 else 400])
    elif isinstance(error, vendor.PineconeError):
        kind, said, next_step = next((KINDS[one] for one in type(error).__mro__ if one in KINDS), STATUSES[400])
    else:
        kind, said, next_step = KINDS[vendor.PineconeConnectionError]
    about = f" for {what}" if what else ""
    return kind(f"Pinecone {said}{about} ({words}).", next_step=next_step, engine=ENGINE)


def _rejected(message: str, next_step: str) -> EngineRejected:
    return EngineRejected(message, next_step=next_step, engine=ENGINE)
