"""`ragline`, with every callback of its event loop timed: which ones keep everybody else waiting?

    python -m bench.serving.watched FILE up --data-dir …

Runs on asyncio's own loop, whose callbacks can be wrapped. At the end FILE has one JSON line for each that took more than
LIMIT_MS: wall time (a busy machine may have taken the core away meanwhile) and the thread's own processor time.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from ragline.cli import up
from ragline.cli.main import run

LIMIT_MS = 20.0


def main() -> None:
    path = Path(sys.argv.pop(1))
    slow: list[dict[str, object]] = []
    inner = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        start, start_cpu = time.perf_counter(), time.thread_time()
        inner(handle)
        took_ms = (time.perf_counter() - start) * 1000
        if took_ms > LIMIT_MS:
            cpu_ms = (time.thread_time() - start_cpu) * 1000
            slow.append({"at": time.time(), "wall_ms": took_ms, "cpu_ms": cpu_ms, "what": repr(handle)[:300]})

    asyncio.Handle._run = timed  # type: ignore[assignment]
    up.fast_loop = lambda: None
    try:
        run()
    finally:
        path.write_text("".join(json.dumps(one) + "\n" for one in slow))


if __name__ == "__main__":
    main()
