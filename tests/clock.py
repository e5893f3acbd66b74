"""A clock that tests move."""

from __future__ import annotations


class HandClock:
    """Units: seconds. `at` is what `now` says; it may be set back, as a machine's clock may. `since` never goes back."""

    def __init__(self, at: float = 1_700_000_000.0) -> None:
        self.at = at
        self.since = 1_000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.since

    def move(self, seconds: float) -> None:
        self.at += seconds
        self.since += seconds
