"""The one clock. Time, leases, TTLs and deadlines read it, so a test can move it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since 1970, UTC: for what is stored and shown."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never backwards: for durations."""
        ...


class SystemClock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()
