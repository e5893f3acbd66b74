"""One store, from its first row to its last search."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bench.stores.engines import Line, Running
from bench.stores.rows import FIELDS, QUERIES, Rows, one_shelf
from ragline.build import open_keywords, open_vectors
from ragline.protocols import KeywordIndex, VectorStore
from ragline.settings import Settings
from ragline.types import Hit, Scope

COLLECTION = "stores"
BATCH = 500
WARM = 50
TOP_K = (10, 50, 100)
CALLERS = (1, 8)
EVERYONE = Scope()

Search = Callable[[int, int, Scope], Awaitable[Sequence[Hit]]]
"""Number of the query, top_k, scope."""


@dataclass(frozen=True, slots=True)
class Found:
    """Units: milliseconds of one search, as its caller waits; `rows_s`: rows a second, the last of them findable;
    `memory_mib`: of the server's processes, or what this one has grown by.

    p50, p95: "top_k/callers" → …   recall: at 10, everyone's scope, and one shelf's.
    cpu_ms: processor time of one search with top_k 50, of the server and this process together: what a loaded machine leaves as
    it is.  load: of the machine, meanwhile.
    """

    line: Line
    words: str
    count: int
    rows_s: float
    settled_s: float
    p50: dict[str, float]
    p95: dict[str, float]
    shelf_p50: float
    shelf_p95: float
    cpu_ms: float
    recall: float | None
    shelf_recall: float | None
    memory_mib: float
    load: float


async def measured(line: Line, server: Running, rows: Rows) -> Found:
    with tempfile.TemporaryDirectory(prefix="ragline-bench-") as folder:
        url = {"vectors": "", "keywords": "", line.role: server.url}
        settings = Settings(data_dir=Path(folder), vectors=url["vectors"], keywords=url["keywords"])
        before = 0.0 if server.process else memory_mib(os.getpid())
        async with AsyncExitStack() as closing:
            if line.role == "vectors":
                vectors = open_vectors(settings)
                closing.push_async_callback(vectors.aclose)
                return await _figures(line, server, rows, partial(_vectors, vectors, rows), before)
            keywords = open_keywords(settings)
            closing.push_async_callback(keywords.aclose)
            return await _figures(line, server, rows, partial(_keywords, keywords, rows), before)


async def _vectors(store: VectorStore, rows: Rows) -> Search:
    await store.create(COLLECTION, dim=rows.vectors.shape[1], fields=FIELDS)
    for at in range(0, len(rows.records), BATCH):
        await store.upsert(COLLECTION, rows.records[at : at + BATCH], rows.vectors[at : at + BATCH])
    return lambda n, k, scope: store.search(COLLECTION, rows.asked[n], top_k=k, scope=scope)


async def _keywords(store: KeywordIndex, rows: Rows) -> Search:
    await store.create(COLLECTION, fields=FIELDS)
    for at in range(0, len(rows.records), BATCH):
        await store.upsert(COLLECTION, rows.records[at : at + BATCH])
    return lambda n, k, scope: store.search(COLLECTION, rows.texts[n], top_k=k, scope=scope)


async def _figures(
    line: Line, server: Running, rows: Rows, fill: Callable[[], Awaitable[Search]], before: float
) -> Found:
    start = time.perf_counter()
    search = await fill()
    inserted_s = time.perf_counter() - start
    if server.settled:
        await server.settled(COLLECTION)
    settled_s = time.perf_counter() - start - inserted_s
    p50, p95 = {}, {}
    await _times(search, WARM, top_k=50, callers=2, shelf=False)
    for callers in CALLERS:
        for k in TOP_K:
            took = await _times(search, QUERIES, top_k=k, callers=callers, shelf=False)
            p50[f"{k}/{callers}"], p95[f"{k}/{callers}"] = np.percentile(took, [50, 95]).tolist()
    spent = _cpu_s(server)
    await _times(search, QUERIES, top_k=50, callers=2, shelf=False)
    cpu_ms = 1000 * (_cpu_s(server) - spent) / QUERIES
    await _times(search, WARM, top_k=10, callers=1, shelf=True)
    shelf_p50, shelf_p95 = np.percentile(await _times(search, QUERIES, top_k=10, callers=1, shelf=True), [50, 95])
    recall, shelf_recall = None, None
    if line.role == "vectors":
        recall, shelf_recall = [await _recall(search, rows, shelf=shelf) for shelf in (False, True)]
    memory = memory_mib(server.process) if server.process else memory_mib(os.getpid()) - before
    return Found(
        line, server.words, len(rows.records), len(rows.records) / inserted_s, settled_s, p50, p95, float(shelf_p50),
        float(shelf_p95), cpu_ms, recall, shelf_recall, memory, os.getloadavg()[0],
    )  # fmt: skip


async def _times(search: Search, count: int, *, top_k: int, callers: int, shelf: bool) -> list[float]:
    took: list[float] = []
    waiting = iter(range(count))

    async def caller() -> None:
        for n in waiting:
            scope = one_shelf(n) if shelf else EVERYONE
            start = time.perf_counter()
            await search(n, top_k, scope)
            took.append(1000 * (time.perf_counter() - start))

    await asyncio.gather(*(caller() for _ in range(callers)))
    return took


async def _recall(search: Search, rows: Rows, *, shelf: bool) -> float:
    """Of the ten nearest, or all where a shelf has fewer."""
    shares = []
    for n in range(QUERIES):
        scope = one_shelf(n) if shelf else EVERYONE
        true = rows.exact(n, 10, scope)
        shares.append(len(true & {hit.chunk.id for hit in await search(n, 10, scope)}) / len(true))
    return float(np.mean(shares))


def _cpu_s(server: Running) -> float:
    """Of this process, and of the server's."""
    ours = time.process_time()
    if server.process is None:
        return ours
    ticks = [
        int(ticks) for one in _tree(server.process) for ticks in _told(one, "stat").rpartition(")")[2].split()[11:13]
    ]
    return ours + sum(ticks) / os.sysconf("SC_CLK_TCK")


def memory_mib(process: int) -> float:
    """Of it and the processes below it; a page that several share counts once. Files that a server maps count where read."""
    rollups = (_told(one, "smaps_rollup").splitlines() for one in _tree(process))
    return sum(int(line.split()[1]) for lines in rollups for line in lines if line.startswith("Pss:")) / 1024


def _tree(process: int) -> list[int]:
    """It, and the processes below it."""
    found, left = [], [process]
    while left:
        one = left.pop()
        found.append(one)
        tasks = list(Path(f"/proc/{one}/task").glob("*/children"))
        left += [int(child) for task in tasks for child in _told(one, f"task/{task.parent.name}/children").split()]
    return found


def _told(process: int, file: str) -> str:
    try:
        return Path(f"/proc/{process}/{file}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""  # it has ended meanwhile, as a server's workers do
