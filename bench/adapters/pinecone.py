"""Pinecone beside the vendor's own client, against one played service in a process of its own.

It says what the adapter costs, not how fast Pinecone is: the played service answers by brute force, from memory, next door.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pinecone import AsyncIndex, AsyncPinecone

from bench.adapters.engine import Engine
from ragline.protocols import Vectors
from ragline.types import Record
from ragline.vectors.pinecone import PineconeVectorStore
from ragline.vectors.pinecone_url import Options, options_of

AT_A_TIME = 200
"""Records of an upsert: as many of these as 2 MB hold, which the vendor advises."""
NAMESPACE = "client"


class Client:
    def __init__(self, options: Options) -> None:
        self._options = options
        self._project = AsyncPinecone(options.key or None, host=options.control or None)
        self._index: AsyncIndex | None = None

    @property
    def index(self) -> AsyncIndex:
        assert self._index
        return self._index

    async def make(self, dim: int) -> None:
        """In the adapter's index, which is made by now."""
        self._index = await self._project.index(name=self._options.indexes[0])
        await self.index.create_namespace(name=NAMESPACE, schema={"fields": {"access": {"filterable": True}}})

    async def insert(self, records: Sequence[Record], vectors: Vectors) -> None:
        rows = [self._row(*pair) for pair in zip(records, vectors.tolist(), strict=True)]
        told = await self.index.upsert(
            vectors=rows, namespace=NAMESPACE, batch_size=AT_A_TIME, max_concurrency=4, show_progress=False
        )
        assert told.failed_item_count == 0
        assert told.response_info
        place = told.response_info.lsn_committed
        zero = [1.0] + [0.0] * (vectors.shape[1] - 1)
        while True:
            seen = (await self.index.query(top_k=1, vector=zero, namespace=NAMESPACE)).response_info
            if place is None or (seen is not None and seen.is_reconciled(place)):
                return
            await asyncio.sleep(0.02)

    @staticmethod
    def _row(record: Record, values: list[float]) -> dict[str, Any]:
        chunk = record.chunk
        metadata = {
            "document": chunk.document, "content": chunk.content, "ordinal": chunk.ordinal, "start": chunk.start,
            "end": chunk.end, "page": chunk.page, "headings": list(chunk.headings), "uri": record.uri,
            "title": record.title, "access": ["*"], "text": chunk.text,
        }  # fmt: skip
        return {"id": chunk.id, "values": values, "metadata": metadata}

    async def search(self, vector: NDArray[np.float32], *, top_k: int) -> list[str]:
        found = await self.index.query(
            top_k=top_k, vector=vector.tolist(), namespace=NAMESPACE, include_metadata=True,
            filter={"access": {"$in": ["*", "group:staff"]}},
        )  # fmt: skip
        return [one.id for one in found.matches if one.metadata and one.metadata["text"]]

    async def remove(self) -> None:
        await self.index.delete_namespace(name=NAMESPACE)
        await self.index.close()
        await self._project.close()


@asynccontextmanager
async def _playing() -> AsyncIterator[str]:
    command = [sys.executable, "-m", "tests.engines.pinecone"]
    server = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=dict(os.environ))
    assert server.stdout
    try:
        yield (await server.stdout.readline()).decode().strip()
    finally:
        server.terminate()
        await server.wait()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Engine]:
    async with _given(url) if url else _playing() as where:
        adapter = PineconeVectorStore(where)
        client = importlib.metadata.version("pinecone")
        try:
            words = "Pinecone" if url else "a played Pinecone"
            yield Engine(adapter, Client(options_of(where)), f"{words}, pinecone {client}")
        finally:
            await adapter.aclose()


@asynccontextmanager
async def _given(url: str) -> AsyncIterator[str]:
    yield url
