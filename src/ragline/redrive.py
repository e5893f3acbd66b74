"""Re-driving: what the alert on stale passages triggers, for exactly the documents that are stale.

What waits for its next attempt is due at once, and what has failed is parsed again. What a worker holds is left to it, however
long it takes: its own deadlines watch over that. A cooldown and a count, both read from the document's story, keep an alert that
repeats itself, or several processes, from driving the same document round and round.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ragline import metrics
from ragline.clock import Clock
from ragline.errors import NotFound
from ragline.registry.claims import Claims
from ragline.registry.documents import Documents
from ragline.registry.staleness import Stale, Staleness

MOST_TRIES = 3
"""Times that one content of a document is driven or parsed again, by anybody; after that it needs somebody."""

MOST = 1000
"""Documents that one call looks at, those first that are stale for longest."""

Done: TypeAlias = Literal["driven", "parsed again", "held", "in line", "resting", "used up", "unverified", "gone"]
"""Made due now; to be parsed again; a worker or the chunk log has it; it is due, and nobody has begun it yet; it was tried within
the cooldown; it was tried often enough; its source has to be synced, which nobody but its owner can do; not there any more."""


@dataclass(frozen=True, slots=True)
class Redriven:
    stale: Stale
    done: Done


class Redrive:
    def __init__(
        self, *, staleness: Staleness, documents: Documents, claims: Claims, clock: Clock, cooldown_s: float
    ) -> None:
        self._staleness = staleness
        self._documents = documents
        self._claims = claims
        self._clock = clock
        self._cooldown_s = cooldown_s

    async def run(self, among: Collection[str] | None = None) -> list[Redriven]:
        """What was done about each stale document of these namespaces; None: of all. Raises EngineError."""
        found = []
        for one in await self._staleness.stale(among, most=MOST):
            done = self._judged(one) or await self._drive(one)
            found.append(Redriven(one, done))
            metrics.redrives_total.labels(done).inc()
        return found

    def _judged(self, one: Stale) -> Done | None:
        """Why nothing is done about it."""
        if one.why == "unverified":
            return "unverified"
        if one.held:
            return "held"
        if one.tries >= MOST_TRIES:
            return "used up"
        if self._clock.now() - one.tried_at < self._cooldown_s:
            return "resting"
        if one.due and not one.waiting:
            return "in line"
        return None

    async def _drive(self, one: Stale) -> Done:
        try:
            if not one.due:
                await self._documents.retry(one.namespace, one.document)
                return "parsed again"
            return "driven" if await self._claims.drive_again(one.document, why="it is stale") else "gone"
        except NotFound:
            return "gone"
