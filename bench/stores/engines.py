"""Each engine as its own server, new for each line of the table, and the URL that a user would set."""

from __future__ import annotations

import asyncio
import importlib.metadata
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pymilvus import MilvusClient
from pymilvus.grpc_gen.common_pb2 import SegmentState

from bench.adapters.elasticsearch import JVM
from bench.adapters.pgvector import DURABLE
from ragline.vectors.milvus_rows import PREFIX
from tests.engines import elasticsearch, milvus, postgres

Role = Literal["vectors", "keywords"]
SEALED_WITHIN_S = 120.0
LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Running:
    """url: of the setting; empty: embedded.  process: the server's id, or none: this one.

    settled: a collection → returns when nothing is left to be done for what was written, where the engine has such work.
    """

    url: str
    words: str
    process: int | None = None
    settled: Callable[[str], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table. `words`: of the URL's query; of an embedded engine, its scheme, empty for the default."""

    name: str
    role: Role
    server: Literal["embedded", "elasticsearch", "milvus", "postgresql"]
    words: str = ""


LINES = (
    Line("FAISS, embedded", "vectors", "embedded"),
    Line("LanceDB, embedded", "vectors", "embedded", "lancedb"),
    Line("Elasticsearch hnsw", "vectors", "elasticsearch", "index=hnsw"),
    Line("Elasticsearch int8_hnsw", "vectors", "elasticsearch", "index=int8_hnsw"),
    Line("Elasticsearch bbq_hnsw", "vectors", "elasticsearch", "index=bbq_hnsw"),
    Line("Milvus HNSW", "vectors", "milvus", "index=HNSW"),
    Line("Milvus IVF_FLAT", "vectors", "milvus", "index=IVF_FLAT"),
    Line("Milvus IVF_PQ", "vectors", "milvus", "index=IVF_PQ"),
    Line("pgvector hnsw", "vectors", "postgresql"),
    Line("pgvector hnsw, halfvec", "vectors", "postgresql", "type=halfvec"),
    Line("Tantivy, embedded", "keywords", "embedded"),
    Line("Elasticsearch", "keywords", "elasticsearch"),
)


@asynccontextmanager
async def running(line: Line) -> AsyncIterator[Running]:
    with tempfile.TemporaryDirectory(prefix="ragline-bench-") as folder:
        if line.server == "embedded":
            package = line.words or ("faiss-cpu" if line.role == "vectors" else "tantivy")
            yield Running(
                f"lancedb://{folder}" if line.words else "", f"{package} {importlib.metadata.version(package)}"
            )
            return
        started = {"elasticsearch": _elasticsearch, "milvus": _milvus, "postgresql": _postgresql}[line.server]
        async with started(line, Path(folder)) as server:
            yield server


@asynccontextmanager
async def _elasticsearch(line: Line, folder: Path) -> AsyncIterator[Running]:
    node = elasticsearch.node(folder, jvm=JVM)
    async with _up(node.start, node.stop):
        version = node.ask("GET", "")["version"]["number"]
        url = node.url("bench") + (f"&{line.words}" if line.words else "")
        yield Running(url, f"Elasticsearch {version}, heap of 1 GiB", _id(node._process))


@asynccontextmanager
async def _milvus(line: Line, folder: Path) -> AsyncIterator[Running]:
    server = milvus.standalone(folder)
    async with _up(server.start, server.stop):
        client = MilvusClient(uri=server.url.replace("milvus:", "http:"), timeout=60.0)
        try:
            yield Running(
                f"{server.url}?{line.words}", f"Milvus {milvus.VERSION}", _id(server._process),
                lambda collection: asyncio.to_thread(sealed, client, PREFIX + collection),
            )  # fmt: skip
        finally:
            client.close()


def sealed(client: MilvusClient, name: str) -> None:
    """End the growing segment, which has an index of the server's own, and wait for the one that was asked for."""
    client.flush(name)
    deadline = time.monotonic() + SEALED_WITHIN_S
    while time.monotonic() < deadline:
        told = client.describe_index(name, "embedding")
        loaded = client.list_loaded_segments(name)
        if (
            told["pending_index_rows"] == 0
            and loaded
            and all(one.state == SegmentState.Value("Sealed") for one in loaded)
        ):
            return
        time.sleep(LOOK_S)
    raise TimeoutError(f"{name}: no index within {SEALED_WITHIN_S:.0f} s: {told}, {loaded}")


@asynccontextmanager
async def _postgresql(line: Line, folder: Path) -> AsyncIterator[Running]:
    with postgres.server(DURABLE) as server:
        ((version,),) = await server.run("SHOW server_version")
        ((extension,),) = await server.run("SELECT default_version FROM pg_available_extensions WHERE name = 'vector'")
        url = await server.database() + (f"?{line.words}" if line.words else "")
        yield Running(url, f"PostgreSQL {version}, pgvector {extension}", _id(server._process))


@asynccontextmanager
async def _up(start: Callable[[], None], stop: Callable[[], None]) -> AsyncIterator[None]:
    await asyncio.to_thread(start)
    try:
        yield
    finally:
        await asyncio.to_thread(stop)


def _id(process: object) -> int:
    found = getattr(process, "pid", None)
    assert isinstance(found, int)
    return found
