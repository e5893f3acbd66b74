"""An edge as a simulated day needs it: stores what may be stored, drops it by its keys or when its time is over, and counts.

Speaks `ragline.protocols.Edge`, so a `ColdTier` and a `PurgeWorker` take it as they take a real one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ragline.clock import Clock
from ragline.cold_tier import Published

_LASTS = re.compile(r"s-maxage=(\d+)")


@dataclass(frozen=True, slots=True)
class _Stored:
    until: float
    keys: frozenset[str]
    answer: Published


class ModelEdge:
    """`hits` and `asked` count what `get` was asked for."""

    name = "model"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stored: dict[str, _Stored] = {}
        self._under: dict[str, set[str]] = {}
        self.asked = self.hits = 0

    def get(self, question: str) -> Published | None:
        """What is stored of `question`, by the name that the caller gives it."""
        self.asked += 1
        found = self._stored.get(question)
        if found is None or found.until <= self._clock.now():
            return None
        self.hits += 1
        return found.answer

    def put(self, question: str, answer: Published) -> None:
        """Store it, if its headers say so."""
        lasts = _LASTS.search(answer.headers["Cache-Control"])
        if lasts is None:
            return
        keys = frozenset(answer.headers["Surrogate-Key"].split(" "))
        self._stored[question] = _Stored(self._clock.now() + int(lasts[1]), keys, answer)
        for key in keys:
            self._under.setdefault(key, set()).add(question)

    def labels(self, keys: Sequence[str], *, namespace: str, visible: int) -> Mapping[str, str] | None:
        return {"Surrogate-Key": " ".join(keys)}

    async def purge(self, keys: Sequence[str], *, namespace: str, visible: int) -> None:
        for key in keys:
            for question in self._under.pop(key, ()):
                self._stored.pop(question, None)

    async def aclose(self) -> None:
        pass

    @property
    def hit_ratio(self) -> float:
        return self.hits / self.asked if self.asked else 0.0
