"""What a load has seen, request by request, and what can be said of it.

Raw samples, not a histogram of fixed buckets (HdrHistogram): a fault is judged by a window of time that is known only
afterwards, by kind and by status, and no bucket can be taken apart again. An hour at 50 requests a second is 180,000 samples,
about 32 MB. Percentiles are numpy's over the raw values, each a latency that was really seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

PERCENTILES = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 100.0)
"""Of a report; 100 is the slowest."""

LATE_MS = 20.0
"""Requests that the generator itself sent later than this, at the 99th percentile: it lacked CPU, and figures say so."""


class Kind(StrEnum):
    SEARCH = "search"
    ANSWER = "answer"
    WRITE = "write"


class Lost(StrEnum):
    """Why a request has no status."""

    UNSENT = "unsent"
    """As many as may be were in flight when it was due."""
    TIMEOUT = "timeout"
    BROKEN = "broken off"
    """No connection, it was cut, or what came is no answer of Ragline's."""
    STOPPED = "stopped"
    """In flight when the load was stopped: it has not failed, and has not been answered."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. Units: `at_s` when it was due, in seconds from the load's start; `took_ms` from then to its last byte;
    `late_ms`, a part of it, from then until it was sent.

    status: of HTTP; 0: `lost` says why there is none.
    """

    at_s: float
    took_ms: float
    status: int
    degraded: tuple[str, ...] = ()
    cached: bool = False
    kind: Kind = Kind.SEARCH
    late_ms: float = 0.0
    lost: Lost | None = None

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def failed(self) -> bool:
        return not self.good and self.lost is not Lost.STOPPED


@dataclass(frozen=True, slots=True)
class Step:
    """A stretch of time. Units: `at_s` seconds from the load's start, latencies milliseconds, None where nothing was answered."""

    at_s: float
    due: int
    failed: int
    degraded: int
    cached: int
    p50_ms: float | None
    p95_ms: float | None
    most_ms: float | None


class Samples(Sequence[Sample]):
    """Requests of one load, or a part of them. `for_s`: the seconds in which they were due."""

    def __init__(self, samples: Sequence[Sample], *, for_s: float) -> None:
        self._all = sorted(samples, key=lambda one: one.at_s)  # they were recorded as they ended
        self.for_s = for_s

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._all)

    def __getitem__(self, at: Any) -> Any:
        return self._all[at]

    # ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def of(self, *kinds: Kind) -> Samples:
        return Samples([one for one in self._all if one.kind in kinds], for_s=self.for_s)

    def between(self, from_s: float, to_s: float) -> Samples:
        """Those that were due in [from_s, to_s), in seconds from the load's start."""
        return Samples([one for one in self._all if from_s <= one.at_s < to_s], for_s=max(0.0, to_s - from_s))

    # ── what they say ────────────────────────────────────────────────────────────────────────────────────────────────

    def percentile(self, percent: float) -> float | None:
        """Of the latencies of good answers, in ms; None: there is none. `percent` in [0, 100].

        The smallest latency that was seen, of which at least `percent` % are no larger.
        """
        return percentile([one.took_ms for one in self._all if one.good], percent)

    @property
    def mean_ms(self) -> float | None:
        took = [one.took_ms for one in self._all if one.good]
        return float(np.mean(took)) if took else None

    def within(self, limit_ms: float) -> float | None:
        """Share of the requests that got a good answer in `limit_ms`; None: none was due.

        Whatever failed or was not sent did not: a service that refuses nine in ten is not a fast one. What was in flight
        when the load was stopped counts only if it was over the limit by then.
        """
        judged = [one for one in self._all if one.lost is not Lost.STOPPED or one.took_ms > limit_ms]
        return sum(one.good and one.took_ms <= limit_ms for one in judged) / len(judged) if judged else None

    @property
    def failed(self) -> int:
        """Without a good answer: refused, lost or unsent; not what was in flight when the load was stopped."""
        return sum(one.failed for one in self._all)

    @property
    def failed_share(self) -> float:
        judged = len(self._all) - self.outcomes().get(Lost.STOPPED.value, 0)
        return self.failed / judged if judged else 0.0

    def outcomes(self) -> Mapping[str, int]:
        """Requests by status, or by why there is none."""
        return Counter(one.lost.value if one.lost else str(one.status) for one in self._all)

    def degraded(self) -> Mapping[str, int]:
        """Answers by what they left out."""
        return Counter(step for one in self._all for step in one.degraded)

    @property
    def late_ms(self) -> float:
        """99th percentile of what the generator itself was late."""
        return percentile([one.late_ms for one in self._all if one.lost is not Lost.UNSENT], 99) or 0.0

    def series(self, step_s: float = 1.0) -> list[Step]:
        """One `Step` after another, from the load's start, also where nothing was due."""
        if not self._all:
            return []
        held: dict[int, list[Sample]] = {}
        for one in self._all:
            held.setdefault(int(one.at_s / step_s), []).append(one)
        return [_step(n * step_s, held.get(n, [])) for n in range(max(held) + 1)]

    # ── reports ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def as_json(self) -> dict[str, Any]:
        good = [one for one in self._all if one.good]
        return {
            "due": len(self._all),
            "answered": len(good),
            "failed": self.failed,
            "rate": round(len(good) / self.for_s, 3) if self.for_s else None,
            "mean_ms": _rounded(self.mean_ms),
            "percentiles_ms": {f"p{percent:g}": _rounded(self.percentile(percent)) for percent in PERCENTILES},
            "outcomes": dict(self.outcomes()),
            "degraded": dict(self.degraded()),
            "cached": sum(one.cached for one in self._all),
            "generator_late_ms": _rounded(self.late_ms),
        }

    def markdown(self) -> str:
        """A table, a row for each kind that there was."""
        columns, rows = self.table()
        lines = [columns, ("---", *("--:" for _ in columns[1:])), *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Column names, and a row for each kind that there was. Units: milliseconds."""
        names = tuple("slowest" if percent == 100 else f"p{percent:g}" for percent in PERCENTILES)
        rows = []
        for kind in Kind:
            if part := self.of(kind):
                values = [part.percentile(percent) for percent in PERCENTILES]
                figures = ("–" if value is None else f"{value:.1f}" for value in values)
                rows.append((kind.value, str(len(part)), str(part.failed), *figures))
        return ("ms", "due", "failed", *names), rows


def _step(at_s: float, samples: Sequence[Sample]) -> Step:
    took = [one.took_ms for one in samples if one.good]
    p50, p95, most = (percentile(took, percent) for percent in (50, 95, 100))
    failed, degraded = sum(one.failed for one in samples), sum(bool(one.degraded) for one in samples)
    return Step(at_s, len(samples), failed, degraded, sum(one.cached for one in samples), p50, p95, most)


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The smallest of `values`, of which at least `percent` % are no larger; None: there is none."""
    return float(np.percentile(values, percent, method="inverted_cdf")) if values else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
