"""How long Pinecone is waited for: what is asked again, and until when a write is not yet seen."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import pinecone.errors as vendor
import structlog

from ragline.errors import EngineTimeout
from ragline.vectors.pinecone_rows import ENGINE

log = structlog.get_logger()
T = TypeVar("T")

FIRST_PAUSE_S, MOST_PAUSE_S = 0.05, 1.0
LOOK_PAUSE_S = 0.25
"""Between two looks whether a write is seen, at most; a look is a query, which costs a little."""


class Freshness:
    """Up to which write searches of one namespace see. One look serves everyone who waits."""

    def __init__(self, indexed: Callable[[], Awaitable[int]], *, within_s: float) -> None:
        self._indexed, self._within_s = indexed, within_s
        self._seen = -1
        self._looking = asyncio.Lock()

    async def reached(self, place: int | None) -> None:
        """Return once a search sees what was written at `place`. Raises EngineTimeout: not in time; it is written all the
        same."""
        if place is None:
            log.warning("the service does not number its writes: when they are seen is not known", engine=ENGINE)
            return
        waited, pause = 0.0, FIRST_PAUSE_S / 4
        async with self._looking:
            while self._seen < place:
                self._seen = max(self._seen, await self._indexed())
                if self._seen >= place:
                    return
                if waited > self._within_s:
                    raise EngineTimeout(
                        f"Pinecone has taken a write, but no search sees it after {self._within_s:.0f} s.",
                        next_step="It is repeated by itself; set `fresh_s` higher in the URL if it stays so.",
                        engine=ENGINE,
                    )
                waited, pause = await slept(waited, min(pause, LOOK_PAUSE_S))


async def patiently(call: Callable[[], Awaitable[T]], patience_s: float) -> T:
    """Ask again while the service limits its rate or is away, as long as it asks for and no longer than `patience_s` in all.
    Whatever is asked here may be asked twice."""
    waited, pause = 0.0, FIRST_PAUSE_S
    while True:
        try:
            return await call()
        except (vendor.RateLimitError, vendor.ServiceError, vendor.PineconeConnectionError) as error:
            asked = max(pause, getattr(error, "retry_after", None) or 0.0)
            if waited + asked > patience_s:
                raise
            waited, pause = await slept(waited, asked)


async def together(calls: Sequence[Callable[[], Awaitable[T]]], most: int) -> list[T]:
    """All of them, `most` at a time, in order. When one fails, or we are cancelled, none is left at work."""
    if len(calls) == 1:
        return [await calls[0]()]
    places = asyncio.Semaphore(most)

    async def one(call: Callable[[], Awaitable[T]]) -> T:
        async with places:
            return await call()

    tasks = [asyncio.ensure_future(one(call)) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def slept(waited: float, pause: float) -> tuple[float, float]:
    """Sleep a little more than `pause`, so that those who were refused together do not come back together."""
    slept = pause * random.uniform(1.0, 1.25)
    await asyncio.sleep(slept)
    return waited + slept, min(2 * pause, MOST_PAUSE_S)
