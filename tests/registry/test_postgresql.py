"""The registry on PostgreSQL: several processes on one, and what goes wrong with a server."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Connection, select, text

from ragline.clock import SystemClock
from ragline.connections.database import Database
from ragline.connections.database_postgresql import READERS
from ragline.connections.postgresql import AWAY, COMMAND_S, OLDEST, REFUSED, check_version, failure, settings_of
from ragline.errors import ConfigurationError, EngineError, EngineRejected, EngineTimeout, EngineUnavailable
from ragline.registry import migrations
from ragline.registry.acceptance import Incoming
from ragline.registry.claims import Claims
from ragline.registry.documents import Documents
from ragline.registry.guard import Guard
from ragline.registry.migrations import SCHEMA
from ragline.registry.namespaces import Namespaces
from ragline.registry.tables import namespaces
from ragline.types import NamespaceSettings, Space
from tests.engines.postgres import GUARDED, Postgres

SPACE = Space("toy", "0" * 64, "fp32", 4, 256)


class Clock:
    def now(self) -> float:
        return 1_700_000_000.0

    def monotonic(self) -> float:
        return 1_700_000_000.0


class Process:
    """What one process has of the registry."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.documents = Documents(database, Clock())
        self.claims = Claims(database, Clock())
        self.namespaces = Namespaces(database, Clock())

    async def accept(self, uri: str, sha256: str = "1" * 64) -> int:
        incoming = Incoming(uri, None, None, 1, sha256, sha256, secrets.token_hex(8), frozenset(), {})
        return (await self.documents.accept(await self.namespaces.get("n"), incoming)).sequence


@pytest.fixture
async def url(postgres: Postgres) -> str:
    return await postgres.database()


@pytest.fixture
async def processes(url: str) -> AsyncIterator[list[Process]]:
    """Three on one registry, begun at the same moment on an empty database."""
    async with AsyncExitStack() as open_ones:
        databases = await asyncio.gather(*(Database.open(url, SCHEMA) for _ in range(3)))
        for database in databases:
            open_ones.push_async_callback(database.aclose)
        found = [Process(database) for database in databases]
        epoch = await found[0].namespaces.plan_epoch("n", SPACE, {})
        await found[0].namespaces.create(NamespaceSettings(), epoch)
        yield found


async def test_processes_that_begin_together_make_the_schema_once(processes: list[Process]) -> None:
    versions = [
        await process.database.read(lambda c: c.exec_driver_sql("SELECT version_num FROM alembic_version").all())
        for process in processes
    ]
    assert versions == [[(migrations.HEAD,)]] * 3


async def test_sequence_numbers_have_no_gap_and_no_double_over_processes(processes: list[Process]) -> None:
    numbers = await asyncio.gather(
        *(process.accept(f"{at}-{n}.txt") for at, process in enumerate(processes) for n in range(40))
    )
    assert sorted(numbers) == list(range(1, 121))


async def test_one_uri_from_every_process_is_one_document(processes: list[Process]) -> None:
    await asyncio.gather(*(process.accept("same.txt") for process in processes for _ in range(10)))
    rows = await processes[0].documents.page("n", after="", most=10, state=None)
    assert [(row.uri, row.revision) for row in rows] == [("same.txt", 1)]


async def test_a_document_is_claimed_by_one_process(processes: list[Process]) -> None:
    await asyncio.gather(*(processes[0].accept(f"{n}.txt") for n in range(60)))
    claims = await asyncio.gather(
        *(process.claims.claim(most=7, lease_s=60.0) for process in processes for _ in range(4))
    )
    ids = [document.id for claimed in claims for document in claimed]
    while left := await processes[0].claims.claim(most=60, lease_s=60.0):  # what was locked when it was looked for
        ids += [document.id for document in left]
    assert len(ids) == len(set(ids)) == 60


async def test_a_claim_does_not_wait_for_a_writer(processes: list[Process]) -> None:
    """And a writer that has the row does not hand it out."""
    await processes[0].accept("a.txt")
    await processes[0].accept("b.txt")
    engine = processes[1].database._driver._engine  # type: ignore[attr-defined]
    async with engine.begin() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(7263746900)"))
        await connection.execute(text("SELECT * FROM documents WHERE uri = 'a.txt' FOR UPDATE"))
        claimed = await processes[0].claims.claim(most=10, lease_s=60.0)
    assert [document.uri for document in claimed] == ["b.txt"]


async def test_a_commit_of_one_process_wakes_the_others(processes: list[Process]) -> None:
    other = processes[1].database
    await other.read(lambda connection: None)  # begins to listen
    await _until_it_listens(other)
    seen = other.commits
    waiting = asyncio.create_task(other.next_commit(since=seen, within_s=3600.0))
    await processes[0].accept("a.txt")
    await waiting
    assert other.commits > seen


async def test_the_guard_sees_what_another_process_has_committed(processes: list[Process]) -> None:
    guard = Guard(processes[1].database, SystemClock(), deadline_ms=60_000)
    before = (await guard.look("n", [])).settled
    await processes[0].accept("a.txt")
    assert (before, (await guard.look("n", [])).settled) == (0, 0)
    (claimed,) = await processes[0].claims.claim(most=1, lease_s=60.0)
    label = (await processes[0].namespaces.get("n")).epoch.label
    assert await processes[2].claims.mark_live(
        claimed, title="t", epochs=frozenset({label}), event="indexed", detail="", took_s=0.0
    )
    view = await guard.look("n", [claimed.id])
    assert (view.settled, view.rows[claimed.id].live) == (1, 1)


# ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_connection_cut_in_a_transaction_undoes_it_and_the_next_call_goes_on(
    postgres: Postgres, url: str, processes: list[Process]
) -> None:
    one = processes[0]

    def work(connection: Connection) -> None:
        connection.execute(namespaces.update().values(sequence=1000))
        connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(EngineUnavailable) as cut:
        await one.database.write(work)
    assert "Try again" in cut.value.next_step
    assert cut.value.retryable
    await postgres.cut(url)
    assert await one.accept("a.txt") == 1


async def test_a_server_that_was_restarted_is_found_again(postgres: Postgres, processes: list[Process]) -> None:
    await processes[0].accept("a.txt")
    await asyncio.to_thread(postgres.restart)
    assert await processes[0].accept("b.txt") == 2
    assert await processes[0].database.read(lambda c: c.execute(select(namespaces.c.sequence)).scalar()) == 2


async def test_who_listens_listens_again_after_the_connection_was_lost(
    postgres: Postgres, url: str, processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragline.connections.database_postgresql.LISTEN_AGAIN_S", 0.01)
    other = processes[1].database
    await other.read(lambda connection: None)
    await _until_it_listens(other)
    await postgres.cut(url)
    seen = other.commits
    await other.next_commit(since=seen, within_s=3600.0)  # it says so once it listens again
    seen = other.commits
    await processes[0].accept("a.txt")
    await other.next_commit(since=seen, within_s=3600.0)


async def test_a_wrong_password_is_said_to_be_one(postgres: Postgres, url: str) -> None:
    await postgres.run(
        f"DO $$ BEGIN CREATE ROLE {GUARDED} LOGIN PASSWORD 'right'; EXCEPTION WHEN OTHERS THEN NULL; END $$"
    )
    with pytest.raises(ConfigurationError, match="refuses the password") as refused:
        await Database.open(url.replace("postgres@", f"{GUARDED}:wrong@"), SCHEMA)
    assert "wrong" not in refused.value.message.replace("wrong password", "")
    assert "user and the password" in refused.value.next_step


async def test_a_database_that_is_not_there(postgres: Postgres) -> None:
    with pytest.raises(ConfigurationError, match="does not exist") as refused:
        await Database.open(f"{postgres.url}/nothing", SCHEMA)
    assert "CREATE DATABASE" in refused.value.next_step


async def test_a_wrong_port(postgres: Postgres) -> None:
    from tests.engines.server import free_port

    with pytest.raises(EngineUnavailable, match="not reached") as away:
        await Database.open(f"postgresql://postgres@127.0.0.1:{free_port()}/x", SCHEMA)
    assert "host and port" in away.value.next_step


async def test_encryption_that_the_server_does_not_have(url: str) -> None:
    with pytest.raises(ConfigurationError, match="encrypted connection"):
        await Database.open(f"{url}?sslmode=require", SCHEMA)


async def test_a_schema_of_a_newer_version_is_left_alone(url: str, processes: list[Process]) -> None:
    await processes[0].database.write(lambda c: c.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigurationError, match="9999"):
        await Database.open(url, SCHEMA)


async def test_a_dropped_table_is_said_to_be_gone(processes: list[Process]) -> None:
    await processes[0].database.write(lambda c: c.exec_driver_sql("DROP TABLE documents CASCADE"))
    with pytest.raises(EngineRejected, match="A table is gone") as gone:
        await processes[1].documents.look("x")
    assert "backup" in gone.value.next_step


async def test_a_backup_is_the_servers_own_business(processes: list[Process], tmp_path: Any) -> None:
    with pytest.raises(EngineRejected) as refused:
        await processes[0].database.snapshot(tmp_path / "copy")
    assert "pg_dump" in refused.value.next_step


@pytest.mark.parametrize("version", ["13.20", "9.6.3", "devel"])
def test_an_older_server_is_refused(version: str) -> None:
    with pytest.raises(ConfigurationError, match=str(OLDEST)):
        check_version(version)


def test_a_newer_one_is_not() -> None:
    check_version("18.6 (Debian 18.6-1)")


@pytest.mark.parametrize("words", ["sslmode=always", "pool=3"])
def test_words_of_the_url_that_nobody_knows(words: str) -> None:
    from sqlalchemy import make_url

    with pytest.raises(ConfigurationError, match=words.partition("=")[0]):
        settings_of(make_url(f"postgresql://h/d?{words}"))


def test_every_statement_is_bounded() -> None:
    from sqlalchemy import make_url

    assert settings_of(make_url("postgresql://h/d"))["command_timeout"] == COMMAND_S


def test_the_error_table_is_complete() -> None:
    """Every error that asyncpg knows becomes one of ours, with a next step; a TimeoutError and a closed pool as well."""
    kinds = {
        cls
        for cls in vars(asyncpg.exceptions).values()
        if isinstance(cls, type) and issubclass(cls, asyncpg.PostgresError) and getattr(cls, "sqlstate", None)
    }
    assert len(kinds) > 200
    for cls in kinds:
        told = failure(cls("words"), engine="registry")
        assert isinstance(told, EngineError)
        assert told.next_step
        state = str(vars(cls).get("sqlstate") or cls("").sqlstate)
        away = state not in REFUSED and state[:2] in AWAY
        assert isinstance(told, EngineUnavailable) is away, state
    assert isinstance(failure(TimeoutError(), engine="registry"), EngineTimeout)
    assert isinstance(failure(asyncpg.InterfaceError("closed"), engine="registry"), EngineUnavailable)
    assert isinstance(failure(ConnectionRefusedError(), engine="registry"), EngineUnavailable)


async def _until_it_listens(database: Database) -> None:
    def heard(connection: Connection) -> int:
        asked = text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND state = 'idle' AND query LIKE '%clock_timestamp()%' AND query NOT LIKE '%pg_stat_activity%' "
            "AND query NOT LIKE '%server_version%'"
        )
        return int(connection.execute(asked).scalar_one())

    while not await database.read(heard):
        await asyncio.sleep(0.01)


async def test_leases_go_by_the_servers_clock(url: str) -> None:
    """A machine whose clock is ten minutes ahead steals no work, and one that is behind does not wait for its own."""
    async with AsyncExitStack() as open_ones:
        databases = [await Database.open(url, SCHEMA) for _ in range(2)]
        for database in databases:
            open_ones.push_async_callback(database.aclose)
        right, ahead = Process(databases[0]), Process(databases[1])
        epoch = await right.namespaces.plan_epoch("n", SPACE, {})
        await right.namespaces.create(NamespaceSettings(), epoch)
        await right.accept("a.txt")
        here, later = SystemClock(), _Ahead(600.0)
        databases[1]._driver.ahead_s -= later.by_s  # type: ignore[misc]  # as it is compared on that machine
        assert len(await Claims(databases[0], here).claim(most=1, lease_s=30.0)) == 1
        assert await Claims(databases[1], later).claim(most=1, lease_s=30.0) == []
        (held,) = await ahead.documents.page("n", after="", most=1, state=None, uri="a.txt")
        await Claims(databases[0], here).drive_again(held.id, why="by hand")
        assert len(await Claims(databases[1], later).claim(most=1, lease_s=30.0)) == 1
        until = (
            await databases[0].read(lambda c: c.exec_driver_sql("SELECT lease_until FROM documents").scalar())
        ) or 0
        assert until < here.now() + 60.0, "its lease ends by the server's clock"


class _Ahead(SystemClock):
    def __init__(self, by_s: float) -> None:
        self.by_s = by_s

    def now(self) -> float:
        return super().now() + self.by_s


async def test_the_clocks_are_compared_at_the_start(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    monkeypatch.setattr("ragline.connections.database_postgresql.time.time", lambda: real() + 600.0)
    database = await Database.open(url, SCHEMA)
    try:
        assert -601.0 < database.ahead_s < -599.0
    finally:
        await database.aclose()


async def test_a_url_that_names_a_driver_is_told_so() -> None:
    with pytest.raises(ConfigurationError, match="names a driver"):
        await Database.open("postgresql+asyncpg://u@127.0.0.1/x", SCHEMA)


async def test_a_read_that_finds_no_free_connection_says_so(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is silent holds every connection: who comes next learns that it does not answer, and soon."""
    monkeypatch.setattr("ragline.connections.database_postgresql.READER_S", 0.1)
    database = await Database.open(url, SCHEMA)
    holder = await asyncpg.connect(url)
    try:
        await holder.execute("SELECT pg_advisory_lock(1)")
        waits = "SELECT pg_advisory_lock(1), pg_advisory_unlock(1)"
        held = [asyncio.create_task(database.read(lambda c: c.exec_driver_sql(waits).all())) for _ in range(READERS)]
        count = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while await holder.fetchval(count) < READERS:
            await asyncio.sleep(0.01)
        with pytest.raises(EngineTimeout, match="No connection to PostgreSQL came free"):
            await database.read(lambda c: c.exec_driver_sql("SELECT 1").all())
        await holder.execute("SELECT pg_advisory_unlock(1)")
        await asyncio.gather(*held)
    finally:
        await holder.close()
        await database.aclose()
