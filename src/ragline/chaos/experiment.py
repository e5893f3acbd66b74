"""An experiment: what fails, what must then be seen, and the verdict. Pure: files in, words out.

One file says all of it::

    title = "The vector store is a black hole"
    rung = "dense leg"

    [fault]                     # what fails, and for how long
    target = "vectors"
    kind = "hang"
    for_s = 30

    [expect]                    # what is seen meanwhile, and after
    degraded = "dense"          # in nearly every response
    errors = 0
    mean_ratio = 1.05           # to the time before, over the whole fault
    p95_ratio = 1.05
    healed_after_s = 10         # from then on it is back

    [without]                   # settings that take the protection away: the experiment must fail
    protects = "breaker and adaptive deadline of the leg"
    RAGLINE_QUERY__DENSE_DEADLINE_MS = "60000"
"""

from __future__ import annotations

import statistics
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from ragline.chaos.asking import Asked
from ragline.chaos.samples import Lost, Sample, Samples
from ragline.chaos.writing import Written
from ragline.errors import ConfigurationError
from ragline.faults import KINDS, OWN, TARGETS

FOLDER = Path(__file__).parent / "experiments"

SETTLING_S = 1.5
"""After a fault began, or ended, in which responses may be of either kind."""

NEARLY_ALL = 0.95
"""Share of the responses that must say what they leave out: a hit of the cache leaves nothing out."""

STRAYS, FEW_STRAYS = 0.02, 2
"""Share of the requests before the fault that may fail or leave something out, or during it that may leave out what it does not
ask for, and how many may of however few: a busy machine is no reason to prove nothing."""

OUTSIDE = {
    "load": ("times",), "llm": ("limit", "refuse", "hang", "slow"), "workers": ("kill",), "disk": ("full",),
    "process": ("pause",), "edge": ("refuse",), "webhooks": ("refuse",),
}  # fmt: skip
"""What fails by other ways than an engine, and by which."""

SERVICE_UNAVAILABLE = 503

SHED = ("rerank", "candidates")
"""Steps that are left out while too much is to be done at once, whatever it is."""

QUEUED = 5
"""Documents that wait, at least, where a fault is to let them wait."""

Writes = Literal["", "accepted", "queued", "failed", "refused"]

FEWEST = 20
"""Requests in a part of an experiment, below which it says nothing."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`by`: seconds for ``slow`` and ``skew``, and between two kills; times for ``load``."""

    target: str
    kind: str
    for_s: float
    by: float = 0.0


@dataclass(frozen=True, slots=True)
class Expect:
    """`degraded`: how a step in `degraded` begins; empty: none must be there, but `allowed`. `refused`: 429 are no errors.
    `unavailable`: nothing can answer, and every response is a 503.

    writes: what becomes of documents that are uploaded during the fault: accepted; queued, accepted and not live before it ends;
            failed, accepted, then given up with a reason, and driven again when it is over; refused, with what to do next.
            Whatever was accepted is live in the end. Empty: none is uploaded.
    alerts: those that fire meanwhile, and clear afterwards; asked only where a Prometheus watches.
    """

    degraded: str = ""
    allowed: tuple[str, ...] = ()
    unavailable: bool = False
    errors: int = 0
    mean_ratio: float | None = None
    p95_ratio: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    goodput_ratio: float | None = None
    refused: bool = False
    writes: Writes = ""
    alerts: tuple[str, ...] = ()
    healed_after_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Experiment:
    """`needs`: parts that must be there. `queries`: fresh, each once; or repeated, some again and again. `core`: one a rung.

    rate_share: of the pace's rate, for what costs more than a search.
    rewrites: uploads are new versions of what the queries ask about; else new documents of so many `pages`.
    jobs: asked for as well, so many a second; each is done in the end, and its webhook delivered.
    without: settings that take the protection away; `protects`: what it is.
    """

    name: str
    title: str
    rung: str
    faults: tuple[Fault, ...]
    expect: Expect
    core: bool = False
    needs: tuple[str, ...] = ()
    queries: str = "fresh"
    answers: bool = False
    rate_share: float = 1.0
    rewrites: bool = False
    pages: int = 1
    jobs: float = 0.0
    protects: str = ""
    without: Mapping[str, str] = field(default_factory=dict)

    @property
    def for_s(self) -> float:
        return max(fault.for_s for fault in self.faults)


@dataclass(frozen=True, slots=True)
class Part:
    """What was seen in one part of an experiment. Units: milliseconds; `rate`, served a second."""

    requests: int
    errors: int
    refused: int
    degraded: Mapping[str, int]
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
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


def load(file: Path) -> Experiment:
    """Raises ConfigurationError: it is none."""
    try:
        said = tomllib.loads(file.read_text())
        given, without = said.pop("fault"), said.pop("without", {})
        faults = tuple(Fault(**one) for one in (given if isinstance(given, list) else [given]))
        wanted = said.pop("expect", {})
        expect = Expect(**wanted | {name: tuple(wanted.get(name, ())) for name in ("allowed", "alerts")})
        protects = without.pop("protects", "")
        for one in faults:
            _check(one)
        if expect.writes not in get_args(Writes):
            raise TypeError(
                f"expect.writes is one of {', '.join(filter(None, get_args(Writes)))}, not {expect.writes!r}"
            )
        said["needs"] = _needs(said, faults)
        return Experiment(name=file.stem, faults=faults, expect=expect, protects=protects, without=without, **said)
    except (OSError, tomllib.TOMLDecodeError, TypeError, KeyError, AttributeError) as error:
        raise ConfigurationError(
            f"The experiment {file.name} cannot be read: {error}",
            next_step="Correct the file; docs/prove.md has the form.",
        ) from error


def _needs(said: Mapping[str, Any], faults: Iterable[Fault]) -> tuple[str, ...]:
    """What the file says, and what plays its faults."""
    played = {"edge": "edge", "webhooks": "jobs", "llm": "llm", "workers": "ingest", "disk": "disk"}
    mine = {played[fault.target] for fault in faults if fault.target in played} | (
        {"jobs"} if said.get("jobs") else set()
    )
    given = tuple(said.get("needs", ()))
    return given + tuple(sorted(mine - set(given)))


def broken_off(experiment: Experiment, why: str) -> Verdict:
    """Red: it could not be seen to its end."""
    nothing = seen((), from_s=0.0, to_s=0.0)
    said = f"it could not be seen to its end: {why}"
    return Verdict(experiment, nothing, nothing, nothing, (said,), Samples((), for_s=0.0), 0.0, 0.0)


def _check(fault: Fault) -> None:
    if fault.target not in (*TARGETS, *OUTSIDE):
        raise TypeError(f"no target is named {fault.target!r}; there are {', '.join(sorted({*TARGETS, *OUTSIDE}))}")
    kinds = OUTSIDE.get(fault.target) or OWN.get(fault.target, KINDS)
    if fault.kind not in kinds:
        raise TypeError(f"{fault.target} fails by {', '.join(kinds)}, not by {fault.kind!r}")
    if fault.for_s <= 0 or (fault.kind in ("kill", "slow", "times") and fault.by <= 0):
        raise TypeError(f"{fault.target}: for_s, and by where the kind has one, are above 0")


def shipped() -> list[Experiment]:
    """Those that come with Ragline, core first, by name."""
    return sorted(map(load, FOLDER.glob("*.toml")), key=lambda one: (not one.core, one.name))


def seen(samples: Iterable[Sample], *, from_s: float, to_s: float) -> Part:
    """Of the requests that were due in that time."""
    mine = [one for one in samples if from_s <= one.at_s < to_s and one.lost is not Lost.STOPPED]
    served = sorted(one.took_ms for one in mine if one.status == 200)
    degraded: dict[str, int] = {}
    for one in mine:
        for step in one.degraded:
            degraded[step] = degraded.get(step, 0) + 1
    refused = sum(one.status == 429 for one in mine)
    return Part(
        len(mine), len(mine) - len(served) - refused, refused, degraded, statistics.fmean(served) if served else 0.0,
        _percentile(served, 0.5), _percentile(served, 0.95), _percentile(served, 0.99),
        len(served) / max(to_s - from_s, 1e-9),
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
    strays = well.errors + sum(well.degraded.values())
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
    took_ms = sorted(one.took_ms for one in settled if one.status == SERVICE_UNAVAILABLE)
    told, p95_ms = len(took_ms), _percentile(took_ms, 0.95)
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
    if not meanwhile or not well:
        found.append(f"{len(meanwhile)} uploads during the fault, {len(well)} before and after: they say nothing")
    if expect.writes == "refused" and not refused:
        found.append(f"none of {len(meanwhile)} uploads was refused during the fault")
    if expect.writes != "refused" and refused:
        found.append(f"{len(refused)} of {len(meanwhile)} uploads were refused during the fault: {refused[0]}")
    if silent:
        found.append(f"{silent} uploads failed without a word of what to do next: {refused}")
    if wrong := [one for one in well if not one.id]:
        found.append(f"{len(wrong)} of {len(well)} uploads were refused before the fault, or after healing: {wrong[0]}")
    if expect.writes == "failed" and not written.failed:
        found.append("no document failed: the fault met none")
    if expect.writes == "queued" and written.waiting < QUEUED:
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
    for name, most_ms, seen_ms in (("p95", expect.p95_ms, during.p95_ms), ("p99", expect.p99_ms, during.p99_ms)):
        if most_ms is not None and seen_ms > most_ms:
            found.append(f"{name} {seen_ms:.0f} ms, over {most_ms:.0f}")
    if expect.goodput_ratio is not None and during.rate < expect.goodput_ratio * before.rate:
        found.append(f"{during.rate:.1f} served a second, under {expect.goodput_ratio} × the {before.rate:.1f} before")
    return found


def _percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest rank."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _steps(part: Part) -> str:
    return ", ".join(f"{step} {count}" for step, count in sorted(part.degraded.items())) or "nothing degraded"


def _statuses(samples: Samples, from_s: float, to_s: float) -> str:
    mine = [one for one in samples if from_s <= one.at_s < to_s and one.failed]
    counts = Counter(one.lost.value if one.lost else str(one.status) for one in mine)
    return ", ".join(f"{count} × {what}" for what, count in sorted(counts.items()))
