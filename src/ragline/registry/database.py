"""One database, read by many, written by one.

SQLite commits 85–270 times a second when everybody commits for himself; one writer that commits whatever has queued
pays for the disk once for all of it. Work is a plain function of a connection, run whole on one thread: a hop for each
call, not one for each statement (docs/adr/0006). An asynchronous driver runs the same functions by `run_sync`.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.pool import QueuePool

from ragline.background import Queries
from ragline.coalescing import Coalescer
from ragline.errors import ConfigurationError, EngineRejected, EngineUnavailable, RaglineError
from ragline.registry.migrations import HEAD, upgrade

T = TypeVar("T")
Work = Callable[[Connection], Any]

MOST_PER_COMMIT = 256
"""Changes in one commit: bounds what a crash undoes and how long the first caller of a batch waits."""

READERS = 4
"""Threads that read; SQLite's WAL lets them go on while the writer commits."""


class Database:
    """Connections, the one writer, and a pulse after every commit."""

    def __init__(self, url: str, queries: Queries) -> None:
        self._engine = create_engine(url, poolclass=QueuePool, pool_size=1, max_overflow=0)
        begin_by_hand(self._engine)
        # Readers are in no transaction at all: each statement sees the newest commit, and nothing is reset between calls.
        self._reading = create_engine(
            url, poolclass=QueuePool, pool_size=READERS, max_overflow=0, pool_reset_on_return=None,
        )  # fmt: skip
        event.listen(self._reading, "connect", _set_pragmas)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="registry-read")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="registry-write")
        self._queries, self._turn = queries, threading.Lock()
        self._queue: Coalescer[Work, Any] = Coalescer(self._commit, most=MOST_PER_COMMIT)
        self._committed = asyncio.Event()
        self.alone = make_url(url).get_backend_name() == "sqlite"
        """Whether nobody else writes: an embedded registry belongs to the process that holds its data folder."""
        self.commits = 0
        """Commits of this process so far; take it before you look, then wait for the next one with `next_commit`."""

    @classmethod
    async def open(cls, url: str, queries: Queries | None = None) -> Database:
        """Connect and bring the schema up to date.

        Raises:  ConfigurationError: the URL is not one we know, or the schema is newer than this version.
        """
        if make_url(url).get_backend_name() != "sqlite":
            raise ConfigurationError(
                f"registry: the scheme of {make_url(url).render_as_string()} is not known.",
                next_step="Leave `registry` empty for SQLite in the data folder.",
            )
        database = cls(url, queries or Queries())
        at = await database.read(_schema_version)
        if at != HEAD:
            await asyncio.to_thread(upgrade, url, at)
        return database

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` inside the next commit, with others; returns when it is durable.

        Contract: a `work` that raises an error of our tree raises it before its first write, so that there is nothing to
                  undo and no savepoint to pay for. Any other error undoes the batch, whose works are then run again, each
                  in a commit of its own, so that only the bad one fails: a work changes nothing but the database.
        """
        return cast(T, await self._queue(work))

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on a connection that sees the newest commit and may not write."""

        def call() -> T:
            with _translated(), self._reading.connect() as connection:
                return work(connection)

        return await asyncio.get_running_loop().run_in_executor(self._readers, call)

    async def snapshot(self, path: Path) -> None:
        """Copy the whole database, as of one commit, to the new file `path`, while others read and write."""

        def work(connection: Connection) -> None:
            source = connection.connection.driver_connection
            assert isinstance(source, sqlite3.Connection)
            with closing(sqlite3.connect(path)) as target:
                source.backup(target)

        try:
            await self.read(work)
        except sqlite3.Error as error:
            raise EngineUnavailable(
                f"The registry was not copied: {error}.", next_step="Check the free space.", engine="registry"
            ) from error

    async def next_commit(self, *, since: int, within_s: float) -> None:
        """Return once `commits` is past `since`, or after `within_s`: another process may have committed instead."""
        if self.commits != since:
            return
        waiter = asyncio.ensure_future(self._committed.wait())
        await asyncio.wait([waiter], timeout=within_s)
        waiter.cancel()

    async def aclose(self) -> None:
        await self._queue.aclose()
        await asyncio.to_thread(self._writer.shutdown)
        await asyncio.to_thread(self._readers.shutdown)
        self._reading.dispose()
        self._engine.dispose()

    async def _commit(self, batch: list[Work]) -> list[Any]:
        def together(works: list[Work]) -> list[Any]:
            with _translated(), self._engine.begin() as connection:
                return [_refusable(connection, work) for work in works]

        def alone(work: Work) -> Any:
            try:
                return together([work])[0]
            except Exception as error:  # noqa: BLE001 (raised to its own caller)
                return error

        def call() -> list[Any]:
            try:
                with self._queries.between(self._turn):
                    return together(batch)
            except EngineUnavailable:
                raise
            except Exception:  # noqa: BLE001 (found again by the one that runs alone)
                return [alone(work) for work in batch]

        results = await asyncio.get_running_loop().run_in_executor(self._writer, call)
        self.commits += 1
        self._committed.set()
        self._committed = asyncio.Event()
        return results


def begin_by_hand(engine: Engine) -> None:
    """Make every transaction of `engine` one of the database from its first statement on, changes of the schema included.

    Left to itself the driver begins before the first INSERT only, and commits each CREATE and ALTER by itself.
    """
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))


def sqlite_url(path: Path) -> str:
    return f"sqlite:///{path}"


def _refusable(connection: Connection, work: Work) -> Any:
    try:
        return work(connection)
    except RaglineError as error:
        return error


def _set_pragmas(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # the driver must not begin by itself; `begin_by_hand` does
    cursor = connection.cursor()
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "busy_timeout = 5000",
        "cache_size = -65536",
        "mmap_size = 268435456",
        "temp_store = MEMORY",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _schema_version(connection: Connection) -> str | None:
    if not connection.dialect.has_table(connection, "alembic_version"):
        return None
    return cast("str | None", connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar())


@contextmanager
def _translated() -> Iterator[None]:
    """The error table of the registry: what SQLAlchemy raises, in words of our tree."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise EngineUnavailable(
            f"The registry did not take the call: {error.orig}.",
            next_step="Check free disk space and that the database is reachable; `ragline doctor` tries it.",
            engine="registry",
        ) from error
    except DBAPIError as error:
        raise EngineRejected(
            f"The registry refused the call: {error.orig}.",
            next_step="This is a defect of Ragline: report it with the log.",
            engine="registry",
        ) from error
