"""A database in PostgreSQL: many processes, each with the same works as on SQLite (docs/adr/0011-postgresql.md).

Works are functions of a connection that read, then write what they have read about. Two processes that did so side by side
would each overwrite the other's. So one writes at a time, across all of them, as on SQLite: a lock of the transaction; what
queued meanwhile in each process goes in one commit. Claims alone do without it: `SKIP LOCKED` is made for them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import asyncpg
import structlog
from sqlalchemy import URL, Connection, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.ext.asyncio import create_async_engine

from ragline.connections.postgresql import asyncpg_url, check_version, failure, settings_of
from ragline.connections.schema import Schema
from ragline.errors import EngineRejected, RaglineError

log = structlog.get_logger()
T = TypeVar("T")

FAILURES = (DBAPIError, NoConnection, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)

READERS = 8
"""Connections that read, for each process; one more writes, one claims, one listens."""

READER_S, WRITER_S = 2.0, 10.0
"""Longest wait for one of them: as many readers are not at work at once but when the server is slow, and a query has a
deadline; writers take turns."""

CLOCKS_S, TELL_SKEW_S = 60.0, 2.0
"""Between two comparisons of the clocks; a difference that is told."""

LISTEN_AGAIN_S = 1.0
"""After the listening connection was lost. Meanwhile workers look by the clock."""


class Postgresql:
    """`schema.lock`: of whoever writes. `told`: is called of every commit of any process, as `Database._told`."""

    alone = False

    def __init__(self, url: str, schema: Schema, told: Callable[[str | None], None]) -> None:
        self._schema = schema
        self._lock = text(f"SELECT pg_advisory_xact_lock({schema.lock})")
        self._channel = f"ragline_{schema.name}"
        self._tell = text(f"SELECT pg_notify('{self._channel}', word) FROM unnest(CAST(:words AS text[])) word")
        self._url = asyncpg_url(make_url(url))
        options = {"connect_args": settings_of(make_url(url)), "pool_pre_ping": True}
        reading = {
            **options,
            "pool_size": READERS,
            "max_overflow": 0,
            "isolation_level": "AUTOCOMMIT",
            "pool_timeout": READER_S,
        }
        self._engine = create_async_engine(self._url, pool_size=2, max_overflow=0, pool_timeout=WRITER_S, **options)
        self._reading = create_async_engine(self._url, **reading)
        self._told = told
        self._listening: asyncio.Task[None] | None = None
        self.ahead_s = 0.0

    async def bring_forward(self, at: str | None) -> None:
        """Of several processes that start together one does it, and the others find it done."""

        def work(connection: Connection) -> None:
            connection.execute(self._lock)
            self._schema.upgrade(self._url.render_as_string(hide_password=False), at, connection)

        await self._in_transaction(work)

    async def _compare_clocks(self, connection: asyncpg.Connection) -> None:
        before = time.time()
        there = float(await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())"))
        self._compared(there, (before + time.time()) / 2)

    def _compared(self, there: float, here: float) -> None:
        ahead_s = there - here
        if abs(ahead_s - self.ahead_s) > TELL_SKEW_S:
            log.warning("this machine's clock is not the server's", server_ahead_s=round(ahead_s, 3))
        self.ahead_s = ahead_s

    async def check(self) -> None:
        """Raises ConfigurationError: an older server than the oldest that is supported."""
        ask = "SELECT current_setting('server_version'), extract(epoch FROM clock_timestamp())"
        before = time.time()
        version, there = await self.read(lambda connection: connection.exec_driver_sql(ask).one())
        check_version(version)
        self._compared(float(there), (before + time.time()) / 2)

    async def read(self, work: Callable[[Connection], T]) -> T:
        self._listen()
        try:
            async with self._reading.connect() as connection:
                return await connection.run_sync(work)
        except RaglineError:
            raise
        except FAILURES as error:
            raise failure(error, engine=self._schema.name) from error

    async def commit(self, work: Callable[[Connection], T]) -> T:
        def locked(connection: Connection) -> T:
            connection.execute(self._lock)
            result = work(connection)
            self.say(connection, [""])
            return result

        return await self._in_transaction(locked)

    async def apart(self, work: Callable[[Connection], T]) -> T:
        """A commit that does not wait for other writers. `work` locks what it changes, and waits for nothing."""
        return await self._in_transaction(work)

    def say(self, connection: Connection, words: Sequence[str]) -> None:
        connection.execute(self._tell, {"words": list(words)})

    async def snapshot(self, path: Path) -> None:
        raise EngineRejected(
            f"A {self._schema.name} database in PostgreSQL is not copied by Ragline.",
            next_step="Copy the database with pg_dump, then the blobs, in this order: what the registry names is then there.",
            engine=self._schema.name,
        )

    async def aclose(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            with suppress(asyncio.CancelledError):
                await self._listening
        await self._engine.dispose()
        await self._reading.dispose()

    async def _in_transaction(self, work: Callable[[Connection], T]) -> T:
        try:
            async with self._engine.begin() as connection:
                return await connection.run_sync(work)
        except RaglineError:
            raise
        except FAILURES as error:
            raise failure(error, engine=self._schema.name) from error

    def _listen(self) -> None:
        if self._listening is None or self._listening.done():
            self._listening = asyncio.create_task(self._hear())

    async def _hear(self) -> None:
        """Until cancelled: a connection that tells of commits; a lost one is replaced."""
        while True:
            lost = asyncio.Event()
            connection: asyncpg.Connection | None = None
            try:
                connection = await asyncpg.connect(_dsn(self._url), **settings_of(self._url))
                connection.add_termination_listener(lambda _, lost=lost: lost.set())
                await connection.add_listener(self._channel, lambda *heard: self._told(heard[-1]))
                self._told(None)  # of what came while nobody listened
                while not lost.is_set():
                    await self._compare_clocks(connection)
                    with suppress(TimeoutError):
                        await asyncio.wait_for(lost.wait(), CLOCKS_S)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                log.warning("commits of other processes are not heard of, but looked for", error=str(error))
            finally:
                if connection is not None:
                    connection.terminate()
            await asyncio.sleep(LISTEN_AGAIN_S)


def _dsn(url: URL) -> str:
    return url.set(drivername="postgresql", query={}).render_as_string(hide_password=False)
