"""A database in SQLite: one writer, readers beside it, each work whole on one thread (docs/adr/0006)."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.pool import QueuePool

from ragline.background import Queries
from ragline.connections.schema import Schema
from ragline.errors import EngineRejected, EngineUnavailable

T = TypeVar("T")

READERS = 4
"""Threads that read; SQLite's WAL lets them go on while the writer commits."""


class Sqlite:
    """An embedded database belongs to the process that holds its data folder: nobody else writes."""

    alone = True
    ahead_s = 0.0

    def __init__(self, url: str, schema: Schema, queries: Queries, told: Callable[[str | None], None]) -> None:
        self._url, self._schema = url, schema
        self._told = told
        self._words: list[str] = []  # that the work on the writer's thread has said
        self._engine = create_engine(url, poolclass=QueuePool, pool_size=1, max_overflow=0)
        begin_by_hand(self._engine)
        # Readers are in no transaction at all: each statement sees the newest commit, and nothing is reset between calls.
        self._reading = create_engine(
            url, poolclass=QueuePool, pool_size=READERS, max_overflow=0, pool_reset_on_return=None,
        )  # fmt: skip
        event.listen(self._reading, "connect", _set_pragmas)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix=f"{schema.name}-read")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix=f"{schema.name}-write")
        self._queries, self._turn = queries, threading.Lock()

    async def bring_forward(self, at: str | None) -> None:
        await asyncio.to_thread(self._schema.upgrade, self._url, at)

    async def read(self, work: Callable[[Connection], T]) -> T:
        def call() -> T:
            with _translated(self._schema.name), self._reading.connect() as connection:
                return work(connection)

        return await asyncio.get_running_loop().run_in_executor(self._readers, call)

    async def commit(self, work: Callable[[Connection], T]) -> T:
        def call() -> tuple[T, list[str]]:
            self._words = []  # of a work that was undone
            with self._queries.between(self._turn), _translated(self._schema.name), self._engine.begin() as connection:
                result = work(connection)
            return result, self._words

        result, words = await asyncio.get_running_loop().run_in_executor(self._writer, call)
        for word in words:
            self._told(word)
        return result

    def say(self, connection: Connection, words: Sequence[str]) -> None:
        self._words.extend(words)

    async def snapshot(self, path: Path) -> None:
        def work(connection: Connection) -> None:
            source = connection.connection.driver_connection
            assert isinstance(source, sqlite3.Connection)
            with closing(sqlite3.connect(path)) as target:
                source.backup(target)

        try:
            await self.read(work)
        except sqlite3.Error as error:
            raise EngineUnavailable(
                f"The {self._schema.name} database was not copied: {error}.",
                next_step="Check the free space.",
                engine=self._schema.name,
            ) from error

    async def aclose(self) -> None:
        await asyncio.to_thread(self._writer.shutdown)
        await asyncio.to_thread(self._readers.shutdown)
        self._reading.dispose()
        self._engine.dispose()


def begin_by_hand(engine: Engine) -> None:
    """Make every transaction of `engine` one of the database from its first statement on, changes of the schema included.

    Left to itself the driver begins before the first INSERT only, and commits each CREATE and ALTER by itself.
    """
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))


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


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """The error table: what SQLAlchemy raises, in words of our tree."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise EngineUnavailable(
            f"The {name} database did not take the call: {error.orig}.",
            next_step="Check free disk space and that the database is reachable; `ragline doctor` tries it.",
            engine=name,
        ) from error
    except DBAPIError as error:
        raise EngineRejected(
            f"The {name} database refused the call: {error.orig}.",
            next_step="This is a defect of Ragline: report it with the log.",
            engine=name,
        ) from error
