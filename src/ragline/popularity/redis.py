"""How often things are asked for, counted in a Redis by all processes together.

    PREFIX:popular:DAY:KEY       a count, which goes two days later

An eviction makes a thing less popular than it is, and no answer wrong.
"""

from __future__ import annotations

from ragline.clock import Clock
from ragline.connections.redis import RedisServer
from ragline.popularity.memory import DAY_S, in_a_day


class RedisPopularity:
    """Raises ConfigurationError: the URL.  EngineError: at a call."""

    def __init__(self, url: str, *, clock: Clock) -> None:
        self.server = RedisServer(url, setting="edge.popularity", engine="popularity:redis")
        self._clock = clock

    async def seen(self, key: str) -> int:
        day, since = divmod(self._clock.now(), DAY_S)
        today = self.server.key("popular", str(int(day)), key)
        with self.server.translating("counting a query"):
            async with self.server.client.pipeline(transaction=False) as steps:
                steps.incr(today)
                steps.expire(today, 2 * DAY_S)
                steps.get(self.server.key("popular", str(int(day) - 1), key))
                count, _, before = await steps.execute()
        return in_a_day(int(count), int(before or 0), since)

    async def aclose(self) -> None:
        await self.server.aclose()
