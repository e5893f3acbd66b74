"""One search of a query, kept from hurting the others: a deadline, and a bound on how many run at once.

A leg that fails or is late raises `EngineError`; the query path goes on without it and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ragline import metrics
from ragline.errors import EngineError, EngineTimeout
from ragline.types import Hit, LegName


class Leg:
    """`deadline_ms` covers waiting for a place as well, so that a stalled engine holds no request beyond it."""

    def __init__(self, name: LegName, *, deadline_ms: int, concurrency: int) -> None:
        self.name = name
        self._deadline_s = deadline_ms / 1000
        self._places = asyncio.Semaphore(concurrency)

    async def run(self, search: Callable[[], Awaitable[list[Hit]]]) -> list[Hit]:
        """Raises EngineError: the engine's own, or EngineTimeout."""
        try:
            async with asyncio.timeout(self._deadline_s):
                async with self._places:
                    return await search()
        except TimeoutError:
            metrics.retrieval_errors_total.labels(self.name, "timeout").inc()
            raise EngineTimeout(
                f"The {self.name} leg gave no answer within {self._deadline_s * 1000:.0f} ms.",
                next_step=f"Look at the engine's load, or raise query.{self.name}_deadline_ms.",
                engine=self.name,
            ) from None
        except EngineError as error:
            metrics.retrieval_errors_total.labels(self.name, type(error).__name__).inc()
            raise
