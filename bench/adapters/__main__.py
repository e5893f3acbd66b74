"""The command: insert and search by both, in turns, and print one line a figure."""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import statistics
import sys
import time
import uuid
from collections.abc import Awaitable
from pathlib import Path

import numpy as np

from bench.adapters.engine import Engine
from ragline.types import Chunk, Record, Scope

BATCH = 1_000
SEARCHES = 400
TOP_K = 50
"""As many as a leg fetches."""
WORDS = (
    "the heron waits in shallow water and takes what swims by while other birds search for food at the shore".split()
)
SLOWER_AT_MOST, INSERT_AT_LEAST = 1.15, 0.9


def rows(count: int, dim: int) -> tuple[list[Record], np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """Texts of 900 characters, vectors in 200 clusters, as the chunks of documents are."""
    chance = np.random.default_rng(5)
    centres = chance.standard_normal((200, dim))
    vectors = (centres[np.arange(count) % 200] + 0.7 * chance.standard_normal((count, dim))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = []
    for n in range(count):
        text = " ".join(chance.choice(WORDS, 170))[:900]
        chunk = Chunk(str(uuid.UUID(int=n + 1)), f"d{n // 10}", 1, n % 10, text, 0, len(text), 1, ("One", "Two"))
        found.append(Record(chunk, f"file:///d{n // 10}.txt", "A title", frozenset(), {}, f"A title\n{text}"))
    return found, vectors


async def timed(call: Awaitable[object]) -> float:
    start = time.perf_counter()
    await call
    return time.perf_counter() - start


async def compare(engine: Engine, *, count: int, dim: int) -> bool:
    records, vectors = rows(count, dim)
    gc.collect()
    gc.freeze()  # else whoever makes the object that is one too many is charged with a look through all of these
    name, chance = f"bench-{uuid.uuid4().hex[:8]}", np.random.default_rng(6)
    adapter, vendor = engine.adapter, engine.vendor
    await adapter.create(name, dim=dim, fields={})
    await vendor.make(dim)
    try:
        inserted: tuple[list[float], list[float]] = ([], [])
        for turn, at in enumerate(range(0, count, BATCH)):
            part, rest = records[at : at + BATCH], vectors[at : at + BATCH]
            for which in (0, 1) if turn % 2 else (1, 0):
                call = vendor.insert(part, rest) if which else adapter.upsert(name, part, rest)
                inserted[which].append(await timed(call))
        queries = vectors[chance.integers(0, count, SEARCHES)] + 0.1 * chance.standard_normal((SEARCHES, dim))
        queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
        scope, took, same = Scope(frozenset({"staff"})), ([], []), 0  # type: tuple[Scope, tuple[list[float], list[float]], int]
        for turn, query in enumerate(np.concatenate([queries[:50], queries])):
            for which in (0, 1) if turn % 2 else (1, 0):
                asked: Awaitable[object] = (
                    vendor.search(query, top_k=TOP_K)
                    if which
                    else adapter.search(name, query, top_k=TOP_K, scope=scope)
                )
                once = await timed(asked)
                if turn >= 50:  # the first ones warm both up
                    took[which].append(once)
        for query in queries[:50]:
            theirs = set(await vendor.search(query, top_k=TOP_K))
            same += len(theirs & {hit.chunk.id for hit in await adapter.search(name, query, top_k=TOP_K, scope=scope)})
    finally:
        await adapter.drop(name)
        await vendor.remove()
    ours, theirs_ms = (1000 * statistics.median(side) for side in took)
    rate, their_rate = (count / sum(side) for side in inserted)
    print(f"{engine.words}; {count} rows of {dim}, batches of {BATCH}, top {TOP_K}, {SEARCHES} searches, in turns")
    print(
        f"search p50  adapter {ours:.2f} ms, client {theirs_ms:.2f} ms: {ours / theirs_ms:.2f} × (aim ≤ {SLOWER_AT_MOST})"
    )
    print(
        f"insert      adapter {rate:.0f}/s, client {their_rate:.0f}/s: {rate / their_rate:.2f} × (aim ≥ {INSERT_AT_LEAST})"
    )
    print(f"the same hits: {same / (50 * TOP_K):.3f}")
    return ours <= SLOWER_AT_MOST * theirs_ms and rate >= INSERT_AT_LEAST * their_rate


async def run(given: argparse.Namespace) -> bool:
    module = importlib.import_module(f"bench.adapters.{given.engine}")
    async with module.opened(given.url) as engine:
        return await compare(engine, count=given.rows, dim=given.dim)


def main() -> int:
    here = Path(__file__).parent
    engines = sorted(path.stem for path in here.glob("*.py") if path.stem not in ("__init__", "__main__", "engine"))
    parser = argparse.ArgumentParser(
        prog="python -m bench.adapters", description="An adapter against its vendor's client."
    )
    parser.add_argument("engine", choices=engines)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--url", default="", help="a server of yours; else one of the tests is started")
    return 0 if asyncio.run(run(parser.parse_args())) else 1


if __name__ == "__main__":
    sys.exit(main())
