"""One database, read by many, written by one.

SQLite commits 85–270 times a second when everybody commits for himself; one writer that commits whatever has queued
pays for the disk once for all of it. Work is a plain function of a connection, run whole: on SQLite on a thread (a hop for
each call, not one for each statement; docs/adr/0006), on PostgreSQL between two awaits of the asynchronous driver
(docs/adr/0011).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from sqlalchemy import Connection, make_url
from sqlalchemy.exc import ArgumentError

from ragline.background import Queries
from ragline.coalescing import Coalescer
from ragline.connections.database_sqlite import Sqlite
from ragline.connections.schema import Schema
from ragline.errors import (
    ConfigurationError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    MissingDependency,
    RaglineError,
)

T = TypeVar("T")
Work = Callable[[Connection], Any]

MOST_PER_COMMIT = 256
"""Changes in one commit: bounds what a crash undoes and how long the first caller of a batch waits."""


class Driver(Protocol):
    """What differs between the databases. `alone`: nobody else writes."""

    alone: bool

    @property
    def ahead_s(self) -> float:
        """How far the clock that leases go by is ahead of this machine's."""
        ...

    async def bring_forward(self, at: str | None) -> None:
        """Bring the schema from revision `at` (None: there is none) to HEAD."""
        ...

    async def read(self, work: Callable[[Connection], T]) -> T: ...

    async def commit(self, work: Callable[[Connection], T]) -> T:
        """One transaction, while nobody else writes."""
        ...

    def say(self, connection: Connection, words: Sequence[str]) -> None: ...

    async def snapshot(self, path: Path) -> None: ...

    async def aclose(self) -> None: ...


class Database:
    """Connections, the one writer, and a pulse after every commit."""

    def __init__(self, url: str, schema: Schema, queries: Queries) -> None:
        self._schema = schema
        self._committed = asyncio.Event()
        self._heard: Callable[[str | None], None] = _ignored
        self.commits = 0
        """Commits so far, of this process, and of the others where there are; take it before you look, then wait for the next
        one with `next_commit`."""
        self._apart: Callable[[Work], Any] | None = None
        self._driver = self._connect(url, queries)
        self._queue: Coalescer[Work, Any] = Coalescer(self._commit, most=MOST_PER_COMMIT)
        self.alone = self._driver.alone
        """Whether nobody else writes."""

    def _connect(self, url: str, queries: Queries) -> Driver:
        if not url.startswith(("postgresql://", "postgres://")):
            return Sqlite(url, self._schema, queries, self._told)
        try:
            from ragline.connections.database_postgresql import Postgresql
        except ImportError as error:
            raise MissingDependency(
                f"{self._schema.name}: PostgreSQL needs a package that is missing: {error}.",
                next_step="Run `pip install 'ragline[postgresql]'`.",
            ) from error
        driver = Postgresql(url.replace("postgres://", "postgresql://", 1), self._schema, self._told)
        self._apart = driver.apart
        return driver

    @classmethod
    async def open(cls, url: str, schema: Schema, queries: Queries | None = None) -> Database:
        """Connect and bring the schema up to date.

        Raises:  ConfigurationError: the URL is not one we know, the server refuses us, or the schema is newer than this
                 version.  EngineUnavailable: it is not reached.
        """
        try:
            backend = make_url(url).get_backend_name()
        except ArgumentError as error:
            raise ConfigurationError(
                f"{schema.name}: that is no URL.",
                next_step="Write it as postgresql://USER:PASSWORD@HOST:PORT/DATABASE.",
            ) from error
        if url.startswith(("postgresql+", "postgres+")):
            raise ConfigurationError(
                f"{schema.name}: the URL names a driver.",
                next_step="Write postgresql:// without it: Ragline has its own.",
            )
        if backend not in ("sqlite", "postgresql", "postgres"):
            raise ConfigurationError(
                f"{schema.name}: the scheme of {make_url(url).render_as_string()} is not known.",
                next_step=f"Leave `{schema.setting}` empty for SQLite in the data folder, or use postgresql://….",
            )
        database = cls(url, schema, queries or Queries())
        try:
            await database._begin()
        except EngineRejected as error:
            await database.aclose()
            raise ConfigurationError(f"{schema.name}: {error.message}", next_step=error.next_step) from error
        except BaseException:
            await database.aclose()
            raise
        return database

    async def _begin(self) -> None:
        if not self.alone:
            await self._driver.check()  # type: ignore[attr-defined]  # of a server only
        at = await self.read(self._schema.revision)
        if at != self._schema.head:
            await self._driver.bring_forward(at)

    @property
    def ahead_s(self) -> float:
        """How far the server's clock is ahead of this machine's: leases that several machines hold go by one clock."""
        return self._driver.ahead_s

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` inside the next commit, with others; returns when it is durable.

        Contract: a `work` that raises an error of our tree raises it before its first write, so that there is nothing to
                  undo and no savepoint to pay for. Any other error undoes the batch, whose works are then run again, each
                  in a commit of its own, so that only the bad one fails: a work changes nothing but the database.
        """
        return cast(T, await self._queue(work))

    async def apart(self, work: Callable[[Connection], T]) -> T:
        """The same beside the one writer, where the database can: for work that locks the rows it takes, waits for none,
        and is not told to others."""
        if self._apart is None:
            return await self.write(work)
        return cast(T, await self._apart(work))

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on a connection that sees the newest commit and may not write."""
        return await self._driver.read(work)

    def say(self, connection: Connection, words: Sequence[str]) -> None:
        """Inside a work: once it is committed, every process that listens is told each of `words`, which are short."""
        self._driver.say(connection, words)

    def listen(self, heard: Callable[[str | None], None]) -> None:
        """Call `heard` with each word of every process, on the event loop; with None when some may have been missed."""
        self._heard = heard

    async def snapshot(self, path: Path) -> None:
        """Copy the whole database, as of one commit, to the new file `path`, while others read and write.

        Raises:  EngineUnavailable: no room.  EngineRejected: of this database that is the server's own business.
        """
        await self._driver.snapshot(path)

    async def next_commit(self, *, since: int, within_s: float) -> None:
        """Return once `commits` is past `since`, or after `within_s`: of another process's commit nobody may have told."""
        if self.commits != since:
            return
        waiter = asyncio.ensure_future(self._committed.wait())
        await asyncio.wait([waiter], timeout=within_s)
        waiter.cancel()

    async def aclose(self) -> None:
        await self._queue.aclose()
        await self._driver.aclose()

    async def _commit(self, batch: list[Work]) -> list[Any]:
        def together(connection: Connection) -> list[Any]:
            return [_refusable(connection, work) for work in batch]

        try:
            results = await self._driver.commit(together)
        except (EngineUnavailable, EngineTimeout):
            raise  # none of the works is to blame, and the commit may have come through
        except Exception:  # noqa: BLE001 (found again by the one that runs alone)
            results = [await self._alone(work) for work in batch]
        self._told("")
        return results

    async def _alone(self, work: Work) -> Any:
        try:
            return await self._driver.commit(lambda connection: _refusable(connection, work))
        except Exception as error:  # noqa: BLE001 (raised to its own caller)
            return error

    def _told(self, word: str | None) -> None:
        """Of a commit (empty), or of a `word` that was said in one; None: there may have been any number of both."""
        if word != "":
            self._heard(word)
            if word:
                return
        self.commits += 1
        self._committed.set()
        self._committed = asyncio.Event()


def sqlite_url(path: Path) -> str:
    return f"sqlite:///{path}"


def _refusable(connection: Connection, work: Work) -> Any:
    try:
        return work(connection)
    except RaglineError as error:
        return error


def _ignored(_: str | None) -> None:
    return
