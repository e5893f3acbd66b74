"""The job store on SQLite and on PostgreSQL: the contract, and what is theirs alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from ragline.connections.database import sqlite_url
from ragline.jobstores.sql import SqlJobStore
from ragline.testing.jobstores import Connect, JobStoreContract, PassTime
from tests.engines.postgres import Postgres

TIMES = {
    "jobs": ("queued_at", "lease_until", "created_at", "deadline_at", "retrieved_at", "finished_at"),
    "job_passages": ("until",),
    "job_events": ("at",),
    "job_deliveries": ("created_at", "due_at"),
    "job_duties": ("until",),
}
"""Every time that the tables hold."""


class HandClock:
    def __init__(self) -> None:
        self.at = 1_700_000_000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class TestSqlite(JobStoreContract):
    ALONE = True

    @pytest.fixture
    def clock(self) -> HandClock:
        return HandClock()

    @pytest.fixture
    async def connect(self, tmp_path: Path, clock: HandClock) -> Connect:
        async def connect() -> SqlJobStore:
            return await SqlJobStore.open(sqlite_url(tmp_path / "jobs.sqlite"), clock)

        return connect

    @pytest.fixture
    def pass_time(self, clock: HandClock) -> PassTime:
        async def pass_time(seconds: float) -> None:
            clock.at += seconds

        return pass_time


class TestPostgresql(JobStoreContract):
    @pytest.fixture
    async def url(self, postgres: Postgres) -> str:
        return await postgres.database()

    @pytest.fixture
    async def connect(self, url: str) -> Connect:
        async def connect() -> SqlJobStore:
            return await SqlJobStore.open(url, HandClock())  # whose time must not matter

        return connect

    @pytest.fixture
    def pass_time(self, connect: Connect) -> PassTime:
        async def pass_time(seconds: float) -> None:
            def older(connection: Connection) -> None:
                for table, columns in TIMES.items():
                    sets = ", ".join(f"{column} = {column} - {seconds}" for column in columns)
                    connection.execute(text(f"UPDATE {table} SET {sets}"))

            store = await connect()
            assert isinstance(store, SqlJobStore)
            await store._database.write(older)
            await store.aclose()

        return pass_time
