"""Two drawings of a load as SVG, to stand in a page: latency over time, and the percentile curve.

A writer of our own: an axis of percentiles that stretches towards 100 %, and bands that mark when something was broken, are
what these drawings are for; the light libraries (pygal, leather) have neither. No scripts, no fonts, no files beside it; the
colours of text and rules follow the page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from ragline.chaos.samples import Samples

WIDTH, HEIGHT = 860, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 28, 36
MOST_STEPS = 300
"""Points of a line: more are no longer told apart."""

COLOURS = ("#2b6cb0", "#dd6b20", "#718096", "#38a169", "#805ad5")
FAILED, BAND = "#c53030", "#c5303022"
PERCENTS = (0.0, 50.0, 90.0, 95.0, 99.0, 99.9, 99.99)
"""Labels of the percentile axis, as far as there are samples for them."""


@dataclass(frozen=True, slots=True)
class Band:
    """A stretch of time with a name, such as that of a fault. Units: seconds from the load's start."""

    from_s: float
    to_s: float
    label: str


@dataclass(frozen=True, slots=True)
class _Line:
    label: str
    colour: str
    points: Sequence[tuple[float, float] | None]
    """(x in [0, 1], milliseconds); None is a gap."""


def over_time(samples: Samples, *, bands: Sequence[Band] = (), limit_ms: float | None = None) -> str:
    """p50, p95 and the slowest over time, in steps of a second or more; red below: what failed; dashed: the limit."""
    end_s = max([samples.for_s, *(one.at_s for one in samples), 1.0])
    step_s = max(1.0, math.ceil(end_s / MOST_STEPS))
    steps = samples.series(step_s)

    def line(label: str, colour: str, values: Sequence[float | None]) -> _Line:
        points = [
            None if ms is None else (min(1.0, (step.at_s + step_s / 2) / end_s), ms)
            for step, ms in zip(steps, values, strict=True)
        ]
        return _Line(label, colour, points)

    lines = [
        line("slowest", COLOURS[2], [step.most_ms for step in steps]),
        line("p95", COLOURS[1], [step.p95_ms for step in steps]),
        line("p50", COLOURS[0], [step.p50_ms for step in steps]),
    ]
    drawn = [_band(band, end_s) for band in bands]
    drawn += [_failed(step.at_s / end_s, step_s / end_s, step.failed, step.due) for step in steps if step.failed]
    ticks = [(at / end_s, f"{at:g} s") for at in _round_steps(end_s)]
    return _chart("Latency over time, ms by when a request was due", lines, ticks, limit_ms=limit_ms, behind=drawn)


def percentile_curve(parts: Mapping[str, Samples], *, limit_ms: float | None = None) -> str:
    """Latency by percentile, the axis stretched towards 100 %: each nine is as wide as the one before it."""
    curves = {name: sorted(one.took_ms for one in part if one.good) for name, part in parts.items()}
    most = max((len(curve) for curve in curves.values()), default=0)
    nines = max(1.0, math.log10(max(most, 1)))
    lines = []
    for (name, curve), colour in zip(curves.items(), _cycled(len(curves)), strict=True):
        shares = [1 - 10 ** (-nines * n / MOST_STEPS) for n in range(MOST_STEPS + 1)]
        ranks = sorted({min(len(curve) - 1, int(len(curve) * share)) for share in shares if curve})
        lines.append(_Line(name, colour, [(_nines(rank / len(curve)) / nines, curve[rank]) for rank in ranks]))
    ticks = [(_nines(p / 100) / nines, f"{p:g} %") for p in PERCENTS if _nines(p / 100) <= nines]
    return _chart("Latency by percentile, ms", lines, ticks, limit_ms=limit_ms, behind=[])


def _chart(
    title: str, lines: Sequence[_Line], ticks: Sequence[tuple[float, str]], *, limit_ms: float | None,
    behind: Sequence[str],
) -> str:  # fmt: skip
    """Milliseconds on a logarithmic axis, decades and their halves."""
    values = [ms for line in lines for point in line.points if point for ms in (point[1],)]
    values += [limit_ms] if limit_ms else []
    low = math.floor(math.log10(max(min(values, default=1.0), 0.1)))
    high = max(low + 1, math.ceil(math.log10(max(max(values, default=10.0), 0.1))))

    def y(ms: float) -> float:
        share = (math.log10(max(ms, 10**low)) - low) / (high - low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    out = [*behind]
    for decade in range(low, high + 1):
        for ms in (10**decade, *((2 * 10**decade, 5 * 10**decade) if decade < high and high - low < 4 else ())):
            out.append(_rule(LEFT, y(ms), WIDTH - RIGHT, y(ms), "currentColor", 'stroke-opacity=".15"'))
            out.append(_text(LEFT - 6, y(ms) + 4, f"{ms:g}", "end"))
    out += [_text(_x(at), HEIGHT - BOTTOM + 16, label, "middle") for at, label in ticks]
    if limit_ms:
        out.append(_rule(LEFT, y(limit_ms), WIDTH - RIGHT, y(limit_ms), FAILED, 'stroke-dasharray="6 4"'))
    for line in lines:
        path = _path([None if point is None else (_x(point[0]), y(point[1])) for point in line.points])
        out.append(f'<path d="{path}" fill="none" stroke="{line.colour}" stroke-width="1.6"/>')
    for n, line in enumerate(lines):
        out.append(_text(WIDTH - RIGHT - 90 * n, TOP - 14, line.label, "end", line.colour))
    out.append(_text(LEFT, TOP - 14, title, "start"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="100%" role="img" '
        f'aria-label="{escape(title)}" font-family="system-ui, sans-serif" font-size="12">{"".join(out)}</svg>'
    )


def _x(share: float) -> float:
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    """A lone point is drawn as a dot's width of line."""
    drawn, pen = [], "M"
    for point in points:
        if point is None:
            pen = "M"
            continue
        drawn.append(f"{pen}{point[0]:g} {point[1]:g}" + ("h1" if pen == "M" else ""))
        pen = "L"
    return "".join(drawn)


def _band(band: Band, end_s: float) -> str:
    left, right = _x(max(0.0, band.from_s / end_s)), _x(min(1.0, band.to_s / end_s))
    box = f'<rect x="{left}" y="{TOP}" width="{max(1.0, right - left):g}" height="{HEIGHT - TOP - BOTTOM}" fill="{BAND}"/>'
    return box + _text(left + 4, TOP + 12, band.label, "start")


def _failed(at: float, width: float, failed: int, due: int) -> str:
    """A mark on the floor: as high as the share that failed, up to a quarter of the drawing."""
    left, right, height = _x(at), _x(min(1.0, at + width)), max(3.0, failed / due * (HEIGHT - TOP - BOTTOM) / 4)
    box = f'x="{left}" y="{HEIGHT - BOTTOM - height:g}" width="{max(1.0, right - left):g}" height="{height:g}"'
    return f'<rect {box} fill="{FAILED}"><title>{failed} of {due} failed</title></rect>'


def _rule(x1: float, y1: float, x2: float, y2: float, colour: str, more: str) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}" {more}/>'


def _text(x: float, y: float, text: str, anchor: str, colour: str = "currentColor") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _nines(share: float) -> float:
    return -math.log10(max(1e-12, 1 - share))


def _cycled(count: int) -> list[str]:
    return [COLOURS[n % len(COLOURS)] for n in range(count)]


def _round_steps(end_s: float) -> list[float]:
    """From 0 to `end_s`, about eight steps of 1, 2 or 5 times a power of ten."""
    raw = end_s / 8
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * by for by in (1, 2, 5, 10) if size * by >= raw)
    return [n * step for n in range(int(end_s / step) + 1)]
