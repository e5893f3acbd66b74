"""Queries first: what may wait is done between them.

The threads of one process take turns at the interpreter, and a search needs a dozen turns. Beside threads that compute, each
of these is waited for, and the search takes five times as long (docs/performance.md). So whatever ingest does in this
process waits for a moment in which no search is under way, and while searches come it is done one piece at a time.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from ragline.priority import lower_priority

R = TypeVar("R")

YIELD_S = 0.05
"""Longest that one piece waits for the queries to end; after waiting in vain, others go ahead without waiting for as long. So
a flood of queries slows what may wait, but never stops it."""

QUIET_S = 0.25
"""While the last query is no longer ago, more are expected."""

THREADS = 4
"""Of the background: what is done there waits for the disk as much as it computes."""


class Queries:
    """Which are under way. `under_way` is for one event loop, the rest for any thread."""

    def __init__(self) -> None:
        self._count = 0
        self._none = threading.Event()
        self._none.set()
        self._last = -math.inf
        self._waited_in_vain = -math.inf

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """The block is a query, or a part of one."""
        self._count += 1
        self._none.clear()
        try:
            yield
        finally:
            self._last = time.monotonic()
            self._count -= 1
            if not self._count:
                self._none.set()

    @contextmanager
    def between(self, turn: threading.Lock) -> Iterator[None]:
        """The block may wait: it begins once no query is under way. Of the blocks of one `turn`, one at a time runs while
        queries come, and any number otherwise."""
        if not self._come():
            yield
            return
        with turn:
            if time.monotonic() - self._waited_in_vain > YIELD_S and not self._none.wait(YIELD_S):
                self._waited_in_vain = time.monotonic()
            yield

    def _come(self) -> bool:
        return self._count > 0 or time.monotonic() - self._last <= QUIET_S


class Background:
    """Threads of low priority, for what may wait."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries
        self._turn = threading.Lock()
        self._threads = ThreadPoolExecutor(THREADS, "background", initializer=lower_priority)

    async def run(self, work: Callable[[], R]) -> R:
        """Raises: what `work` raises; RuntimeError once closed."""

        def between() -> R:
            with self._queries.between(self._turn):
                return work()

        return await asyncio.get_running_loop().run_in_executor(self._threads, between)

    async def aclose(self) -> None:
        """What has begun is waited for."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
