"""Clocks, memory, recall: what the phases measure with."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.vector_engines.engine import Hit, vendor


def timed(call: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call(*given)
    return (time.perf_counter() - start) * 1e3, result


def percentiles(times_ms: Sequence[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(times_ms, [50, 95, 99]) if len(times_ms) else (np.nan,) * 3
    return {"p50_ms": round(p50, 2), "p95_ms": round(p95, 2), "p99_ms": round(p99, 2), "n": len(times_ms)}


def memory_mb() -> int:
    return round(int(vendor("psutil").Process().memory_full_info().uss) / 2**20)


def folder_mb(folder: Path) -> int:
    files = [file.stat() for file in folder.rglob("*") if file.is_file()]
    return round(sum(stat.st_blocks * 512 for stat in files) / 2**20)


@contextlib.contextmanager
def in_background(work: Callable[[threading.Event], None]) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def heartbeat(into: dict[str, Any], name: str) -> Iterator[None]:
    """Longest time another Python thread (an event loop, say) could not run: who holds the GIL shows here."""
    beats: list[float] = []

    def beat(stop: threading.Event) -> None:
        while not stop.is_set():
            beats.append(time.perf_counter())
            time.sleep(0.002)

    with in_background(beat):
        yield
        beats.append(time.perf_counter())
    into[name] = round(max(np.diff(beats)) * 1e3, 1)


def recall(found: Sequence[Sequence[Hit]], truth: Sequence[set[str]]) -> float:
    pairs = [(hits, true) for hits, true in zip(found, truth, strict=True) if true]
    return round(float(np.mean([len({hit[0] for hit in hits} & true) / len(true) for hits, true in pairs])), 4)
