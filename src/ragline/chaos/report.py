"""What was proved, as Markdown, JSON and HTML."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import asdict

from ragline.chaos.experiment import Experiment
from ragline.chaos.plots import Band, over_time
from ragline.chaos.verdict import Part, Verdict


def markdown(verdicts: Sequence[Verdict], *, command: str, version: str, machine: str) -> str:
    """A table, a row an experiment; below it, what was not as expected."""
    lines = [
        f"# Proof of {sum(one.green for one in verdicts)} of {len(verdicts)} rungs", "",
        f"Ragline {version}, by `{command}`, {machine}.", "",
        "| rung | experiment | fault played | expected | seen | before: mean, p95 | during: mean, p95 | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for one in verdicts:
        lines.append(
            f"| {one.experiment.rung} | {one.experiment.title} | {_where(one)} | {expected(one.experiment)} | {_seen(one)} "
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
            "played": dict(one.where), "resident_mib": one.resident_mib,
            **{name: asdict(getattr(one, name)) for name in ("before", "during", "after")},
            **({"written": asdict(one.written)} if one.written else {}),
            **({"asked": asdict(one.asked)} if one.asked else {}),
            **({"alerts": dict(one.alerts)} if one.alerts is not None else {}),
            "fault_s": one.fault_s, "healed_s": one.healed_s, "series": [asdict(step) for step in one.samples.series()],
        }
        for one in verdicts
    ]  # fmt: skip
    whole = {"version": version, "command": command, "machine": machine, "experiments": told}
    return json.dumps(whole, indent=1, ensure_ascii=False)


def as_html(verdicts: Sequence[Verdict], *, command: str, version: str, machine: str) -> str:
    """One page without scripts: the table, and of each experiment its latency over time."""
    parts = [
        "<!doctype html><meta charset=utf-8><title>ragline prove</title>",
        "<style>body{font:15px/1.5 system-ui;max-width:1000px;margin:2em auto;padding:0 1em;color:#1b1f24}"
        "h2{margin-top:2em}.green{color:#0a7d33}.red{color:#b3261e}</style>",
        f"<h1>{sum(one.green for one in verdicts)} of {len(verdicts)} rungs hold</h1>",
        f"<p>Ragline {html.escape(version)}, by <code>{html.escape(command)}</code>, {html.escape(machine)}.</p>",
    ]
    for one in verdicts:
        word = "green" if one.green else "red"
        parts += [
            f"<h2><span class={word}>{word}</span> {html.escape(one.experiment.rung)}: {html.escape(one.experiment.title)}</h2>",
            f"<p>Fault played {html.escape(_where(one))}. Expected: {html.escape(expected(one.experiment))}. "
            f"Seen: {html.escape(_seen(one))}. "
            f"Mean, p95 before {_speed(one.before)}, during {_speed(one.during)}, after {_speed(one.after)}.</p>",
            *(f"<p class=red>{html.escape(words)}</p>" for words in one.faults),
            over_time(one.samples, bands=[Band(one.fault_s, one.healed_s, one.experiment.faults[0].target)]),
        ]
    return "\n".join(parts)


def _where(one: Verdict) -> str:
    """One place where it was one."""
    places = sorted(set(one.where.values()))
    if len(places) < 2:
        return "".join(places)
    return ", ".join(f"{target} {place}" for target, place in one.where.items())


def expected(experiment: Experiment) -> str:
    """In words."""
    expect = experiment.expect
    words = [f"`{expect.degraded}` left out" if expect.degraded else "nothing left out"]
    perhaps = "perhaps" if expect.degraded else "but"
    words += [f"{perhaps} {', '.join(f'`{step}`' for step in expect.allowed)}"] if expect.allowed else []
    words += ["every response a 503"] if expect.unavailable else [f"{expect.errors or 'no'} errors"]
    words += ["429 allowed"] if expect.refused else []
    words += [f"{', '.join(expect.alerts)} fires"] if expect.alerts else []
    uploads = "accepted or refused" if expect.writes == "either" else expect.writes
    words += [f"uploads {uploads}, what is accepted live in the end"] if uploads else []
    words += ["every job done and delivered"] if experiment.jobs else []
    words += [f"mean ≤ {expect.mean_ratio} ×"] if expect.mean_ratio else []
    words += [f"p95 ≤ {expect.p95_ratio} ×"] if expect.p95_ratio else []
    words += [f"p95 ≤ {expect.p95_ms:.0f} ms"] if expect.p95_ms else []
    return ", ".join(words)


def _seen(one: Verdict) -> str:
    part = one.during
    steps = ", ".join(f"`{step}` {count}" for step, count in sorted(part.degraded.items()))
    refused = f", {part.refused} × 429" if part.refused else ""
    seen = f"{part.requests} requests, {part.errors} errors{refused}" + (f"; {steps}" if steps else "")
    if one.experiment.expect.refused:
        seen += "; resident {:.0f}, then {:.0f} MiB".format(*one.resident_mib)
    if one.alerts is not None:
        fired = [name if cleared else f"{name}, not cleared" for name, cleared in one.alerts.items()]
        seen += f"; alerts: {'; '.join(fired) or 'none'}"
    if one.written is not None:
        meanwhile = one.written.between(one.fault_s, one.healed_s)
        accepted = sum(bool(sent.id) for sent in meanwhile)
        seen += f"; {accepted} of {len(meanwhile)} uploads accepted"
        seen += f", {one.written.waiting} waiting at its end" if one.written.waiting is not None else ""
        seen += f", {one.written.failed} failed and driven again" if one.written.failed else ""
        seen += f", {len(one.written.lost)} lost"
    if (asked := one.asked) is not None:
        seen += f"; {asked.accepted} jobs, {asked.waiting} waiting at its end, {len(asked.lost)} lost"
        seen += f", {asked.replayed} webhooks sent again" if asked.replayed else ""
    return seen


def _speed(part: Part) -> str:
    return f"{part.mean_ms:.1f}, {part.p95_ms:.1f} ms"
