"""pgvector beside asyncpg: the same table and indexes, an upsert and a search written by hand.

Both tell the planner to take the index of the vectors; a plain WHERE reads and sorts the whole table.
"""

from __future__ import annotations

import importlib.metadata
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager

import asyncpg
import numpy as np
from numpy.typing import NDArray
from pgvector import Vector
from pgvector.asyncpg import register_vector

from bench.adapters.engine import Engine
from ragline.protocols import Vectors
from ragline.types import Record
from ragline.vectors.pgvector import PgvectorVectorStore
from tests.engines.postgres import server

DURABLE = ("shared_buffers=512MB", "maintenance_work_mem=256MB")
"""As in production: what the tests do without to be quick, this server does."""

COLUMNS = (
    "chunk", "document", "content", "ordinal", "first", "last", "page", "headings", "uri", "title", "body", "readers",
    "embedding",
)  # fmt: skip

TABLE = """
CREATE TABLE {name} (
    chunk text COLLATE "C" PRIMARY KEY, document text, content bigint, ordinal integer, first integer, last integer,
    page integer, headings text[], uri text, title text, body text, readers text[], embedding vector({dim})
);
CREATE INDEX ON {name} (document, content);
CREATE INDEX ON {name} USING gin (readers);
CREATE INDEX ON {name} USING hnsw (embedding vector_cosine_ops) WITH (m = 16, ef_construction = 64)
"""


class Client:
    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool, self._name = pool, f"bench_{uuid.uuid4().hex[:8]}"

    async def make(self, dim: int) -> None:
        await self._pool.execute(TABLE.format(name=self._name, dim=dim))

    async def insert(self, records: Sequence[Record], vectors: Vectors) -> None:
        marks = ", ".join(f"${at}" for at in range(1, len(COLUMNS) + 1))
        sets = ", ".join(f"{name} = excluded.{name}" for name in COLUMNS[1:])
        rows = [
            (one.chunk.id, one.chunk.document, one.chunk.content, one.chunk.ordinal, one.chunk.start, one.chunk.end,
             one.chunk.page, one.chunk.headings, one.uri, one.title, one.chunk.text, ["*"], Vector(vector))
            for one, vector in zip(records, vectors, strict=True)
        ]  # fmt: skip
        statement = f"INSERT INTO {self._name} ({', '.join(COLUMNS)}) VALUES ({marks})"
        await self._pool.executemany(f"{statement} ON CONFLICT (chunk) DO UPDATE SET {sets}", rows)

    async def search(self, vector: NDArray[np.float32], *, top_k: int) -> list[str]:
        rows = await self._pool.fetch(
            f"SELECT {', '.join(COLUMNS[:-2])}, embedding <=> $1 AS distance FROM {self._name} "
            "WHERE CASE WHEN readers && $2 THEN true ELSE false END ORDER BY embedding <=> $1 LIMIT $3",
            Vector(vector), ["*", "group:staff"], top_k,
        )  # fmt: skip
        return [str(row["chunk"]) for row in rows if row["body"]]

    async def remove(self) -> None:
        await self._pool.execute(f"DROP TABLE IF EXISTS {self._name}")


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Engine]:
    with ExitStack() as stack:
        if not url:
            url = await stack.enter_context(server(DURABLE)).database()
        adapter = PgvectorVectorStore(url)
        await adapter.collections()  # the extension is there after it
        scan = {"hnsw.iterative_scan": "strict_order", "hnsw.ef_search": "100", "random_page_cost": "1.1"}
        async with asyncpg.create_pool(url, init=register_vector, server_settings=scan) as pool:
            try:
                version, extension = await pool.fetchrow(
                    "SELECT current_setting('server_version'), extversion FROM pg_extension WHERE extname = 'vector'"
                )
                asyncpg_version = importlib.metadata.version("asyncpg")
                words = f"PostgreSQL {version}, pgvector {extension}, asyncpg {asyncpg_version}, hnsw"
                yield Engine(adapter, Client(pool), words)
            finally:
                await adapter.aclose()
