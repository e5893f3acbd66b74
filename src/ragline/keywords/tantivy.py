"""BM25 on Tantivy, embedded: the default keyword index, a failure domain of its own.

A collection is a folder with one Tantivy index in it. Writes of a collection run one after the other on a thread of its
own, each committed (fsync) and visible when it returns; searches share a small pool, and Tantivy releases the GIL while
it works. Everything a hit shows is stored in the index. Killed at any moment, an index opens at its last commit: a
commit is one rename, and the writer lock is the kernel's and dies with its process.

BM25's k1 = 1.2 and b = 0.75 are compiled into Tantivy. Words are Unicode words, lower case, without accents, stemmed as
English; scripts without spaces are found by pairs of characters (`folding`). SciFact nDCG@10: .689.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, unquote

from ragline.errors import EngineError, EngineRejected, EngineUnavailable
from ragline.keywords.tantivy_collection import Collection, CollectionClosed, create_collection
from ragline.types import FieldType, Groups, Hit, Metadata, Record, Scope

ENGINE = "keywords:tantivy"
MAX_OPEN_WRITERS = 8
"""An open writer has six threads and 32 MB; the one that wrote longest ago closes first."""

REBUILD = "Run `ragline reindex NAMESPACE` to build it again."
ERRORS: tuple[tuple[str, type[EngineError], str, str], ...] = (
    ("No space left", EngineUnavailable, "The disk of the data folder is full.", "Free space; nothing was lost."),
    ("Disk quota exceeded", EngineUnavailable, "The quota of the data folder is used up.", "Raise it or free space."),
    ("File too large", EngineUnavailable, "The data folder takes no file so large.", "Raise the limit on file sizes."),
    ("Too many open files", EngineUnavailable, "This process may open no more files.", "Raise `ulimit -n`."),
    ("Cannot allocate memory", EngineUnavailable, "The machine has no memory left.", "Give it more."),
    ("Permission denied", EngineRejected, "The data folder may not be read or written.", "Correct its owner."),
    ("Read-only file system", EngineRejected, "The data folder is read-only.", "Mount it for writing."),
    ("LockBusy", EngineUnavailable, "Another process writes in the data folder.", "Stop it, or use another folder."),
    ("surrogates not allowed", EngineRejected, "A text is not valid Unicode.", "Correct it and send it again."),
    ("is not declared", EngineRejected, "A metadata field is not declared in it.", REBUILD),
    ("ncompatible", EngineRejected, "The index was written by another Tantivy.", REBUILD),
    ("is newer than", EngineRejected, "The index was written by a newer Ragline.", f"Start that one, or: {REBUILD}"),
    ("orrupt", EngineRejected, "The index is damaged.", REBUILD),
    ("DoesNotExist", EngineRejected, "The index is damaged: a file is missing.", REBUILD),
    ("No such file", EngineRejected, "The index is damaged: a file is missing.", REBUILD),
    ("Failed to open file", EngineRejected, "The index is damaged.", REBUILD),
    ("An IO error occurred", EngineRejected, "The index is damaged, or its disk is.", REBUILD),
    ("PanicException", EngineRejected, "The index is damaged.", REBUILD),
)
"""What Tantivy's and the system's messages contain → what we say. Tantivy raises ValueError for all, or panics."""
UNFORESEEN = (EngineRejected, "Tantivy failed in a way this adapter does not know.", REBUILD)

T = TypeVar("T")


class TantivyKeywordIndex:
    """See `KeywordIndex`. One process per `folder`; `search_threads` searches run at once (0: one per core)."""

    def __init__(self, folder: Path, *, search_threads: int = 0) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(search_threads or os.cpu_count() or 1, thread_name_prefix="tantivy-search")
        self._admin = threading.Lock()  # held while a collection is made, opened or dropped
        self._open: dict[str, Collection] = {}
        self._writing: OrderedDict[str, Collection] = OrderedDict()  # those with an open writer, oldest write first

    async def create(self, collection: str, *, fields: Mapping[str, FieldType]) -> None:
        held = await _on(self._pool, collection, lambda: self._create(collection, dict(fields)))
        if held.fields != fields:
            raise EngineRejected(
                f"The keyword collection {collection} exists with other fields.",
                next_step="Run `ragline reindex NAMESPACE` to build one with these.",
                engine=ENGINE,
            )

    async def drop(self, collection: str) -> None:
        self._writing.pop(collection, None)
        await _on(self._pool, collection, lambda: self._drop(collection))

    async def collections(self) -> list[str]:
        return await _on(self._pool, "*", self._names)

    async def upsert(self, collection: str, records: Sequence[Record]) -> None:
        if records:
            await self._write(collection, lambda held: held.upsert(records))

    async def update_payload(
        self, collection: str, document: str, *, title: str, groups: Groups, fields: Metadata
    ) -> None:
        await self._write(collection, lambda held: held.update_payload(document, title, groups, fields))

    async def delete(self, collection: str, below: Mapping[str, int]) -> None:
        if below:
            await self._write(collection, lambda held: held.delete(below))

    async def search(self, collection: str, query: str, *, top_k: int, scope: Scope) -> list[Hit]:
        return await self._read(collection, lambda held: held.search(query, top_k, scope))

    async def contents(self, collection: str) -> dict[tuple[str, int], int]:
        return await self._read(collection, lambda held: held.contents())

    async def aclose(self) -> None:
        self._pool.shutdown(wait=False)
        self._writing.clear()
        while self._open:
            _, held = self._open.popitem()
            await asyncio.wrap_future(held.thread.submit(held.close))
            held.thread.shutdown(wait=False)

    async def _read(self, collection: str, ask: Callable[[Collection], T]) -> T:
        return await _on(self._pool, collection, lambda: ask(self._held(collection)))

    async def _write(self, collection: str, change: Callable[[Collection], None]) -> None:
        held = self._open.get(collection)
        if held is None:
            held = await _on(self._pool, collection, lambda: self._held(collection))
        self._writing[collection] = held
        self._writing.move_to_end(collection)
        while len(self._writing) > MAX_OPEN_WRITERS:
            _, idle = self._writing.popitem(last=False)
            with suppress(RuntimeError):  # it was dropped meanwhile
                idle.thread.submit(idle.rest)
        await _on(held.thread, collection, lambda: change(held))

    # ── on the pool's threads ────────────────────────────────────────────────────────────────────────────────────────

    def _path(self, collection: str) -> Path:
        return self._folder / quote(collection, safe="").replace(".", "%2E")

    def _names(self) -> list[str]:
        if not self._folder.exists():
            return []
        return sorted(unquote(path.name) for path in self._folder.iterdir() if not path.name.startswith("."))

    def _held(self, collection: str) -> Collection:
        held = self._open.get(collection)
        if held is not None:
            return held
        with self._admin:
            return self._open.get(collection) or self._load(collection)

    def _load(self, collection: str) -> Collection:
        path = self._path(collection)
        if not path.exists():
            raise _unknown(collection)
        held = self._open[collection] = Collection(path)
        return held

    def _create(self, collection: str, fields: Mapping[str, FieldType]) -> Collection:
        path = self._path(collection)
        with self._admin:
            if not path.exists():
                self._folder.mkdir(parents=True, exist_ok=True)
                for left in self._folder.glob(".*"):  # by a create or a drop that was killed
                    shutil.rmtree(left, ignore_errors=True)
                new = self._folder / f".new-{uuid.uuid4().hex}"
                new.mkdir()
                create_collection(new, fields)
                new.rename(path)
                _sync(self._folder)
            return self._open.get(collection) or self._load(collection)

    def _drop(self, collection: str) -> None:
        with self._admin:
            open_one = self._open.pop(collection, None)
            if open_one is not None:
                open_one.thread.submit(open_one.close).result()
                open_one.thread.shutdown(wait=False)
            path = self._path(collection)
            if path.exists():
                dropped = path.rename(self._folder / f".dropped-{uuid.uuid4().hex}")
                _sync(self._folder)
                shutil.rmtree(dropped, ignore_errors=True)


async def _on(threads: Executor, collection: str, call: Callable[[], T]) -> T:
    def translated() -> T:
        with _translated(collection):
            return call()

    try:
        running = asyncio.get_running_loop().run_in_executor(threads, translated)
    except RuntimeError as error:  # the executor is shut down
        raise EngineUnavailable(
            "The keyword index is closed.", next_step="Repeat the call when the service is up.", engine=ENGINE
        ) from error
    return await running


@contextmanager
def _translated(collection: str) -> Iterator[None]:
    try:
        yield
    except EngineError:
        raise
    except CollectionClosed:
        raise _unknown(collection) from None
    except BaseException as error:
        panicked = type(error).__name__ == "PanicException"  # Tantivy's, on a damaged file; it is no Exception
        if not (panicked or isinstance(error, ValueError | OSError)):
            raise
        told = f"{type(error).__name__}: {error}"
        kind, reason, next_step = next((row[1:] for row in ERRORS if row[0] in told), UNFORESEEN)
        raise kind(f"Keyword collection {collection}: {reason}", next_step=next_step, engine=ENGINE) from error


def _unknown(collection: str) -> EngineRejected:
    return EngineRejected(
        f"The keyword collection {collection} does not exist.",
        next_step="Run `ragline reindex NAMESPACE` to build it.",
        engine=ENGINE,
    )


def _sync(folder: Path) -> None:
    """Make a rename in `folder` survive power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
