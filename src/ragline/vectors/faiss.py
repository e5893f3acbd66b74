"""The embedded vector store: FAISS in memory over rows in SQLite (docs/adr/0002).

The rows are the truth: an upsert is durable when SQLite has committed it, a killed process loses nothing, and the index
is filled again from the rows at start. A collection is a folder; see `faiss_collection` for what is in it.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from ragline.errors import EngineRejected, EngineUnavailable
from ragline.protocols import Vectors
from ragline.types import FieldType, Groups, Hit, Metadata, Record, Scope
from ragline.vectors.faiss_collection import Collection, NewerFormat

log = structlog.get_logger()

T = TypeVar("T")

ENGINE: Final = "vectors:faiss"

SEARCH_THREADS: Final = 4
"""Searches at once. Past the cores they only queue; the rest bounds what a slow disk can hold up."""


class FaissVectorStore:
    """`protocols.VectorStore` in a folder of its own. One process at a time (see `datafolder`)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, Collection] = {}
        self._opening = asyncio.Lock()
        self._searching = ThreadPoolExecutor(SEARCH_THREADS, thread_name_prefix="vectors-search")
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="vectors-write")

    async def create(self, collection: str, *, dim: int, fields: Mapping[str, FieldType]) -> None:
        def work() -> None:
            target = self._folder / collection
            found = Collection.shape(target)
            if found is not None and found != dim:
                raise EngineRejected(
                    f"Collection {collection} holds vectors of dimension {found}, not {dim}.",
                    next_step="It belongs to another embedder: use another collection, or drop it.",
                    engine=ENGINE,
                )
            if found is None:
                Collection.make(target, dim)

        await self._run(self._writing, work)

    async def drop(self, collection: str) -> None:
        async with self._opening:
            opened = self._open.pop(collection, None)

            def work() -> None:
                if opened is not None:
                    opened.close()
                if (self._folder / collection).exists():
                    Collection.unmake(self._folder / collection)
                    shutil.rmtree(self._folder / collection)

            await self._run(self._writing, work)

    async def collections(self) -> list[str]:
        def work() -> list[str]:
            if not self._folder.exists():
                return []
            return sorted(path.name for path in self._folder.iterdir() if Collection.shape(path) is not None)

        return await self._run(self._searching, work)

    async def upsert(self, collection: str, records: Sequence[Record], vectors: Vectors) -> None:
        opened = await self._get(collection)
        if vectors.shape != (len(records), opened.dim):
            raise EngineRejected(
                f"{len(records)} records with vectors of shape {vectors.shape}; {collection} has dimension {opened.dim}.",
                next_step="Embed with the model of the collection's space.",
                engine=ENGINE,
            )
        if not np.isfinite(vectors).all():
            raise EngineRejected(
                f"A vector for collection {collection} holds NaN or infinity.",
                next_step="Look at the embedder: it must return finite numbers.",
                engine=ENGINE,
            )
        if records:
            await self._run(self._writing, lambda: opened.upsert(records, vectors))

    async def update_payload(
        self, collection: str, document: str, *, title: str, groups: Groups, fields: Metadata
    ) -> None:
        opened = await self._get(collection)
        await self._run(self._writing, lambda: opened.update_payload(document, title, groups, fields))

    async def delete(self, collection: str, below: Mapping[str, int]) -> None:
        opened = await self._get(collection)
        await self._run(self._writing, lambda: opened.delete(below))

    async def search(self, collection: str, vector: NDArray[np.float32], *, top_k: int, scope: Scope) -> list[Hit]:
        opened = await self._get(collection)
        if vector.shape != (opened.dim,):
            raise EngineRejected(
                f"A query vector of shape {vector.shape}; collection {collection} has dimension {opened.dim}.",
                next_step="Embed the query with the model of the collection's space.",
                engine=ENGINE,
            )
        return await self._run(self._searching, lambda: opened.search(vector, top_k, scope))

    async def search_exactly(
        self, collection: str, vector: NDArray[np.float32], *, top_k: int, scope: Scope
    ) -> list[Hit]:
        opened = await self._get(collection)
        return await self._run(self._searching, lambda: opened.search_exactly(vector, top_k, scope))

    async def contents(self, collection: str) -> dict[tuple[str, int], int]:
        opened = await self._get(collection)
        return await self._run(self._searching, opened.contents)

    async def aclose(self) -> None:
        opened, self._open = list(self._open.values()), {}
        await asyncio.to_thread(self._writing.shutdown)
        await asyncio.to_thread(self._searching.shutdown)
        for collection in opened:
            await asyncio.to_thread(collection.keep)
            await asyncio.to_thread(collection.close)

    async def _get(self, collection: str) -> Collection:
        found = self._open.get(collection)
        if found is not None:
            return found
        async with self._opening:
            if collection not in self._open:
                opened = self._open[collection] = await self._run(self._writing, lambda: self._read(collection))
                self._writing.submit(_tend, collection, opened)
            return self._open[collection]

    def _read(self, collection: str) -> Collection:
        dim = Collection.shape(self._folder / collection)
        if dim is None:
            raise EngineRejected(
                f"Collection {collection} does not exist in {self._folder}.",
                next_step="`ragline reindex` builds a namespace's collections anew from its blobs.",
                engine=ENGINE,
            )
        return Collection(self._folder / collection, dim)

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        def call() -> T:
            with _translated():
                return work()

        try:
            return await asyncio.get_running_loop().run_in_executor(pool, call)
        except RuntimeError as error:
            if "shutdown" not in str(error):
                raise
            raise EngineUnavailable(
                "The vector store is closed.", next_step="Start the process again.", engine=ENGINE
            ) from error


def _tend(name: str, collection: Collection) -> None:
    """Nobody waits for it: a defect must be seen."""
    try:
        collection.tend()
    except Exception:
        log.exception("defect while learning from vectors", collection=name)


@contextmanager
def _translated() -> Iterator[None]:
    """The error table: SQLite's and the file system's errors in words of our tree."""
    try:
        yield
    except NewerFormat as error:
        raise EngineRejected(
            f"The vector store was written by a newer Ragline: {error}.",
            next_step="Start that one, or build it anew with `ragline reindex`.",
            engine=ENGINE,
        ) from error
    except sqlite3.DatabaseError as error:
        damaged = "malformed" in str(error) or "not a database" in str(error)
        raise EngineUnavailable(
            f"The vector store did not take the call: {error}.",
            next_step="Run `ragline reindex`: its rows are damaged." if damaged else "Check the disk's free space.",
            engine=ENGINE,
        ) from error
    except (UnicodeError, OverflowError) as error:
        raise EngineRejected(
            f"A record holds what the vector store cannot keep: {error}.",
            next_step="Remove half surrogates and numbers beyond 64 bits from the document and its metadata.",
            engine=ENGINE,
        ) from error
    except OSError as error:
        raise EngineUnavailable(
            f"The vector store did not take the call: {error.strerror or error}.",
            next_step="Check the free space and the permissions of the data folder.",
            engine=ENGINE,
        ) from error
