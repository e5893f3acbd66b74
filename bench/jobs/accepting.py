"""Accepting a job, fully durable, beside what the same store commits: one narrow row a caller, through the same group commit.

32 callers each. Both take turns in one run, on a database with fsync as it is by default.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from sqlalchemy import Connection, text

from bench.figures import Figure, median
from ragline.clock import SystemClock
from ragline.connections.database import sqlite_url
from ragline.jobstores.sql import SqlJobStore
from ragline.testing.jobstores import order
from ragline.types import JobLimits
from tests.engines.postgres import server

CALLERS, EACH, ROUNDS = 32, 25, 5
ROOM = JobLimits(most=10**9, of_namespace=10**9)
DURABLE = ("fsync=on", "synchronous_commit=on", "max_connections=100")


async def run(folder: Path) -> list[Figure]:
    figures = await _of("SQLite", sqlite_url(folder / "jobs.sqlite"))
    with server(DURABLE) as postgres:
        figures += await _of("PostgreSQL", await postgres.database())
    return figures


async def _of(name: str, url: str) -> list[Figure]:
    store = await SqlJobStore.open(url, SystemClock())
    database = store._database
    await database.write(lambda c: c.execute(text("CREATE TABLE narrow (n TEXT PRIMARY KEY)")).rowcount)
    numbers = iter(range(10**9))

    async def accept() -> None:
        await store.accept(order(idempotency_key=f"k{next(numbers)}"), ROOM)

    async def commit() -> None:
        n = next(numbers)

        def work(connection: Connection) -> None:
            connection.execute(text("INSERT INTO narrow VALUES (:n)"), {"n": f"n{n}"})

        await database.write(work)

    try:
        pairs = [(await _rate(commit), await _rate(accept)) for _ in range(ROUNDS)]
    finally:
        await store.aclose()
    return [
        Figure(f"{name}: its own commits", median([own for own, _ in pairs]), "1/s", note=f"{CALLERS} callers"),
        Figure(f"{name}: jobs accepted", median([ours for _, ours in pairs]), "1/s"),
        Figure(f"{name}: accepted / committed", median([ours / own for own, ours in pairs]), at_least=0.5),
    ]


async def _rate(call: Callable[[], Awaitable[None]]) -> float:
    async def caller() -> None:
        for _ in range(EACH):
            await call()

    start = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return CALLERS * EACH / (time.perf_counter() - start)
