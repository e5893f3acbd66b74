"""Elasticsearch beside elasticsearch-py: its bulk helper with packed vectors, and a search body written by hand."""

from __future__ import annotations

import asyncio
import importlib.metadata
import tempfile
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import elasticsearch
import numpy as np
from elasticsearch.helpers import async_bulk, pack_dense_vector
from numpy.typing import NDArray

from bench.adapters.engine import Engine
from ragline.connections.elasticsearch import ElasticsearchServer
from ragline.connections.elasticsearch_url import options_of
from ragline.protocols import Vectors
from ragline.types import Record
from ragline.vectors.elasticsearch import ElasticsearchVectorStore
from tests.engines.elasticsearch import Elasticsearch, node

JVM = ("-Xms1g", "-Xmx1g", "-Dlog4j2.disable.jmx=true")
"""Both compilers, as in production."""


class Client:
    def __init__(self, host: str) -> None:
        self._client = elasticsearch.AsyncElasticsearch(f"http://{host}", request_timeout=60)
        self._index = f"bench-{uuid.uuid4().hex[:8]}"

    async def make(self, dim: int) -> None:
        vector = {
            "type": "dense_vector", "dims": dim, "similarity": "cosine", "index_options": {"type": "int8_hnsw"}
        }  # fmt: skip
        keyword = {"type": "keyword"}
        await self._client.indices.create(
            index=self._index,
            settings={"number_of_replicas": 0, "refresh_interval": "30s"},
            mappings={"dynamic": False, "properties": {"vector": vector, "access": keyword, "chunk": keyword,
                      "document": keyword, "content": {"type": "long"}}},
        )  # fmt: skip

    async def insert(self, records: Sequence[Record], vectors: Vectors) -> None:
        await async_bulk(
            self._client, (self._row(*pair) for pair in zip(records, vectors, strict=True)), chunk_size=500
        )
        await self._client.indices.refresh(index=self._index)

    def _row(self, record: Record, vector: NDArray[np.float32]) -> dict[str, Any]:
        chunk = record.chunk
        return {
            "_op_type": "index", "_index": self._index, "_id": chunk.id, "chunk": chunk.id, "document": chunk.document,
            "content": chunk.content, "place": [chunk.ordinal, chunk.start, chunk.end, chunk.page],
            "headings": chunk.headings, "uri": record.uri, "title": record.title, "access": ["everyone"],
            "text": chunk.text, "vector": pack_dense_vector(vector),
        }  # fmt: skip

    async def search(self, vector: NDArray[np.float32], *, top_k: int) -> list[str]:
        near = {
            "field": "vector", "query_vector": vector.tolist(), "k": 150, "num_candidates": 150,
            "rescore_vector": {"oversample": 1.0}, "filter": {"terms": {"access": ["everyone", "group:staff"]}},
        }  # fmt: skip
        found = await self._client.search(
            index=self._index, query={"knn": near}, size=top_k, sort=[{"_score": "desc"}, {"chunk": "asc"}],
            track_total_hits=False,
        )  # fmt: skip
        return [str(one["_source"]["chunk"]) for one in found["hits"]["hits"] if one["_source"]["text"]]

    async def remove(self) -> None:
        await self._client.options(ignore_status=404).indices.delete(index=self._index)
        await self._client.close()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Engine]:
    with tempfile.TemporaryDirectory(prefix="ragline-bench-") as folder:
        server = Elasticsearch(urlsplit(url).netloc) if url else node(Path(folder), jvm=JVM)
        if not url:
            await asyncio.to_thread(server.start)
        options = options_of(server.url(), "vectors")
        adapter = ElasticsearchVectorStore(ElasticsearchServer(options.server), options)
        try:
            version = server.ask("GET", "")["version"]["number"]
            client = importlib.metadata.version("elasticsearch")
            yield Engine(adapter, Client(server.host), f"Elasticsearch {version}, elasticsearch-py {client}, int8_hnsw")
        finally:
            await adapter.aclose()
            if not url:
                await asyncio.to_thread(server.stop)
