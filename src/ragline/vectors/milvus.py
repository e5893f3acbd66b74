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
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import grpc
import numpy as np
import structlog
from numpy.typing import NDArray
from pymilvus import AsyncMilvusClient, DataType, MilvusException

from ragline.errors import ConfigurationError, EngineRejected, EngineUnavailable
from ragline.protocols import Vectors
from ragline.types import FieldType, Groups, Hit, Metadata, Record, Scope
from ragline.vectors.fitting import check
from ragline.vectors.milvus_errors import ENGINE, GONE, check_version, code_of, failure, translated
from ragline.vectors.milvus_rows import (
    COLUMNS,
    MOST_READERS,
    MOST_TEXT_BYTES,
    PREFIX,
    STORED,
    Shelf,
    collection_of,
    hit_of,
    literal,
    name_of,
    parts_of,
    readers_of,
    rows_of,
    values_of,
    where_of,
)

log = structlog.get_logger()
logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)  # it logs what it raises as well, with a traceback

TIMEOUT_S = 30.0
CONNECT_S = 5.0
TIED = 32
"""Fetched beyond `top_k`, so that equal scores can be put in order; more where that is not the end of them."""
RARE = 1_000
"""Chunks in a scope, below which it is read and scored exactly when the index has found fewer than were asked for."""
MOST_HITS = 16_384
"""Of one search or query: the server's own limit."""
BUILD_AFTER_ROWS, BUILD_AFTER_S, BUILD_AT_LATEST_S = 1_000, 5.0, 60.0
"""Rows that were written, and how long ago the last of them, when the server is told to build its index of them; and while more
keep coming. By itself it waits for ten minutes, and meanwhile looks into a part of them only."""

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
        self._shelves: dict[str, Shelf] = {}
        self._unbuilt: Counter[str] = Counter()
        self._written: dict[str, float] = {}
        self._building: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    async def create(self, collection: str, *, dim: int, fields: Mapping[str, FieldType]) -> None:
        with translated(collection):
            client, name = await self._opened(), name_of(collection)
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
        shelf = Shelf(name, dim, fields)
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
        with translated(collection):
            await (await self._opened()).drop_collection(name_of(collection), timeout=TIMEOUT_S)
        self._shelves.pop(collection, None)

    async def collections(self) -> list[str]:
        with translated(""):
            names = await (await self._opened()).list_collections(timeout=TIMEOUT_S)
        return sorted(collection_of(name) for name in names if name.startswith(PREFIX))

    async def upsert(self, collection: str, records: Sequence[Record], vectors: Vectors) -> None:
        if not records:
            return
        async with self._on(collection) as (client, shelf):
            rows = await asyncio.to_thread(rows_of, shelf, records, vectors)
            await self._write(client, shelf, rows)

    async def _write(self, client: AsyncMilvusClient, shelf: Shelf, rows: Sequence[dict[str, Any]]) -> None:
        for part in parts_of(rows):
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

    async def _seen(self, client: AsyncMilvusClient, shelf: Shelf) -> None:
        """Return once every reader sees what was written."""
        await client.query(
            shelf.name, 'chunk == ""', output_fields=["chunk"], limit=1, consistency_level="Strong", timeout=TIMEOUT_S
        )

    async def update_payload(
        self, collection: str, document: str, *, title: str, groups: Groups, fields: Metadata
    ) -> None:
        """The server replaces whole rows only: they are read, changed and written, a part at a time."""
        words: dict[str, Any] = {"title": json.dumps(title), "readers": readers_of(groups)}
        async with self._on(collection) as (client, shelf):
            words |= values_of(shelf, fields)
            where = f"document == {literal(document)}"
            async for rows in self._all(client, shelf, where, [*STORED, "embedding"]):
                await self._write(client, shelf, [{**row, **words} for row in rows])

    async def delete(self, collection: str, below: Mapping[str, int]) -> None:
        async with self._on(collection) as (client, shelf):
            for document, content in below.items():
                where = f"document == {literal(document)} and content < {content}"
                await client.delete(shelf.name, filter=where, timeout=TIMEOUT_S)
            if below:
                await self._seen(client, shelf)

    async def search(self, collection: str, vector: NDArray[np.float32], *, top_k: int, scope: Scope) -> list[Hit]:
        async with self._on(collection) as (client, shelf):
            check(vector[None, :], count=1, dim=shelf.dim, engine=ENGINE)
            where, wanted = where_of(shelf, scope), min(top_k + TIED, MOST_HITS)
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
            hits = [hit_of(row["entity"], row["distance"]) for row in found]
            if len(hits) < (wanted if scope.conditions or scope.groups else top_k):
                hits = await self._exact(client, shelf, vector, where) or hits
        return sorted(hits, key=lambda hit: (-hit.score, hit.chunk.id))[:top_k]

    async def _exact(
        self, client: AsyncMilvusClient, shelf: Shelf, vector: NDArray[np.float32], where: str
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
        return [hit_of(row, float(score)) for row, score in zip(rows, scores, strict=True)]

    async def contents(self, collection: str) -> dict[tuple[str, int], int]:
        books: Counter[tuple[str, int]] = Counter()
        async with self._on(collection) as (client, shelf):
            async for rows in self._all(client, shelf, "", ["chunk", "document", "content"]):
                books.update((row["document"], row["content"]) for row in rows)
        return dict(books)

    async def _all(self, client: AsyncMilvusClient, shelf: Shelf, where: str, fields: list[str]) -> Any:
        """Every row, by id, in parts. Without `reduce_stop_for_best`, which the vendor's iterator sets: it leaves out a row of
        each segment that has ended."""
        last, most = "", MOST_HITS if "embedding" not in fields else 1_000
        while True:
            beyond = f"chunk > {literal(last)}"
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
        with translated(collection):
            client = await self._opened()
            shelf = self._shelves.get(collection) or await self._found(client, collection)
            try:
                yield client, shelf
            except MilvusException as error:
                if code_of(error) in GONE:
                    self._shelves.pop(collection, None)
                raise

    async def _found(self, client: AsyncMilvusClient, collection: str) -> Shelf:
        told = await client.describe_collection(name_of(collection), timeout=TIMEOUT_S)
        fields = {name: FieldType(kind) for name, kind in json.loads(told["description"] or "{}").items()}
        (dim,) = (int(field["params"]["dim"]) for field in told["fields"] if field["name"] == "embedding")
        shelf = self._shelves[collection] = Shelf(name_of(collection), dim, fields)
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


def _numbers(defaults: Mapping[str, int], words: dict[str, str]) -> dict[str, int]:
    try:
        return {name: int(words.pop(name, default)) for name, default in defaults.items()}
    except ValueError as error:
        raise ConfigurationError(
            f"vectors: {', '.join(defaults)} are whole numbers ({error}).", next_step="Correct the URL."
        ) from error
