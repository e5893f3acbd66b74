"""How often things are asked for, counted in this process: each process by itself, and none remembers a restart."""

from __future__ import annotations

from collections import OrderedDict

from ragline.clock import Clock

DAY_S = 86_400
MOST_KEYS = 100_000
"""About 200 bytes each. What was asked for longest ago goes."""


class MemoryPopularity:
    def __init__(self, clock: Clock, *, most: int = MOST_KEYS) -> None:
        self._clock, self._most = clock, most
        self._counts: OrderedDict[str, tuple[int, int, int]] = OrderedDict()
        """Key → the day, how often on it, and on the day before."""

    async def seen(self, key: str) -> int:
        day, since = divmod(self._clock.now(), DAY_S)
        today = int(day)
        last, count, before = self._counts.pop(key, (today, 0, 0))
        if last != today:
            count, before = 0, count if last == today - 1 else 0
        self._counts[key] = (today, count + 1, before)
        if len(self._counts) > self._most:
            self._counts.popitem(last=False)
        return in_a_day(count + 1, before, since)

    async def aclose(self) -> None:
        pass


def in_a_day(today: int, yesterday: int, since_s: float) -> int:
    """Of a window of 24 hours, as if yesterday's were spread evenly. `since_s`: how much of today is over."""
    return int(today + yesterday * (1 - since_s / DAY_S))
