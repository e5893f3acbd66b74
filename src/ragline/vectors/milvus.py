"""Vectors in Milvus (docs/engines/milvus.md).

    milvus://USER:PASSWORD@HOST:19530/DATABASE?index=HNSW&M=16&ef=100          milvuss:// with TLS

A write returns once it can be seen by every reader: it ends with one strongly consistent read, which waits for the server's
next time tick (some 200 ms). Searches then need no consistency of their own, and wait for nothing; the other way round each of
them would wait for a tick.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import grpc
import numpy as np
import structlog
from numpy.typing import NDArray
from pymilvus import AsyncMilvusClient, DataType, MilvusException

from ragline.errors import (
    ConfigurationError,
    EngineDenied,
    EngineError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
)
from ragline.protocols import Vectors
from ragline.surrogates import encodable
from ragline.types import AnyOf, Between, Chunk, Condition, FieldType, Groups, Hit, Metadata, Record, Scalar, Scope
from ragline.vectors.fitting import check

log = structlog.get_logger()
ENGINE = "vectors:milvus"
logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)  # it logs what it raises as well, with a traceback

OLDEST = (2, 3)
"""Before it there is no upsert and there are no arrays."""

TIMEOUT_S = 30.0
CONNECT_S = 5.0
TIED = 32
"""Fetched beyond `top_k`, so that equal scores can be put in order; more where that is not the end of them."""
RARE = 1_000
"""Chunks in a scope, below which it is read and scored exactly when the index has found fewer than were asked for."""
MOST_HITS = 16_384
"""Of one search or query: the server's own limit."""
MOST_BYTES = 16 << 20
"""In one message; the server takes 64 MiB, and a row is larger there than here."""
BUILD_AFTER_ROWS, BUILD_AFTER_S, BUILD_AT_LATEST_S = 1_000, 5.0, 60.0
"""Rows that were written, and how long ago the last of them, when the server is told to build its index of them; and while more
keep coming. By itself it waits for ten minutes, and meanwhile looks into a part of them only."""
MOST_TEXT_BYTES = 65_535
"""In one text: the server's own limit."""
MOST_VALUES = 8
"""Of one number field on one chunk: Milvus cannot ask for any value of a list in a range, so each place is asked for."""
MOST_READERS = 4_096
EVERYONE = "*"
PREFIX = "ragline_"

INDEXES: Mapping[str, tuple[Mapping[str, int], Mapping[str, int]]] = {
    "HNSW": ({"M": 16, "efConstruction": 200}, {"ef": 100}),
    "IVF_FLAT": ({"nlist": 1_024}, {"nprobe": 64}),
    "IVF_PQ": ({"nlist": 1_024, "m": 32, "nbits": 8}, {"nprobe": 64}),
    "FLAT": ({}, {}),
    "GPU_CAGRA": ({"intermediate_graph_degree": 64, "graph_degree": 32}, {"itopk_size": 128}),
    "GPU_IVF_FLAT": ({"nlist": 1_024}, {"nprobe": 64}),
    "GPU_IVF_PQ": ({"nlist": 1_024, "m": 32, "nbits": 8}, {"nprobe": 64}),
    "GPU_BRUTE_FORCE": ({}, {}),
}
"""Index type → what it is built with, and searched with, when the URL does not say."""

COLUMNS: Mapping[FieldType, DataType] = {
    FieldType.KEYWORD: DataType.VARCHAR, FieldType.INTEGER: DataType.INT64, FieldType.NUMBER: DataType.DOUBLE,
    FieldType.BOOLEAN: DataType.BOOL, FieldType.DATE: DataType.INT64,
}  # fmt: skip

STORED = ["chunk", "document", "content", "payload", "title"]

GONE = frozenset({4, 100})
NOT_NOW = {
    1: "The server is not ready", 2: "The server is not ready", 8: "The server limits its rate", 9: "The server refuses writes",
    22: "The server is out of disk", 27: "The server is out of memory", 101: "The collection is not loaded",
    103: "The collection is not loaded", 503: "No node of the server has the collection", 901: "A node of the server is gone",
}  # fmt: skip
"""Codes of the server that may come right by themselves."""
DENIED = frozenset({1400, 1401, 1402, 65535})

NEXT_STEP = "Try again; look at the server's log and its quotas if it stays so."


@dataclass(frozen=True, slots=True)
class _Shelf:
    """A collection as it was made. `columns`: declared field → its column."""

    name: str
    dim: int
    fields: Mapping[str, FieldType]

    @property
    def columns(self) -> dict[str, str]:
        return {name: f"field_{number}" for number, name in enumerate(sorted(self.fields))}


class MilvusVectorStore:
    def __init__(self, url: str) -> None:
        parsed = urlsplit(url)
        words = dict(parse_qsl(parsed.query))
        self._index = words.pop("index", "HNSW").upper()
        if self._index not in INDEXES:
            raise ConfigurationError(
                f"vectors: index={self._index} is not known.", next_step=f"Use one of {', '.join(INDEXES)}."
            )
        build, search = INDEXES[self._index]
        self._build, self._search = _numbers(build, words), _numbers(search, words)
        scheme = "https" if parsed.scheme == "milvuss" else "http"
        self._given: dict[str, Any] = {
            "uri": f"{scheme}://{parsed.hostname or 'localhost'}:{parsed.port or 19530}",
            "user": unquote(parsed.username or ""), "password": unquote(parsed.password or ""),
            "db_name": parsed.path.strip("/"), "timeout": CONNECT_S, "dedicated": True,
        }  # fmt: skip
        if authority := words.pop("ca", ""):
            self._given["server_pem_path"] = authority
        if words:
            raise ConfigurationError(
                f"vectors: {', '.join(sorted(words))} is not known for index={self._index}.",
                next_step=f"Use {', '.join([*build, *search, 'ca']) or 'none'}, or leave it out.",
            )
        self._client: AsyncMilvusClient | None = None
        self._opening = asyncio.Lock()
        self._shelves: dict[str, _Shelf] = {}
        self._unbuilt: Counter[str] = Counter()
        self._written: dict[str, float] = {}
        self._building: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    async def create(self, collection: str, *, dim: int, fields: Mapping[str, FieldType]) -> None:
        with _translated(collection):
            client, name = await self._opened(), _name(collection)
            if not await client.has_collection(name, timeout=TIMEOUT_S):
                try:
                    await self._make(client, name, dim, fields)
                except MilvusException:
                    if not await client.has_collection(name, timeout=TIMEOUT_S):
                        raise  # else another process has made it at the same moment
            await client.load_collection(name, timeout=TIMEOUT_S)
            shelf = await self._found(client, collection)
        if shelf.dim != dim:
            raise EngineRejected(
                f"The vector collection {collection} exists with {shelf.dim} dimensions, not {dim}.",
                next_step="Run `ragline reindex NAMESPACE`.",
                engine=ENGINE,
            )

    async def _make(self, client: AsyncMilvusClient, name: str, dim: int, fields: Mapping[str, FieldType]) -> None:
        shelf = _Shelf(name, dim, fields)
        schema = AsyncMilvusClient.create_schema(
            auto_id=False, enable_dynamic_field=False, description=json.dumps({k: str(v) for k, v in fields.items()})
        )
        schema.add_field("chunk", DataType.VARCHAR, is_primary=True, max_length=512)
        schema.add_field("document", DataType.VARCHAR, max_length=MOST_TEXT_BYTES)
        schema.add_field("content", DataType.INT64)
        for text in ("payload", "title"):
            schema.add_field(text, DataType.VARCHAR, max_length=MOST_TEXT_BYTES)
        lists = {"readers": FieldType.KEYWORD, **{column: fields[field] for field, column in shelf.columns.items()}}
        for column, kind in lists.items():
            length = {"max_length": MOST_TEXT_BYTES} if kind is FieldType.KEYWORD else {}
            schema.add_field(column, DataType.ARRAY, element_type=COLUMNS[kind], max_capacity=MOST_READERS, **length)
        schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=dim)
        # Of unit vectors the inner product is the cosine, and the indexes on GPUs know no other.
        index = client.prepare_index_params()
        index.add_index("embedding", index_type=self._index, metric_type="IP", params=self._build)
        await client.create_collection(name, schema=schema, index_params=index, timeout=TIMEOUT_S)

    async def drop(self, collection: str) -> None:
        with _translated(collection):
            await (await self._opened()).drop_collection(_name(collection), timeout=TIMEOUT_S)
        self._shelves.pop(collection, None)

    async def collections(self) -> list[str]:
        with _translated(""):
            names = await (await self._opened()).list_collections(timeout=TIMEOUT_S)
        return sorted(_collection(name) for name in names if name.startswith(PREFIX))

    async def upsert(self, collection: str, records: Sequence[Record], vectors: Vectors) -> None:
        if not records:
            return
        async with self._on(collection) as (client, shelf):
            rows = await asyncio.to_thread(_rows, shelf, records, vectors)
            await self._write(client, shelf, rows)

    async def _write(self, client: AsyncMilvusClient, shelf: _Shelf, rows: Sequence[dict[str, Any]]) -> None:
        for part in _parts(rows, shelf.dim):
            await client.upsert(shelf.name, part, timeout=TIMEOUT_S)
        await self._seen(client, shelf)
        self._unbuilt[shelf.name] += len(rows)
        self._written[shelf.name] = time.monotonic()
        if self._unbuilt[shelf.name] >= BUILD_AFTER_ROWS and shelf.name not in self._building:
            self._building[shelf.name] = asyncio.create_task(self._build_soon(client, shelf.name))

    async def _build_soon(self, client: AsyncMilvusClient, name: str) -> None:
        """Once nothing more comes: end the segment that grows, so that its index is built."""
        latest = time.monotonic() + BUILD_AT_LATEST_S
        try:
            left_s = BUILD_AFTER_S
            while left_s > 0:
                await asyncio.sleep(left_s)
                left_s = min(self._written[name] + BUILD_AFTER_S, latest) - time.monotonic()
            rows = self._unbuilt[name]
            await client.flush(name, timeout=TIMEOUT_S)
            self._unbuilt[name] -= rows
        except (
            MilvusException,
            grpc.RpcError,
            OSError,
        ) as error:  # the server limits how often, or the collection is gone
            log.info("the index is built later", collection=name, error=str(failure(error)))
        finally:
            self._building.pop(name, None)

    async def _seen(self, client: AsyncMilvusClient, shelf: _Shelf) -> None:
        """Return once every reader sees what was written."""
        await client.query(
            shelf.name, 'chunk == ""', output_fields=["chunk"], limit=1, consistency_level="Strong", timeout=TIMEOUT_S
        )

    async def update_payload(
        self, collection: str, document: str, *, title: str, groups: Groups, fields: Metadata
    ) -> None:
        """The server replaces whole rows only: they are read, changed and written, a part at a time."""
        words: dict[str, Any] = {"title": json.dumps(title), "readers": _readers(groups)}
        async with self._on(collection) as (client, shelf):
            words |= _values(shelf, fields)
            where = f"document == {_text(document)}"
            async for rows in self._all(client, shelf, where, [*STORED, "embedding"]):
                await self._write(client, shelf, [{**row, **words} for row in rows])

    async def delete(self, collection: str, below: Mapping[str, int]) -> None:
        async with self._on(collection) as (client, shelf):
            for document, content in below.items():
                where = f"document == {_text(document)} and content < {content}"
                await client.delete(shelf.name, filter=where, timeout=TIMEOUT_S)
            if below:
                await self._seen(client, shelf)

    async def search(self, collection: str, vector: NDArray[np.float32], *, top_k: int, scope: Scope) -> list[Hit]:
        async with self._on(collection) as (client, shelf):
            check(vector[None, :], count=1, dim=shelf.dim, engine=ENGINE)
            where, wanted = _where(shelf, scope), min(top_k + TIED, MOST_HITS)
            while True:
                search = {**self._search, **({"ef": max(self._search["ef"], wanted)} if "ef" in self._search else {})}
                (found,) = await client.search(
                    shelf.name, [vector], limit=wanted, filter=where, output_fields=STORED, anns_field="embedding",
                    search_params={"metric_type": "IP", "params": search}, consistency_level="Eventually",
                    timeout=TIMEOUT_S,
                )  # fmt: skip
                scores = [row["distance"] for row in found]
                if len(scores) < wanted or scores[-1] < scores[top_k - 1] or wanted == MOST_HITS:
                    break
                wanted = min(8 * wanted, MOST_HITS)
            hits = [_hit(row["entity"], row["distance"]) for row in found]
            if len(hits) < (wanted if scope.conditions or scope.groups else top_k):
                hits = await self._exact(client, shelf, vector, where) or hits
        return sorted(hits, key=lambda hit: (-hit.score, hit.chunk.id))[:top_k]

    async def _exact(
        self, client: AsyncMilvusClient, shelf: _Shelf, vector: NDArray[np.float32], where: str
    ) -> list[Hit]:
        """All that is in a rare scope, scored here; [] where it is not rare. What was written lately stands under an index of
        the server's own, which looks into an eighth of it and finds a part of a rare scope only."""
        rows = await client.query(
            shelf.name, where, output_fields=[*STORED, "embedding"], limit=RARE, consistency_level="Eventually",
            timeout=TIMEOUT_S,
        )  # fmt: skip
        if len(rows) == RARE:
            return []
        scores = np.array([row["embedding"] for row in rows], np.float32).reshape(-1, shelf.dim) @ vector
        return [_hit(row, float(score)) for row, score in zip(rows, scores, strict=True)]

    async def contents(self, collection: str) -> dict[tuple[str, int], int]:
        books: Counter[tuple[str, int]] = Counter()
        async with self._on(collection) as (client, shelf):
            async for rows in self._all(client, shelf, "", ["chunk", "document", "content"]):
                books.update((row["document"], row["content"]) for row in rows)
        return dict(books)

    async def _all(self, client: AsyncMilvusClient, shelf: _Shelf, where: str, fields: list[str]) -> Any:
        """Every row, by id, in parts. Without `reduce_stop_for_best`, which the vendor's iterator sets: it leaves out a row of
        each segment that has ended."""
        last, most = "", MOST_HITS if "embedding" not in fields else 1_000
        while True:
            beyond = f"chunk > {_text(last)}"
            rows = await client.query(
                shelf.name, f"{where} and {beyond}" if where else beyond, output_fields=fields, limit=most,
                consistency_level="Strong", timeout=TIMEOUT_S, iterator="True",
            )  # fmt: skip
            if rows:
                yield list(rows)
            if len(rows) < most:
                return
            last = max(row["chunk"] for row in rows)

    async def aclose(self) -> None:
        self._closed = True
        building = list(self._building.values())
        for task in building:
            task.cancel()
        await asyncio.gather(*building, return_exceptions=True)
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    @contextlib.asynccontextmanager
    async def _on(self, collection: str) -> Any:
        with _translated(collection):
            client = await self._opened()
            shelf = self._shelves.get(collection) or await self._found(client, collection)
            try:
                yield client, shelf
            except MilvusException as error:
                if _code(error) in GONE:
                    self._shelves.pop(collection, None)
                raise

    async def _found(self, client: AsyncMilvusClient, collection: str) -> _Shelf:
        told = await client.describe_collection(_name(collection), timeout=TIMEOUT_S)
        fields = {name: FieldType(kind) for name, kind in json.loads(told["description"] or "{}").items()}
        (dim,) = (int(field["params"]["dim"]) for field in told["fields"] if field["name"] == "embedding")
        shelf = self._shelves[collection] = _Shelf(_name(collection), dim, fields)
        return shelf

    async def _opened(self) -> AsyncMilvusClient:
        async with self._opening:
            if self._closed:
                raise EngineUnavailable(
                    "The vector store is closed.", next_step="Send the request again.", engine=ENGINE
                )
            if self._client is None:
                client = AsyncMilvusClient(**self._given)
                try:
                    check_version(str(await client.get_server_version(timeout=CONNECT_S)))
                except BaseException:
                    await client.close()
                    raise
                self._client = client
            return self._client


def check_version(version: str) -> None:
    """Raises EngineRejected: too old."""
    found = re.match(r"v?(\d+)\.(\d+)", version)
    if not found or (int(found[1]), int(found[2])) < OLDEST:
        raise EngineRejected(
            f"The Milvus server is {version}; the oldest that is supported is {'.'.join(map(str, OLDEST))}.",
            next_step="Use a newer server.",
            engine=ENGINE,
        )


def _numbers(defaults: Mapping[str, int], words: dict[str, str]) -> dict[str, int]:
    try:
        return {name: int(words.pop(name, default)) for name, default in defaults.items()}
    except ValueError as error:
        raise ConfigurationError(
            f"vectors: {', '.join(defaults)} are whole numbers ({error}).", next_step="Correct the URL."
        ) from error


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _rows(shelf: _Shelf, records: Sequence[Record], vectors: Vectors) -> list[dict[str, Any]]:
    """One a chunk, the last that was given."""
    check(vectors, count=len(records), dim=shelf.dim, engine=ENGINE)
    rows = {
        record.chunk.id: {
            "chunk": record.chunk.id, "document": encodable(record.chunk.document), "content": record.chunk.content,
            "payload": _payload(record), "title": json.dumps(record.title), "readers": _readers(record.groups),
            **_values(shelf, record.fields), "embedding": vector,
        }
        for record, vector in zip(records, vectors, strict=True)
    }  # fmt: skip
    return list(rows.values())


def _parts(rows: Sequence[dict[str, Any]], dim: int) -> Iterator[list[dict[str, Any]]]:
    """As many at a time as a message takes."""
    sizes = np.cumsum([4 * dim + len(row["payload"]) + len(row["title"]) + 64 * len(row["readers"]) for row in rows])
    numbered = zip((sizes // MOST_BYTES).tolist(), rows, strict=True)
    return ([row for _, row in part] for _, part in groupby(numbered, key=lambda one: one[0]))


def _payload(record: Record) -> str:
    one = record.chunk
    payload = json.dumps(
        [one.ordinal, encodable(one.text), one.start, one.end, one.page, one.headings, record.uri], ensure_ascii=False
    )
    if len(payload.encode()) > MOST_TEXT_BYTES:
        raise EngineRejected(
            f"A chunk of {record.uri} takes {len(payload.encode()):,} bytes; Milvus holds {MOST_TEXT_BYTES:,} in a text.",
            next_step="Set a smaller chunk_tokens for the namespace, then `ragline reindex --reparse`.",
            engine=ENGINE,
        )
    return payload


def _hit(row: Mapping[str, Any], score: float) -> Hit:
    ordinal, text, start, end, page, headings, uri = json.loads(row["payload"])
    chunk = Chunk(row["chunk"], row["document"], row["content"], ordinal, text, start, end, page, tuple(headings))
    return Hit(chunk, uri, json.loads(row["title"]), min(1.0, max(-1.0, score)), "cosine")


def _readers(groups: Groups) -> list[str]:
    return [f"group:{encodable(group)}" for group in sorted(groups)] or [EVERYONE]


def _values(shelf: _Shelf, fields: Metadata) -> dict[str, list[Scalar]]:
    if unknown := fields.keys() - shelf.fields.keys():
        raise EngineRejected(
            f"The field {sorted(unknown)[0]!r} is not declared in this collection.",
            next_step="Run `ragline reindex NAMESPACE`: its fields were declared after it was made.",
            engine=ENGINE,
        )
    return {column: _held(name, fields.get(name, ()), shelf.fields[name]) for name, column in shelf.columns.items()}


def _held(name: str, value: Scalar | Sequence[Scalar], kind: FieldType) -> list[Scalar]:
    values = [value] if isinstance(value, str | int | float) else list(value)
    if kind is FieldType.KEYWORD:
        return [encodable(str(one)) for one in values]
    if len(values) > MOST_VALUES and kind is not FieldType.BOOLEAN:
        raise EngineRejected(
            f"The field {name!r} has {len(values)} values; Milvus can be asked for {MOST_VALUES}.",
            next_step=f"Give at most {MOST_VALUES} numbers or dates in one field, or choose another vector store.",
            engine=ENGINE,
        )
    return [float(one) for one in values] if kind is FieldType.NUMBER else values


# ── filters ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _where(shelf: _Shelf, scope: Scope) -> str:
    readers = ", ".join(_text(word) for word in (EVERYONE, *(f"group:{group}" for group in sorted(scope.groups))))
    return " and ".join(
        [f"array_contains_any(readers, [{readers}])", *(_clause(shelf, one) for one in scope.conditions)]
    )


def _clause(shelf: _Shelf, condition: Condition) -> str:
    column, kind = shelf.columns[condition.field], shelf.fields[condition.field]
    if isinstance(condition, AnyOf):
        wanted = [one for one in condition.values if not _is_least(one)]
        clauses = (
            [f"array_contains_any({column}, [{', '.join(_value(one, kind) for one in wanted)}])"] if wanted else []
        )
        if len(wanted) < len(condition.values):  # the server's language has no word for the least of the integers
            clauses += [_any_place(column, kind, Between(condition.field, None, LEAST + 1), but=str(LEAST + 1))]
        return f"({' or '.join(clauses)})"
    return _any_place(column, kind, condition)


def _any_place(column: str, kind: FieldType, bounds: Between, *, but: str = "") -> str:
    """Whether the value in any of the places lies within."""
    low, high = _bound(bounds.gte, kind, math.ceil), _bound(bounds.lte, kind, math.floor)

    def within(at: int) -> str:
        place = f"{column}[{at}]"  # beyond the end of the list, every comparison is false
        parts = [f"{place} >= {low}"] if low is not None else []
        parts += [f"{place} <= {high}"] if high is not None else []
        parts += [f"{place} != {but}"] if but else []
        return f"({' and '.join(parts)})" if parts else f"({place} >= 0 or {place} < 0)"

    return f"({' or '.join(within(at) for at in range(MOST_VALUES))})"


LEAST = -(2**63)


def _is_least(value: Scalar) -> bool:
    return not isinstance(value, str | bool) and value == LEAST


def _bound(value: float | None, kind: FieldType, whole: Callable[[float], int]) -> str | None:
    """As the server compares it with a column of `kind`: an integer with integers alone."""
    if value is None or math.isinf(value):
        return None
    return repr(float(value)) if kind is FieldType.NUMBER else str(max(whole(value), LEAST + 1))


def _value(value: Scalar, kind: FieldType) -> str:
    if kind is FieldType.KEYWORD:
        return _text(str(value))
    if kind is FieldType.BOOLEAN:
        return "true" if value else "false"
    return repr(float(value)) if kind is FieldType.NUMBER else repr(int(value))


def _text(text: str) -> str:
    """A literal of the server's language, in which a quotation mark or a backslash ends nothing."""
    return json.dumps(encodable(text), ensure_ascii=False)


def _name(collection: str) -> str:
    """Milvus takes letters, digits and underscores."""
    return PREFIX + re.sub(r"[^a-zA-Z0-9]", lambda found: f"_{ord(found[0]):02x}", collection)


def _collection(name: str) -> str:
    return re.sub(r"_([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), name.removeprefix(PREFIX))


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _translated(collection: str) -> Iterator[None]:
    try:
        yield
    except EngineError:
        raise
    except (MilvusException, grpc.RpcError, TimeoutError, OSError, ValueError) as error:
        raise failure(error, collection) from error


def _code(error: BaseException) -> int:
    code = getattr(error, "code", 0)
    return int(code) if isinstance(code, int) else 0


def failure(error: BaseException, collection: str = "") -> EngineError:
    """The error table: what pymilvus and gRPC raise, in words of our tree."""
    words = " ".join(str(getattr(error, "message", "") or error).split())[:300]
    cause = error.__cause__ or error.__context__  # where a connection was not made, it alone says why
    code, low = _code(error), f"{words} {cause.details() if isinstance(cause, grpc.aio.AioRpcError) else ''}".lower()
    if code in GONE or "collection not found" in low or "can't find collection" in low:
        return EngineRejected(
            f"There is no vector collection {collection}.",
            next_step="Run `ragline reindex NAMESPACE`: it is made anew from the blobs.",
            engine=ENGINE,
        )
    if "auth check failure" in low or "unauthenticated" in low or "permission" in low:
        return EngineDenied(
            f"Milvus refuses the user ({words}).", next_step="Correct user and password in the URL.", engine=ENGINE
        )
    if isinstance(error, TimeoutError) or "retry timeout" in low or "deadline exceeded" in low:
        if any(word in low for word in ("unavailable", "fail connecting", "failed to connect")):
            return _away(words)
        return EngineTimeout(f"Milvus did not answer in time ({words}).", next_step=NEXT_STEP, engine=ENGINE)
    if "larger than max" in low or ("exceeds" in low and "message" in low):
        return EngineRejected(
            f"It is over a limit of Milvus ({words}).",
            next_step="Send less at a time, or shorter texts.",
            engine=ENGINE,
        )
    if code in NOT_NOW and code not in (1, 2):
        return EngineUnavailable(f"{NOT_NOW[code]} ({words}).", next_step=NEXT_STEP, engine=ENGINE)
    if code in (1, 2) or isinstance(error, grpc.RpcError | OSError) or "connect" in low or "unavailable" in low:
        return _away(words)
    return EngineRejected(
        f"Milvus refused the call ({code or type(error).__name__}: {words}).",
        next_step="This is a defect of Ragline: report it with the log.",
        engine=ENGINE,
    )


def _away(words: str) -> EngineUnavailable:
    return EngineUnavailable(
        f"Milvus is not reached ({words}).",
        next_step="Check host, port and TLS in the URL, and that the server runs.",
        engine=ENGINE,
    )
