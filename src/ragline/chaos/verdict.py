"""Whether an experiment held: what was seen before, during and after its fault, against what it expects.

Pure: samples in, words out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ragline.chaos.asking import Asked
from ragline.chaos.experiment import Expect, Experiment
from ragline.chaos.samples import Lost, Sample, Samples, percentile
from ragline.chaos.writing import Written

SETTLING_S = 1.5
"""After a fault began, or ended, in which responses may be of either kind."""

NEARLY_ALL = 0.95
"""Share of the responses that must say what they leave out: a hit of the cache leaves nothing out."""

STRAYS, FEW_STRAYS = 0.02, 2
"""Share of the requests before the fault that may fail or leave something out, or during it that may leave out what it does not
ask for, and how many may of however few: a busy machine is no reason to prove nothing. What is shed under load counts at no time
where it is allowed."""

SERVICE_UNAVAILABLE = 503

SHED = ("rerank", "candidates")
"""Steps that are left out while too much is to be done at once, whatever it is."""

QUEUED = 5
"""Documents that wait, at least, where a fault is to let them wait."""

FEWEST = 20
"""Requests in a part of an experiment, below which it says nothing."""


@dataclass(frozen=True, slots=True)
class Part:
    """What was seen in one part of an experiment. Units: milliseconds; `rate`, served a second."""

    requests: int
    errors: int
    refused: int
    degraded: Mapping[str, int]
    mean_ms: float
    p95_ms: float
    rate: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """`faults`: what was not as expected, in words; empty: green. `where`: target → where its fault was played.
    `resident_mib`: of the process under test, when the fault began and when it ended."""

    experiment: Experiment
    before: Part
    during: Part
    after: Part
    faults: tuple[str, ...]
    samples: Samples
    fault_s: float
    healed_s: float
    written: Written | None = None
    asked: Asked | None = None
    alerts: Mapping[str, bool] | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    resident_mib: tuple[float, float] = (0.0, 0.0)

    @property
    def green(self) -> bool:
        return not self.faults


def broken_off(experiment: Experiment, why: str) -> Verdict:
    """Red: it could not be seen to its end."""
    nothing = seen((), from_s=0.0, to_s=0.0)
    said = f"it could not be seen to its end: {why}"
    return Verdict(experiment, nothing, nothing, nothing, (said,), Samples((), for_s=0.0), 0.0, 0.0)


def seen(samples: Iterable[Sample], *, from_s: float, to_s: float) -> Part:
    """Of the requests that were due in that time."""
    mine = Samples(
        [one for one in samples if from_s <= one.at_s < to_s and one.lost is not Lost.STOPPED], for_s=to_s - from_s
    )
    refused = mine.outcomes().get("429", 0)
    served = len(mine) - mine.failed
    return Part(
        len(mine), mine.failed - refused, refused, dict(mine.degraded()), mine.mean_ms or 0.0, mine.percentile(95) or 0.0,
        served / max(mine.for_s, 1e-9),
    )  # fmt: skip


def judge(
    experiment: Experiment, samples: Samples, *, fault_s: float, healed_s: float, end_s: float,
    written: Written | None = None, asked: Asked | None = None, alerts: Mapping[str, bool] | None = None,
) -> Verdict:  # fmt: skip
    """`fault_s`: when the fault began; `healed_s`: when it was lifted; `end_s`: when the last request was due.

    alerts:  those that fired → whether they have cleared; None: nobody looked.
    """
    expect = experiment.expect
    before = seen(samples, from_s=0.0, to_s=fault_s)
    during = seen(samples, from_s=fault_s, to_s=healed_s)
    settled = seen(samples, from_s=fault_s + SETTLING_S, to_s=healed_s)
    after = seen(samples, from_s=healed_s + expect.healed_after_s, to_s=end_s)
    faults = []
    for name, part in (("before", before), ("during", settled), ("after", after)):
        if part.requests < FEWEST:
            faults.append(f"{part.requests} requests {name} the fault say nothing")
    # Without what was under way when it began.
    well = seen((one for one in samples if one.at_s + one.took_ms / 1000 < fault_s), from_s=0.0, to_s=fault_s)
    shed = set(SHED) & set(expect.allowed)
    strays = well.errors + sum(count for step, count in well.degraded.items() if step not in shed)
    if strays > max(FEW_STRAYS, STRAYS * well.requests):
        told = _statuses(samples, 0.0, fault_s)
        faults.append(f"before the fault: {well.errors} errors {told}, {_steps(well)}: it is not well by itself")
    if expect.unavailable:
        faults += _unavailable(expect, samples, fault_s, healed_s)
    errors = during.errors + (0 if expect.refused else during.refused)
    if errors > expect.errors and not expect.unavailable:
        faults.append(
            f"{errors} errors during the fault, expected at most {expect.errors}: {_statuses(samples, fault_s, healed_s)}"
        )
    faults += _degraded(expect, settled)
    faults += _slower(expect, before, during)
    if after.errors or not _healed(expect, after):
        faults.append(f"{expect.healed_after_s:.0f} s after healing: {after.errors} errors, {_steps(after)}")
    if written is not None:
        faults += _written(expect, written, fault_s=fault_s, healed_s=healed_s)
    if asked is not None:
        faults += _asked(asked)
    if alerts is not None:
        faults += [f"{name} did not fire" for name in expect.alerts if name not in alerts]
        faults += [f"{name} has not cleared" for name in expect.alerts if not alerts.get(name, True)]
    return Verdict(experiment, before, during, after, tuple(faults), samples, fault_s, healed_s, written, asked, alerts)


def _unavailable(expect: Expect, samples: Samples, fault_s: float, healed_s: float) -> list[str]:
    """What is neither an answer from before the fault bit, nor a 503 in time."""
    settled = samples.between(fault_s + SETTLING_S, healed_s)
    took_ms = [one.took_ms for one in settled if one.status == SERVICE_UNAVAILABLE]
    told, p95_ms = len(took_ms), percentile(took_ms, 95) or 0.0
    late = expect.p95_ms is not None and p95_ms > expect.p95_ms
    others = [one for one in samples.between(fault_s, healed_s) if one.failed and one.status != SERVICE_UNAVAILABLE]
    found = [f"{told} of {len(settled)} responses were a 503"] if told < NEARLY_ALL * len(settled) else []
    found += [f"{len(others)} failed otherwise: {_statuses(samples, fault_s, healed_s)}"] if others else []
    return found + ([f"p95 of the 503 is {p95_ms:.0f} ms, over {expect.p95_ms:.0f}"] if late else [])


def _asked(asked: Asked) -> list[str]:
    found = [] if asked.accepted else ["no job was accepted"]
    if asked.refused:
        found.append(f"{len(asked.refused)} jobs were not accepted: {asked.refused[0]}")
    if asked.lost:
        found.append(f"{len(asked.lost)} of {asked.accepted} jobs are not done: {', '.join(asked.lost[:3])}")
    if asked.undelivered:
        found.append(f"of {asked.undelivered} jobs that are done the receiver was never told")
    return found


def _degraded(expect: Expect, settled: Part) -> list[str]:
    served = settled.requests - settled.errors - settled.refused
    if not expect.degraded:
        needless = sum(count for step, count in settled.degraded.items() if step not in expect.allowed)
        few = max(FEW_STRAYS, STRAYS * settled.requests)
        return [f"degraded without need: {_steps(settled)}"] if needless > few else []
    told = max((count for step, count in settled.degraded.items() if step.startswith(expect.degraded)), default=0)
    if told < NEARLY_ALL * served and not expect.refused:
        return [f"{expect.degraded!r} in {told} of {served} responses during the fault: {_steps(settled)}"]
    return [] if told else [f"nothing was left out ({expect.degraded!r} expected)"]


def _healed(expect: Expect, after: Part) -> bool:
    """What the fault may have left out is back without an exception; of other steps a stray one is the machine's, and what is
    shed where too much is to be done at once may go on until it is done."""
    strict = (*([expect.degraded] if expect.degraded else []), *(step for step in expect.allowed if step not in SHED))
    strays = {step: count for step, count in after.degraded.items() if step not in expect.allowed or step not in SHED}
    return not any(step.startswith(strict) for step in strays) and sum(strays.values()) <= FEW_STRAYS


def _written(expect: Expect, written: Written, *, fault_s: float, healed_s: float) -> list[str]:
    found = []
    meanwhile = written.between(fault_s, healed_s)
    refused = [one for one in meanwhile if not one.id]
    under_way_s = fault_s - SETTLING_S  # what was sent later may have met the fault
    well = [*written.between(0.0, under_way_s), *written.between(healed_s + expect.healed_after_s, float("inf"))]
    silent = sum(not one.said for one in refused)
    if not well or not (meanwhile or expect.writes == "either"):
        found.append(f"{len(meanwhile)} uploads during the fault, {len(well)} before and after: they say nothing")
    if expect.writes == "refused" and not refused:
        found.append(f"none of {len(meanwhile)} uploads was refused during the fault")
    if expect.writes not in ("refused", "either") and refused:
        found.append(f"{len(refused)} of {len(meanwhile)} uploads were refused during the fault: {refused[0]}")
    if silent:
        found.append(f"{silent} uploads failed without a word of what to do next: {refused}")
    if wrong := [one for one in well if not one.id]:
        found.append(f"{len(wrong)} of {len(well)} uploads were refused before the fault, or after healing: {wrong[0]}")
    if expect.writes == "failed" and not written.failed:
        found.append("no document failed: the fault met none")
    if expect.writes == "queued" and (written.waiting or 0) < QUEUED:
        found.append(f"{written.waiting} documents waited when the fault ended: it held nothing up")
    if written.lost:
        found.append(f"{len(written.lost)} accepted documents are not live: {', '.join(written.lost[:3])}")
    return found


def _slower(expect: Expect, before: Part, during: Part) -> list[str]:
    found = []
    for name, limit, old, new in (
        ("mean", expect.mean_ratio, before.mean_ms, during.mean_ms),
        ("p95", expect.p95_ratio, before.p95_ms, during.p95_ms),
    ):
        if limit is not None and new > limit * old:
            found.append(
                f"{name} {new:.1f} ms during the fault is {new / max(old, 1e-9):.2f} × the {old:.1f} ms before, over {limit}"
            )
    if expect.p95_ms is not None and during.p95_ms > expect.p95_ms:
        found.append(f"p95 {during.p95_ms:.0f} ms, over {expect.p95_ms:.0f}")
    if expect.goodput_ratio is not None and during.rate < expect.goodput_ratio * before.rate:
        found.append(f"{during.rate:.1f} served a second, under {expect.goodput_ratio} × the {before.rate:.1f} before")
    return found


def _steps(part: Part) -> str:
    return ", ".join(f"{step} {count}" for step, count in sorted(part.degraded.items())) or "nothing degraded"


def _statuses(samples: Samples, from_s: float, to_s: float) -> str:
    failed = Samples([one for one in samples.between(from_s, to_s) if one.failed], for_s=to_s - from_s)
    return ", ".join(f"{count} × {what}" for what, count in sorted(failed.outcomes().items()))
