"""What a load has seen against what was promised: the verdict, and a page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from ragline.chaos.plots import over_time, percentile_curve
from ragline.chaos.samples import LATE_MS, Kind, Samples


@dataclass(frozen=True, slots=True)
class Slo:
    """What is promised; None: nothing. `p95_ms`: 95 % of the searches that were due are answered well in it.

    `errors`: the most of all requests that may fail, a share.
    """

    p95_ms: float | None = None
    errors: float | None = None

    def missed(self, samples: Samples) -> list[str]:
        """In words, what was not kept; empty: all of it was."""
        found = []
        if self.p95_ms is not None:
            within = samples.of(Kind.SEARCH).within(self.p95_ms)
            if within is None or within < 0.95:
                share = "no search was due" if within is None else f"only {within:.2%} of the searches were"
                found.append(f"p95: 95 % of the searches in {self.p95_ms:g} ms were promised, {share}")
        if self.errors is not None and samples.failed_share > self.errors:
            found.append(f"errors: at most {self.errors:.2%} were promised, {samples.failed_share:.2%} failed")
        return found


def cautions(samples: Samples) -> list[str]:
    """What makes the figures say less than they seem to."""
    found = []
    if samples.late_ms > LATE_MS:
        found.append(
            f"The generator itself was up to {samples.late_ms:.0f} ms late (p99), which the latencies hold: it lacked CPU. "
            "Run it on another machine, or at a lower rate."
        )
    if unsent := samples.outcomes().get("unsent"):
        found.append(f"{unsent} requests were due and not sent: as many as may be were in flight (--in-flight).")
    return found


def page(samples: Samples, facts: Mapping[str, object], slo: Slo) -> str:
    """HTML, whole. `facts`: what was done, a line each."""
    missed = slo.missed(samples)
    promised = slo != Slo()
    verdict = "" if not promised else f"<p class={'bad' if missed else 'good'}>{_verdict(missed)}</p>"
    columns, rows = samples.table()
    body = [
        "<h1>Ragline under load</h1>", verdict,
        *(f"<p class=bad>{escape(caution)}</p>" for caution in cautions(samples)),
        _table(("", ""), [(name, str(value)) for name, value in facts.items()]),
        over_time(samples, limit_ms=slo.p95_ms),
        percentile_curve(
            {kind.value: part for kind in Kind if (part := samples.of(kind))}, limit_ms=slo.p95_ms
        ),
        _table(columns, rows),
        _table(("outcome", "requests"), [(name, str(count)) for name, count in sorted(samples.outcomes().items())]),
        _table(("left out", "answers"), [(name, str(count)) for name, count in sorted(samples.degraded().items())]),
        "<p>Latency counts from when a request was due. Percentiles are of good answers; the promise is judged over all that was "
        "due, and whatever failed or was not sent has missed it.</p>",
    ]  # fmt: skip
    return f"<!doctype html><html lang=en><meta charset=utf-8><title>Ragline under load</title>{_STYLE}{''.join(body)}</html>\n"


def _verdict(missed: list[str]) -> str:
    return "Missed: " + escape("; ".join(missed)) if missed else "Kept what was promised."


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}" for name in columns)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) for row in rows)
    return f"<table><tr>{head}{lines}</table>"


_STYLE = (
    "<style>:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;margin:1.5em 0}th,td{padding:.2em .8em;text-align:right;border-bottom:1px solid #8884}"
    "th:first-child,td:first-child{text-align:left}.good{color:#2f855a}.bad{color:#c53030}</style>"
)
