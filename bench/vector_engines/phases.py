"""What is measured: each phase takes one engine, in a process of its own, and returns figures.

`build` fills a folder, `serve` and `write` go on with it; `kill_writer` and `kill_check` are the two sides of a kill, which
`__main__.py` deals out.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench.vector_engines.data import GROUPS, QUERIES, Data, true_neighbours
from bench.vector_engines.engine import Engine, Hit, Row
from bench.vector_engines.measuring import (
    folder_mb,
    heartbeat,
    in_background,
    memory_mb,
    percentiles,
    recall,
    timed,
)

BATCH = 100
"""Rows in one upsert: what an embedder hands over at once."""
PACE = 500
"""Rows a second that a local embedder delivers: the rate of the "paced" writer."""

Figures = dict[str, Any]
"""As they go into the JSON report."""


def build(engine: Engine, folder: Path, data: Data) -> Figures:
    before, times = memory_mb(), list[float]()
    result: Figures = {}
    engine.open(folder, data.queries.shape[1])
    start, spent = time.perf_counter(), time.process_time()
    for at in range(0, len(data.rows), BATCH):
        times.append(timed(engine.upsert, data.rows[at : at + BATCH])[0])
    result["insert_rows_per_s"] = round(len(data.rows) / (time.perf_counter() - start))
    result["insert_batch"] = percentiles(times)
    result["insert_cpu_ms_per_row"] = round((time.process_time() - spent) * 1e3 / len(data.rows), 3)
    result["search_before_optimise"] = percentiles([timed(engine.search, q, 10)[0] for q in data.queries[:50]])
    spent = time.process_time()
    with heartbeat(result, "optimise_stall_ms"):
        took, _ = timed(engine.optimise)
    result["optimise_cpu_s"] = round(time.process_time() - spent, 1)
    result |= {"optimise_s": round(took / 1e3, 1), "memory_mb": memory_mb() - before}
    engine.close()
    return result | {"disk_mb": folder_mb(folder)}


def serve(engine: Engine, folder: Path, data: Data) -> Figures:
    """Open what `build` left; search under every filter and from two threads; then change groups and delete."""
    before, chance = memory_mb(), random.Random(1)
    result = _opening(engine, folder, data)
    asked = [f"group-{chance.randrange(GROUPS)}" for _ in data.queries]
    truth = true_neighbours(data, asked)
    searches: dict[str, tuple[Callable[[int], list[Hit]], list[set[str]] | None]] = {
        "top_10": (lambda n: engine.search(data.queries[n], 10), truth.open),
        "top_50": (lambda n: engine.search(data.queries[n], 50), None),
        "one_group": (lambda n: engine.search(data.queries[n], 10, [asked[n]], "private"), truth.group),
        "one_group_or_everyone": (lambda n: engine.search(data.queries[n], 10, [asked[n]]), truth.group_or_everyone),
    }
    for name, (search, true) in searches.items():
        result[name] = _searching(search, true)
    with heartbeat(result, "search_stall_ms"):
        two_callers = _two_callers(engine, data)
    result["two_callers"] = two_callers | {"per_s_alone": round(1e3 / result["top_10"]["p50_ms"])}
    result["memory_mb"] = memory_mb() - before
    result |= _changes(engine, data, chance)
    engine.close()
    return result


def _opening(engine: Engine, folder: Path, data: Data) -> Figures:
    spent = time.process_time()
    opened, _ = timed(engine.open, folder, data.queries.shape[1])
    spent = time.process_time() - spent
    first, _ = timed(engine.search, data.queries[0], 10)
    return {
        "open_with_import_ms": round(opened),
        "open_cpu_ms": round(spent * 1e3),
        "first_search_ms": round(first, 1),
    }


def _searching(search: Callable[[int], list[Hit]], true: list[set[str]] | None) -> Figures:
    for n in range(50):
        search(n)
    spent = time.process_time()
    times, found = zip(*(timed(search, n) for n in range(QUERIES)), strict=True)
    spent = (time.process_time() - spent) * 1e3 / QUERIES
    quality = {"recall_at_10": recall(found, true)} if true else {}
    return percentiles(times) | {"cpu_ms": round(spent, 2)} | quality


def _two_callers(engine: Engine, data: Data) -> Figures:
    times: list[float] = []

    def caller(_: threading.Event) -> None:
        times.extend(timed(engine.search, q, 10)[0] for q in data.queries)

    start = time.perf_counter()
    with in_background(caller):
        caller(threading.Event())
    took = time.perf_counter() - start
    return percentiles(times) | {"per_s": round(2 * QUERIES / took)}


def _changes(engine: Engine, data: Data, chance: random.Random) -> Figures:
    """Regroup 30 documents, delete 30 others, and ask whether the next call sees it."""
    names = sorted({row.document for row in data.rows})
    chance.shuffle(names)
    documents = [name for name in names[:600] if engine.count(name)][:60]
    expected = {name: sum(row.document == name for row in data.rows) for name in documents}
    regroup = percentiles([timed(engine.regroup, d, ["group-new"])[0] for d in documents[:30]])
    seen = {h[0] for h in engine.search(data.queries[0], 50, ["group-new"], None)}
    delete = percentiles([timed(engine.delete, d, 2)[0] for d in documents[30:]])
    bound = (
        all(engine.count(name) == expected[name] for name in documents[:30])
        and not any(engine.count(name) for name in documents[30:])
        and bool(seen)
    )
    return {"regroup": regroup, "delete": delete, "right_after_changes": bound}


def write(engine: Engine, folder: Path, data: Data, seconds: float = 12) -> Figures:
    """Searches at rest, beside a writer at `PACE`, beside one flat out, and beside `optimise`."""
    engine.open(folder, data.queries.shape[1])
    result: Figures = {}
    written, unseen, counter = [0], [0], iter(range(10**9))

    def writer(stop: threading.Event, pace: float | None) -> None:
        start, done = time.perf_counter(), 0
        while not stop.is_set():
            batch = [data.rows[next(counter) * 7 % len(data.rows)] for _ in range(BATCH)]
            fresh = [Row(f"new-{r.chunk_id}", r.vector, "new", 1, "new", (), r.text) for r in batch]
            engine.upsert(fresh)
            done += BATCH
            if done % (10 * BATCH) == 0:
                unseen[0] += fresh[0].chunk_id not in {hit[0] for hit in engine.search(fresh[0].vector, 10)}
            if pace:
                stop.wait(max(0, start + done / pace - time.perf_counter()))
        written[0] = round(done / (time.perf_counter() - start))

    def read(until: Callable[[float], bool]) -> dict[str, float]:
        start, times = time.perf_counter(), list[float]()
        while not times or not until(time.perf_counter() - start):
            times.append(timed(engine.search, data.queries[len(times) % QUERIES], 10)[0])
        return percentiles(times) | {"max_ms": round(max(times), 1)}

    def for_a_while(elapsed: float) -> bool:
        return elapsed > seconds

    read(lambda elapsed: elapsed > 2)
    result["at_rest"] = read(for_a_while)
    for name, pace in {"paced": PACE, "flat_out": None}.items():
        with heartbeat(result, f"{name}_stall_ms"), in_background(partial(writer, pace=pace)):
            result[name] = read(for_a_while)
        result[name] |= {"written_per_s": written[0], "not_yet_visible": unseen[0]}
    result["after"] = read(for_a_while)
    finished = threading.Event()

    def optimise(_: threading.Event) -> None:
        engine.optimise()
        finished.set()

    with heartbeat(result, "optimise_stall_ms"), in_background(optimise):
        result["while_optimising"] = read(lambda _: finished.is_set())
    for name in ("paced", "flat_out", "while_optimising"):
        for p in ("p50", "p95"):
            result[name][f"{p}_ratio"] = round(result[name][f"{p}_ms"] / result["at_rest"][f"{p}_ms"], 2)
    engine.close()
    return result


def kill_writer(engine: Engine, folder: Path, data: Data) -> Figures:
    """Upsert, delete and optimise until killed; print what was acknowledged. Document k holds batch k."""
    engine.open(folder, data.queries.shape[1])
    first = int(os.environ["FIRST_BATCH"])
    for batch in range(first, 10**9):
        rows = [data.rows[(batch * BATCH + n) % len(data.rows)] for n in range(BATCH)]
        engine.upsert(
            [Row(f"{batch}-{n}", r.vector, f"batch-{batch}", 1, "x", ("a",), r.text) for n, r in enumerate(rows)]
        )
        print("upserted", batch, flush=True)
        if batch % 7 == 3:
            engine.delete(f"batch-{batch - 1}", 2)
            print("deleted", batch - 1, flush=True)
        if batch % 20 == 19:
            engine.optimise()
    return {}


def kill_check(engine: Engine, folder: Path, data: Data) -> Figures:
    acknowledged = json.loads(os.environ["ACKNOWLEDGED"])
    opened, _ = timed(engine.open, folder, data.queries.shape[1])
    lost = [
        b
        for b in acknowledged["upserted"]
        if b not in acknowledged["maybe_deleted"] and engine.count(f"batch-{b}") != BATCH
    ]
    back = [b for b in acknowledged["deleted"] if engine.count(f"batch-{b}")]
    broken = 0
    for batch in acknowledged["upserted"][-200:]:
        if batch not in acknowledged["maybe_deleted"]:
            row = data.rows[batch * BATCH % len(data.rows)]
            broken += not any(score > 0.999 for _, score, _ in engine.search(row.vector, 10, ["a"]))
    engine.close()
    return {"open_ms": round(opened), "lost_batches": len(lost), "undeleted": len(back), "unfindable": broken}


PHASES: dict[str, Callable[[Engine, Path, Data], Figures]] = {
    "build": build,
    "serve": serve,
    "write": write,
    "kill_writer": kill_writer,
    "kill_check": kill_check,
}
