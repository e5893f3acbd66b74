"""Milvus beside pymilvus: the same columns and index, an upsert and a search written by hand."""

from __future__ import annotations

import asyncio
import importlib.metadata
import tempfile
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from pymilvus import AsyncMilvusClient, DataType

from bench.adapters.engine import Engine
from ragline.protocols import Vectors
from ragline.types import Record
from ragline.vectors.milvus import MilvusVectorStore
from tests.engines.milvus import standalone

SHOWN = ["chunk", "document", "content", "ordinal", "first", "last", "page", "headings", "uri", "title", "body"]


class Client:
    def __init__(self, host: str) -> None:
        self._client = AsyncMilvusClient(uri=f"http://{host}", timeout=30.0, dedicated=True)
        self._name = f"bench_{uuid.uuid4().hex[:8]}"

    async def make(self, dim: int) -> None:
        schema = AsyncMilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("chunk", DataType.VARCHAR, is_primary=True, max_length=512)
        for name in ("document", "uri", "title", "body"):
            schema.add_field(name, DataType.VARCHAR, max_length=65_535)
        for name in ("content", "ordinal", "first", "last", "page"):
            schema.add_field(name, DataType.INT64)
        for name in ("headings", "readers"):
            schema.add_field(name, DataType.ARRAY, element_type=DataType.VARCHAR, max_length=65_535, max_capacity=4_096)
        schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=dim)
        index = self._client.prepare_index_params()
        index.add_index("embedding", index_type="HNSW", metric_type="IP", params={"M": 16, "efConstruction": 200})
        await self._client.create_collection(self._name, schema=schema, index_params=index)
        await self._client.load_collection(self._name)

    async def insert(self, records: Sequence[Record], vectors: Vectors) -> None:
        rows = [
            {"chunk": one.chunk.id, "document": one.chunk.document, "content": one.chunk.content,
             "ordinal": one.chunk.ordinal, "first": one.chunk.start, "last": one.chunk.end, "page": one.chunk.page,
             "headings": list(one.chunk.headings), "uri": one.uri, "title": one.title, "body": one.chunk.text,
             "readers": ["*"], "embedding": vector}
            for one, vector in zip(records, vectors, strict=True)
        ]  # fmt: skip
        await self._client.upsert(self._name, rows)
        await self._client.query(
            self._name, 'chunk == ""', output_fields=["chunk"], limit=1, consistency_level="Strong"
        )

    async def search(self, vector: NDArray[np.float32], *, top_k: int) -> list[str]:
        (found,) = await self._client.search(
            self._name, [vector], limit=top_k, filter='array_contains_any(readers, ["*", "group:staff"])',
            output_fields=SHOWN, anns_field="embedding", search_params={"metric_type": "IP", "params": {"ef": 100}},
            consistency_level="Eventually",
        )  # fmt: skip
        return [str(row["entity"]["chunk"]) for row in found if row["entity"]["body"]]

    async def remove(self) -> None:
        await self._client.drop_collection(self._name)
        await self._client.close()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Engine]:
    with tempfile.TemporaryDirectory(prefix="ragline-bench-") as folder:
        server = None if url else standalone(Path(folder))
        if server:
            await asyncio.to_thread(server.start)
            url = server.url
        adapter = MilvusVectorStore(url)
        try:
            client = Client(urlsplit(url).netloc)
            version = await client._client.get_server_version()
            words = f"Milvus {version}, pymilvus {importlib.metadata.version('pymilvus')}, HNSW"
            yield Engine(adapter, client, words)
        finally:
            await adapter.aclose()
            if server:
                await asyncio.to_thread(server.stop)
