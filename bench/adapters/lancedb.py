"""LanceDB beside its own client: the same columns, merged by the chunk's id, compared whole."""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bench.adapters.engine import Engine
from ragline.protocols import Vectors
from ragline.types import Record
from ragline.vectors.lancedb import INDEX_FROM, LanceDBVectorStore


class Client:
    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._table: Any = None

    async def make(self, dim: int) -> None:
        self._dim = dim
        text = ("chunk", "document", "payload", "title")
        self._schema = pa.schema(
            [*((name, pa.string()) for name in text), ("content", pa.int64()), ("readers", pa.list_(pa.string())),
             ("vector", pa.list_(pa.float32(), dim))]
        )  # fmt: skip
        self._database = await lancedb.connect_async(self._folder)
        self._table = await self._database.create_table("chunks", schema=self._schema)

    async def insert(self, records: Sequence[Record], vectors: Vectors) -> None:
        columns: dict[str, Any] = {
            "chunk": [one.chunk.id for one in records], "document": [one.chunk.document for one in records],
            "payload": [_payload(one) for one in records], "title": [one.title for one in records],
            "content": [one.chunk.content for one in records], "readers": [["*"]] * len(records),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), self._dim),
        }  # fmt: skip
        merge = self._table.merge_insert("chunk").when_matched_update_all().when_not_matched_insert_all()
        await merge.execute(pa.table(columns, schema=self._schema))

    async def search(self, vector: NDArray[np.float32], *, top_k: int) -> list[str]:
        query = self._table.query().nearest_to(vector).distance_type("cosine").limit(top_k)
        query = query.where("array_has_any(readers, ['*', 'group:staff'])").bypass_vector_index()
        rows = (await query.select(["chunk", "content", "payload", "title", "_distance"]).to_arrow()).to_pylist()
        return [str(row["chunk"]) for row in rows if json.loads(row["payload"])]

    async def remove(self) -> None:
        self._database.close()  # type: ignore[no-untyped-call]


def _payload(record: Record) -> str:
    one = record.chunk
    return json.dumps([one.document, one.ordinal, one.text, one.start, one.end, one.page, one.headings, record.uri])


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Engine]:
    """`url`: nothing; both get folders of their own. No index: both compare everything."""
    with tempfile.TemporaryDirectory(prefix="ragline-bench-") as folder:
        adapter = LanceDBVectorStore(f"lancedb:{folder}/adapter?index_from={10 * INDEX_FROM}")
        try:
            yield Engine(
                adapter, Client(f"{folder}/client"), f"LanceDB {importlib.metadata.version('lancedb')}, no index"
            )
        finally:
            await adapter.aclose()
