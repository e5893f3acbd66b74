"""Do together what has queued while the last call ran.

No window, no timer: an idle system serves one item at once, a busy one serves larger and larger batches. Group commit
in the registry, batching over callers in the embedder and one durable write for many documents are all this.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Coalescer(Generic[T, R]):
    """Calls `run` with everything that waits, one call at a time.

    Shapes:  `run` gets 1..n items in arrival order and returns as many results; a result that is an exception is raised
             to its own caller only. When `run` itself raises, or returns more or fewer, every caller of that batch gets
             the error.
    Limits:  a batch stops before its weights exceed `most`, but never holds less than one item.
    Pace:    calls begin `pace_s()` seconds apart, or when `enough` weight waits, or at `hurry()`: where a call has a
             price of its own, such as a commit, a stream of single items is gathered. The first item after a rest still
             goes at once.
    Cancel:  a caller that leaves before its batch starts takes its item along; later, the work goes on for the others.
    """

    def __init__(
        self,
        run: Callable[[list[T]], Awaitable[Sequence[R | Exception]]],
        *,
        most: int,
        weigh: Callable[[T], int] = lambda _: 1,
        enough: int = 1,
        pace_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._run = run
        self._most = most
        self._weigh = weigh
        self._enough = enough
        self._pace_s = pace_s
        self._began = -math.inf  # on the loop's clock
        self._ready = asyncio.Event()  # the pace need not be kept
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._drain: asyncio.Task[None] | None = None

    async def __call__(self, item: T) -> R:
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if not self._pace_s() or self._weight() >= self._enough:
            self._ready.set()
        if self._drain is None or self._drain.done():
            # of all callers: in the context of the first, its log lines and spans would be that one's
            self._drain = asyncio.create_task(self._work(), context=contextvars.Context())
        return await future

    def hurry(self) -> None:
        """Nothing more is on its way: what waits goes now."""
        self._ready.set()

    async def aclose(self) -> None:
        """Wait for what has been handed in."""
        if self._drain is not None:
            await asyncio.wait([self._drain])

    async def _work(self) -> None:
        while self._waiting:
            await self._keep_pace()
            batch = self._next()
            if not batch:  # all have left
                return
            try:
                results = await self._run([item for item, _ in batch])
                if len(results) != len(batch):
                    raise RuntimeError(f"{len(results)} results came back for {len(batch)} items.")
            except BaseException as error:
                for _, future in batch:
                    if not future.done():
                        if isinstance(error, Exception):
                            future.set_exception(error)
                        else:
                            future.cancel()
                if not isinstance(error, Exception):
                    raise
                continue
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    async def _keep_pace(self) -> None:
        now = asyncio.get_running_loop().time
        rest_s = self._began + self._pace_s() - now()
        if rest_s > 0 and self._weight() < self._enough:
            self._ready.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(rest_s):
                    await self._ready.wait()
        self._began = now()

    def _weight(self) -> int:
        return sum(self._weigh(item) for item, future in self._waiting if not future.done())

    def _next(self) -> list[tuple[T, asyncio.Future[R]]]:
        batch: list[tuple[T, asyncio.Future[R]]] = []
        weight = 0
        while self._waiting:
            item, future = self._waiting[0]
            if future.done():
                self._waiting.popleft()
                continue
            weight += self._weigh(item)
            if batch and weight > self._most:
                break
            batch.append(self._waiting.popleft())
        return batch
