"""Faults that are played before an engine, for `ragline prove` and tests alone; `build` arms them when the setting names a file.

The file says what fails now, and is read again when it changes::

    {"vectors": {"kind": "hang"}, "reranker": {"kind": "slow", "by_s": 2.0}}

hang     no answer until the fault is lifted, then the call goes on: a machine that vanished, a network that swallows
refuse   EngineUnavailable at once: it is away
reject   EngineRejected at once: it is there, and will not have it
slow     the call begins `by_s` later
miss     of ``vectors`` alone: a search finds every second neighbour only
stale    of the ``guard`` alone: its first answer to a question is its answer until the fault is lifted, as of a replica that lags
skew     of the ``clock`` alone: it goes `by_s` ahead (below 0: behind)

Without the setting no wrapper exists, so they cost nothing and can do nothing in production. An engine on a server is better
broken on its connection (`ragline.chaos.wire`): that tries the adapter as well. These are for what has no connection.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Literal

import structlog

from ragline.errors import ConfigurationError, EngineRejected, EngineUnavailable

log = structlog.get_logger()

Kind = Literal["hang", "refuse", "reject", "slow", "miss", "stale", "skew"]

METHODS: Mapping[str, tuple[str, ...]] = {
    "vectors": ("search", "upsert", "update_payload", "delete"),
    "keywords": ("search", "upsert", "update_payload", "delete"),
    "embedder": ("embed",),
    "reranker": ("rerank",),
    "cache": ("get", "put", "remove"),
    "registry": ("read", "write", "apart"),
    "jobs": ("accept", "claim", "lengths"),
    "log": ("append",),
    "guard": ("look",),
}
"""Part → the calls of it that fail. The embedder's are told apart by what the text is for: ``embedder.query``,
``embedder.document``; either name does."""

TARGETS = (*METHODS, "embedder.query", "embedder.document", "clock")

OWN: Mapping[str, tuple[Kind, ...]] = {
    "clock": ("skew",), "guard": ("stale",), "vectors": ("hang", "refuse", "reject", "slow", "miss"),
}  # fmt: skip
"""Of the targets that do not fail as the others do: how."""

KINDS: tuple[Kind, ...] = ("hang", "refuse", "reject", "slow")

LOOK_S = 0.02
"""Between two looks of a call that hangs."""


@dataclass(frozen=True, slots=True)
class Fault:
    kind: Kind
    by_s: float = 0.0


class Faults:
    """What the file says now. A file that is not there says that nothing fails."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read_at = -1
        self._faults: dict[str, Fault] = {}

    def of(self, *targets: str) -> Fault | None:
        """Of the first of `targets` that fails. Raises ConfigurationError: the file is none."""
        try:
            changed_at = self._file.stat().st_mtime_ns
        except FileNotFoundError:
            changed_at, self._faults = 0, {}
        if changed_at not in (0, self._read_at):
            self._faults = parse(self._file.read_text())
        self._read_at = changed_at
        return next((self._faults[name] for name in targets if name in self._faults), None)


def parse(text: str) -> dict[str, Fault]:
    """Raises ConfigurationError."""
    try:
        said = {name: Fault(**words) for name, words in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise _wrong(str(error)) from error
    for name, fault in said.items():
        if name not in TARGETS or fault.kind not in OWN.get(name, KINDS):
            raise _wrong(f"{name!r} cannot fail by {fault.kind!r}")
    return said


def _wrong(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"faults: {what}.", next_step=f"It is for `ragline prove`: leave it empty, or name {', '.join(TARGETS)}."
    )


def arm(file: Path, parts: Mapping[str, object]) -> None:
    """Let the calls of `parts` fail as `file` says. `parts`: by the names of METHODS, and the ``clock``; None: there is none."""
    log.warning("armed to play faults", file=str(file))
    faults = Faults(file)
    for name, methods in METHODS.items():
        if (part := parts.get(name)) is not None:
            for method in methods:
                _wrap(part, method, name, faults)
    clock: Any = parts["clock"]
    now = clock.now

    def skewed() -> float:
        fault = faults.of("clock")
        return float(now()) + (fault.by_s if fault else 0.0)

    clock.now = skewed


def _wrap(part: object, method: str, name: str, faults: Faults) -> None:
    real: Callable[..., Any] = getattr(part, method)
    told: dict[str, Any] = {}

    @wraps(real)
    async def faulty(*args: Any, **words: Any) -> Any:
        names = (name, f"{name}.{words['purpose']}") if "purpose" in words else (name,)
        fault = faults.of(*names)
        if fault and fault.kind == "slow":
            await asyncio.sleep(fault.by_s)
        while fault and fault.kind == "hang":
            await asyncio.sleep(LOOK_S)
            fault = faults.of(*names)
        if fault and fault.kind == "refuse":
            raise EngineUnavailable(
                f"{name} refuses: a fault is played.", next_step="End `ragline prove`, or unset `faults`.", engine=name
            )
        if fault and fault.kind == "reject":
            raise EngineRejected(
                f"{name} will not have it: a fault is played.",
                next_step="End `ragline prove`, or unset `faults`.",
                engine=name,
            )
        if fault and fault.kind == "stale":
            asked = repr((args, words))
            if asked not in told:
                told[asked] = await real(*args, **words)
            return told[asked]
        told.clear()
        answer = await real(*args, **words)
        return answer[1::2] if fault and fault.kind == "miss" and method == "search" else answer

    setattr(part, method, faulty)
