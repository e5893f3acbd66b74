"""An experiment: what fails, what must then be seen, and what protects against it.

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

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from ragline.errors import ConfigurationError
from ragline.faults import KINDS, OWN, TARGETS

FOLDER = Path(__file__).parent / "experiments"

OUTSIDE = {
    "load": ("times",), "llm": ("limit", "refuse", "hang", "slow"), "workers": ("kill",), "disk": ("full",),
    "process": ("pause",), "edge": ("refuse",), "webhooks": ("refuse",),
}  # fmt: skip
"""What fails by other ways than an engine, and by which."""

Writes = Literal["", "accepted", "queued", "failed", "refused", "either"]


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
            failed, accepted, then given up with a reason, and driven again when it is over; refused, with what to do next;
            either, accepted or refused, at once or when the fault is over.
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
