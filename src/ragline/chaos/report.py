"""What was proved, as Markdown, JSON and HTML."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import asdict

from ragline.chaos.experiment import Part, Sample, Verdict

WIDTH, HEIGHT = 560, 120


def markdown(verdicts: Sequence[Verdict], *, command: str, version: str, machine: str) -> str:
    """A table, a row an experiment; below it, what was not as expected."""
    lines = [
        f"# Proof of {sum(one.green for one in verdicts)} of {len(verdicts)} rungs", "",
        f"Ragline {version}, by `{command}`, {machine}.", "",
        "| rung | experiment | expected | seen | before: mean, p95 | during: mean, p95 | verdict |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for one in verdicts:
        lines.append(
            f"| {one.experiment.rung} | {one.experiment.title} | {_expected(one)} | {_seen(one.during)} "
            f"| {_speed(one.before)} | {_speed(one.during)} | {'green' if one.green else '**red**'} |"
        )
    red = [one for one in verdicts if not one.green]
    for one in red:
        lines += ["", f"**{one.experiment.rung}: {one.experiment.title}**", "", *(f"- {words}" for words in one.faults)]
    return "\n".join([*lines, ""])


def as_json(verdicts: Sequence[Verdict], *, command: str, version: str, machine: str) -> str:
    told = [
        {
            "experiment": one.experiment.name, "rung": one.experiment.rung, "green": one.green, "faults": one.faults,
            **{name: asdict(getattr(one, name)) for name in ("before", "during", "after")},
        }
        for one in verdicts
    ]  # fmt: skip
    whole = {"version": version, "command": command, "machine": machine, "experiments": told}
    return json.dumps(whole, indent=1, ensure_ascii=False)


def as_html(verdicts: Sequence[Verdict], *, command: str, version: str, machine: str) -> str:
    """One page without scripts: the table, and of each experiment every request by when it was due and how long it took."""
    parts = [
        "<!doctype html><meta charset=utf-8><title>ragline prove</title>",
        "<style>body{font:15px/1.5 system-ui;max-width:1000px;margin:2em auto;padding:0 1em;color:#1b1f24}"
        "h2{margin-top:2em}.green{color:#0a7d33}.red{color:#b3261e}svg{background:#f6f7f9}small{color:#666}</style>",
        f"<h1>{sum(one.green for one in verdicts)} of {len(verdicts)} rungs hold</h1>",
        f"<p>Ragline {html.escape(version)}, by <code>{html.escape(command)}</code>, {html.escape(machine)}.</p>",
    ]
    for one in verdicts:
        word = "green" if one.green else "red"
        parts += [
            f"<h2><span class={word}>{word}</span> {html.escape(one.experiment.rung)}: {html.escape(one.experiment.title)}</h2>",
            f"<p>Expected: {html.escape(_expected(one))}. Seen: {html.escape(_seen(one.during))}. "
            f"Mean, p95 before {_speed(one.before)}, during {_speed(one.during)}, after {_speed(one.after)}.</p>",
            *(f"<p class=red>{html.escape(words)}</p>" for words in one.faults),
            plot(one.samples),
        ]
    return "\n".join(parts)


def plot(samples: Sequence[Sample]) -> str:
    """Each request a point: seconds to the right, milliseconds upwards, by powers of ten. Grey: degraded. Red: an error."""
    if not samples:
        return ""
    import math

    longest = max(one.at_s for one in samples) or 1.0
    top = max(10.0, max(one.took_ms for one in samples))
    points = []
    for one in samples:
        x = 40 + (WIDTH - 50) * one.at_s / longest
        y = HEIGHT - 15 - (HEIGHT - 25) * math.log10(max(1.0, one.took_ms)) / math.log10(top)
        colour = "#0a7d33" if one.status == 200 and not one.degraded else "#888" if one.status == 200 else "#b3261e"
        points.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.5" fill="{colour}"/>')
    axes = (
        f'<text x="2" y="15" font-size="10">{top:.0f} ms</text><text x="2" y="{HEIGHT - 15}" font-size="10">1 ms</text>'
        f'<text x="{WIDTH - 40}" y="{HEIGHT - 2}" font-size="10">{longest:.0f} s</text>'
    )
    legend = "<small>green: whole; grey: something left out, as `degraded` says; red: not served</small>"
    return f'<svg width="{WIDTH}" height="{HEIGHT}" role="img">{axes}{"".join(points)}</svg><br>{legend}'


def _expected(one: Verdict) -> str:
    expect = one.experiment.expect
    words = [f"`{expect.degraded}` left out" if expect.degraded else "nothing left out"]
    words += [f"{expect.errors or 'no'} errors"]
    words += ["429 allowed"] if expect.refused else []
    words += [f"mean ≤ {expect.mean_ratio} ×"] if expect.mean_ratio else []
    words += [f"p95 ≤ {expect.p95_ratio} ×"] if expect.p95_ratio else []
    words += [f"p95 ≤ {expect.p95_ms:.0f} ms"] if expect.p95_ms else []
    return ", ".join(words)


def _seen(part: Part) -> str:
    steps = ", ".join(f"`{step}` {count}" for step, count in sorted(part.degraded.items()))
    refused = f", {part.refused} × 429" if part.refused else ""
    return f"{part.requests} requests, {part.errors} errors{refused}" + (f"; {steps}" if steps else "")


def _speed(part: Part) -> str:
    return f"{part.mean_ms:.1f}, {part.p95_ms:.1f} ms"
