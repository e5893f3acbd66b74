"""How many searches may be under way at once, and what is left out before one is refused.

Nobody knows the number beforehand: it depends on the machine and on the engines. It follows what is seen: while searches are
slow, and slower than when they have the machine to themselves, there are too many of them, and the number falls; while they
are fast and the places are used, it rises (additive increase, multiplicative decrease; Chiu & Jain 1989, with the test for
queueing of TCP Vegas, Brakmo & Peterson 1995). An engine that is slow by itself is no reason to refuse anybody: a step down after
which fewer are served, and each as slowly, is taken back.

On the way to the last place more and more is left out: the reranker, half of the candidates, the generators. Then 429.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from ragline import metrics
from ragline.clock import Clock
from ragline.errors import Overloaded

Shed: TypeAlias = Literal["rerank", "candidates", "generator"]

AT: dict[Shed, float] = {"rerank": 0.5, "candidates": 0.7, "generator": 0.85}
"""Share of the places in use from which on a step is left out: the dearest first, the answer's words last."""

FIRST, LEAST, MOST = 128, 16, 2048
"""Places at the start, and between which bounds their number moves."""

WINDOW, WINDOW_S = 64, 1.0
"""The number moves after so many searches, or after so long with a quarter of them."""

AIM = 0.8
"""Share of the target that is aimed at: under such a load a request waits for its place as well, and its answer for the wire."""

RISE = 1.05
FALL = (0.3, 0.7)
"""Bounds of one step down; it goes where the last searches would just have been in time (Little 1961). What a smaller one does
cannot be told from chance."""

QUEUED = 3.0
"""Times as slow as alone: most of it is waiting for each other."""

SETTLED = 2
"""Windows running, before a step down: the first one saw what was before as well."""

CLEAR = 2.0
"""Times what is aimed at: if even half of the searches take longer, one window is enough, unless it is of before the last
step."""

JUDGED = 3
"""Windows after a step down until it is judged, the first of which says nothing either: once, before other things have come."""

HELPED = 0.85
"""Of what half of the searches took before a step down: if they take less now, it was right."""

DRIFT = 1.01
"""What is taken for "alone" grows by this each window, so that an engine that is slower from today on is learnt; not while
somebody is refused: nobody is alone then, and after minutes of it being in each other's way would be taken for normal."""


class Pressure:
    """Of one process. `target_ms`: what a search may take; while they take less than AIM of it, nobody is refused for how many
    there are."""

    def __init__(self, clock: Clock, *, target_ms: int) -> None:
        self._clock = clock
        self._aim_s = AIM * target_ms / 1000
        self._places = float(FIRST)
        self._in_use = self._most_in_use = 0
        self._took_s: list[float] = []
        self._alone_s: float | None = None
        self._began_at = clock.monotonic()
        self._refused = 0
        self._rate = 0.0
        self._slow = 0
        self._fall: _Fall | None = None

    @property
    def places(self) -> int:
        return int(self._places)

    @property
    def full(self) -> bool:
        return self._in_use >= self.places

    def sheds(self, what: Shed) -> bool:
        """Whether `what` is to be left out now."""
        return self._in_use > AT[what] * self.places

    def refusal(self) -> Overloaded:
        self._refused += 1
        metrics.refused_total.inc()
        return Overloaded(
            f"{self._in_use} searches are under way, which is what this process can do in time.",
            next_step="Ask again in a second; if this lasts, add replicas of `ragline serve`.",
            retry_after_s=1.0,
        )

    @contextmanager
    def place(self, *, waits: bool = False) -> Iterator[None]:
        """Raises Overloaded: there is none. `waits`: for something else, so that how long it takes says nothing."""
        if self.full:
            raise self.refusal()
        self._in_use += 1
        self._most_in_use = max(self._most_in_use, self._in_use)
        metrics.searches_in_flight.set(self._in_use)
        began = self._clock.monotonic()
        try:
            yield
        finally:
            self._in_use -= 1
            metrics.searches_in_flight.set(self._in_use)
            if not waits:
                self._seen(self._clock.monotonic() - began)

    def _seen(self, took_s: float) -> None:
        self._took_s.append(took_s)
        passed_s = self._clock.monotonic() - self._began_at
        if len(self._took_s) < WINDOW and not (passed_s > WINDOW_S and len(self._took_s) >= WINDOW // 4):
            return
        took, rate = sorted(self._took_s), len(self._took_s) / max(passed_s, 1e-9)
        fast, half, slow = (took[int(share * (len(took) - 1))] for share in (0.1, 0.5, 0.95))
        drift = 1.0 if self._refused else DRIFT
        self._alone_s = fast if self._alone_s is None else min(fast, drift * self._alone_s)
        queue = slow > self._aim_s and half > QUEUED * self._alone_s
        clear = half > CLEAR * self._aim_s and not (self._fall and not self._fall.looks)
        self._slow = (SETTLED if clear else self._slow + 1) if queue else 0
        now = _Look(rate, half, self._refused)
        if (fall := self._fall) and fall.judged(now):
            self._fall = None
            if queue and fall.was_wrong:  # they were not in each other's way
                self._places, self._alone_s, self._slow = fall.places, fast, 0
        used = min(self._places, self._most_in_use)
        if self._slow >= SETTLED and used > LEAST:
            kept = max(LEAST, used * min(FALL[1], max(FALL[0], self._aim_s / slow)))
            first = self._fall or _Fall(self._places, used, replace(now, rate=max(rate, self._rate)))
            self._fall = _Fall(first.places, first.used, first.before, kept)
            self._places, self._slow = kept, 0
        short = self._most_in_use > AT["rerank"] * self._places
        # What an overload has taken comes back when it is over, used or not.
        if slow <= self._aim_s and (short or self._places < FIRST):
            self._places = min(MOST if short else FIRST, RISE * self._places + 1)
        metrics.search_places.set(self.places)
        self._took_s, self._most_in_use, self._began_at, self._refused = [], self._in_use, self._clock.monotonic(), 0
        self._rate = rate


@dataclass(frozen=True, slots=True)
class _Look:
    """At a window: searches done a second, how long half of them took at most, how many were refused."""

    rate: float
    half_s: float
    refused: int


@dataclass(frozen=True, slots=True)
class _Fall:
    """Steps down, one soon after another. `places` and those in use before them; what was seen then, and in each window since
    the last; how many were kept."""

    places: float
    used: float
    before: _Look
    kept: float = 0.0
    looks: list[_Look] = field(default_factory=list)

    def judged(self, now: _Look) -> bool:
        """Whether with `now` enough is seen."""
        self.looks.append(now)
        return len(self.looks) == JUDGED

    @property
    def was_wrong(self) -> bool:
        """Fewer are done at once, and each is as slow."""
        rates, halves = zip(*((one.rate, one.half_s) for one in self.looks[1:]), strict=True)
        fewer = statistics.fmean(rates) < self.before.rate * (1 + self.kept / self.used) / 2
        slow = statistics.fmean(halves) > HELPED * self.before.half_s
        return fewer and slow and any(one.refused for one in self.looks)
