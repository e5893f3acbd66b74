"""The registry's calls by three ways of driving SQLite, for docs/adr/0006: the same work, only the driver changes.

    threads           what `connections.database` does: a call is a plain function, run whole on one thread; one writer
                      that commits whatever has queued
    aiosqlite         SQLAlchemy's asyncio extension: a hop to aiosqlite's thread and back for each statement, cursor
                      and fetch; the same group commit and the same pool of readers around it
    aiosqlite, alone  the same, but every caller commits for himself, as such code is usually written

The last two need `aiosqlite`, which Ragline does not depend on; without it they are left out, and the figures say so:
`uv run --with aiosqlite python -m bench.registry_commits`. The ways take turns in
rounds, each round on a database of its own. Processor time, of all threads, is what a busy machine does not blur.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TypeAlias, TypeVar, cast

from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from bench.figures import Figure, Ground, median, show
from ragline.clock import SystemClock
from ragline.coalescing import Coalescer
from ragline.connections import database_sqlite as sqlite
from ragline.connections.database import MOST_PER_COMMIT, Database, Work, sqlite_url
from ragline.registry.acceptance import Incoming, document_id
from ragline.registry.documents import Documents
from ragline.registry.guard import Guard
from ragline.registry.migrations import SCHEMA
from ragline.registry.namespaces import Namespaces
from ragline.types import NamespaceSettings, Space

T = TypeVar("T")

ROUNDS = 7
ACCEPTS = {1: 60, 32: 960}
"""Callers at once → accepts in one round: seconds each, on a slow disk."""
GUARDS, GUARDED = 256, 50
"""Guard calls in one round; documents one of them asks for, as many as a query's candidates."""

ALONE = "aiosqlite, alone"
SPACE = Space("none", "0" * 40, "fp32", 4, 256)


class Driven(Protocol):
    """The part of `Database` that the registry's queries use."""

    async def write(self, work: Callable[[Connection], T]) -> T: ...

    async def read(self, work: Callable[[Connection], T]) -> T: ...

    async def aclose(self) -> None: ...


class AioDatabase:
    """`Database` on aiosqlite: the same functions of a connection, through `AsyncConnection.run_sync`."""

    alone, commits = True, 0

    def __init__(self, path: Path, *, most: int) -> None:
        self._engine = _engine(path, pool_size=1)
        event.listen(
            self._engine.sync_engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE")
        )
        self._reading = _engine(path, pool_size=sqlite.READERS, pool_reset_on_return=None)
        self._queue: Coalescer[Work, Any] = Coalescer(self._commit, most=most)

    @classmethod
    async def open(cls, path: Path, *, most: int) -> AioDatabase:
        await (await Database.open(sqlite_url(path), SCHEMA)).aclose()  # the schema
        return cls(path, most=most)

    async def write(self, work: Callable[[Connection], T]) -> T:
        return cast(T, await self._queue(work))

    async def read(self, work: Callable[[Connection], T]) -> T:
        async with self._reading.connect() as connection:
            return await connection.run_sync(work)

    async def aclose(self) -> None:
        await self._queue.aclose()
        await self._engine.dispose()
        await self._reading.dispose()

    async def _commit(self, batch: list[Work]) -> list[Any]:
        async with self._engine.begin() as connection:
            return await connection.run_sync(lambda sync: [work(sync) for work in batch])


def _engine(path: Path, **pool: Any) -> AsyncEngine:
    made = create_async_engine(f"sqlite+aiosqlite:///{path}", poolclass=AsyncAdaptedQueuePool, max_overflow=0, **pool)
    event.listen(made.sync_engine, "connect", sqlite._set_pragmas)
    return made


Way: TypeAlias = Callable[[Path], Awaitable[Driven]]


def ways() -> dict[str, Way]:
    found: dict[str, Way] = {"threads": lambda path: Database.open(sqlite_url(path), SCHEMA)}
    try:
        import aiosqlite  # noqa: F401
    except ImportError:
        return found
    found["aiosqlite"] = lambda path: AioDatabase.open(path, most=MOST_PER_COMMIT)
    found[ALONE] = lambda path: AioDatabase.open(path, most=1)
    return found


async def run(ground: Ground) -> list[Figure]:
    took: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    chosen = ways()
    for _ in range(ROUNDS):
        for name, way in chosen.items():
            with TemporaryDirectory(dir=ground.work) as folder:
                opened = await way(Path(folder) / "registry.sqlite")
                try:
                    for (what, unit), value in (await _round(opened, reads=name != ALONE)).items():
                        took[what, name, unit].append(value)
                finally:
                    await opened.aclose()
    note = f"median of {ROUNDS} rounds" if len(chosen) > 1 else "without the others: aiosqlite is not installed"
    return [
        Figure(f"{what}: {name}", median(values), unit, note=note)
        for (what, name, unit), values in sorted(took.items())
    ]


async def _round(opened: Driven, *, reads: bool) -> dict[tuple[str, str], float]:
    """Units: by the second part of the key."""
    driven = cast(Database, opened)
    namespaces, documents = Namespaces(driven, SystemClock()), Documents(driven, SystemClock())
    holder = await namespaces.create(NamespaceSettings(), await namespaces.plan_epoch("bench", SPACE, {}))
    figures: dict[tuple[str, str], float] = {}
    for callers, count in ACCEPTS.items():
        names = iter([f"{callers}-{n}.txt" for n in range(count)])

        async def call(waiting: Iterator[str] = names) -> None:
            for name in waiting:
                await documents.accept(holder, _incoming(name))

        start, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(call() for _ in range(callers)))
        figures[f"accept, {callers:2} at once", "per s"] = count / (time.perf_counter() - start)
        figures[f"accept, {callers:2} at once, processor", "ms each"] = (time.process_time() - cpu) * 1000 / count
    if not reads:
        return figures
    ids = [document_id(holder, f"32-{n}.txt") for n in range(GUARDED)]
    cpu = time.process_time()
    alone = [await _timed_guard(driven, ids) for _ in range(GUARDS)]
    figures["guard, alone, p50", "ms"] = median(alone)
    figures["guard, alone, processor", "ms each"] = (time.process_time() - cpu) * 1000 / GUARDS
    crowd: list[float] = []
    for _ in range(GUARDS // 32):
        crowd += await asyncio.gather(*(_timed_guard(driven, ids) for _ in range(32)))
    figures["guard, 32 at once, p50", "ms"] = median(crowd)
    return figures


async def _timed_guard(driven: Database, ids: list[str]) -> float:
    start = time.perf_counter()
    view = await Guard(driven, SystemClock(), deadline_ms=60_000).look(
        "bench", ids
    )  # a new one each time: it must read
    assert len(view.rows) == GUARDED
    return (time.perf_counter() - start) * 1000


def _incoming(name: str) -> Incoming:
    return Incoming(
        uri=name, title=None, media_type="text/plain", size=1000, sha256="0" * 64, fingerprint=name, blob="0" * 16,
        groups=frozenset(), metadata={"year": 2024},
    )  # fmt: skip


if __name__ == "__main__":
    with TemporaryDirectory() as work:
        show({"registry_commits": asyncio.run(run(Ground(None, Path(work))))}, {})
