"""Passages from the hot cache, while they still hold; else from the query path, whose result is kept.

    key ─▶ cache ─▶ is its time over? ─▶ does it still hold? ─▶ passages, `cached`
                └────────── no ──────────────────┴─▶ the query path ─▶ kept, beside the response

Nobody tells the cache of changes: an entry carries what was seen of the registry while it was found, and holds while that is
so. Either the namespace's count has not moved since before the search, or each document is as it was, and the caller may read
it. A document that is new is missed for as long as an entry is served at most; never where it would have filled an empty
place, and never by a query with `min_sequence` (docs/caching.md).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from ragline import __version__, metrics, tracing
from ragline.background import Queries
from ragline.cache_audit import CacheAudit
from ragline.errors import EngineError, EngineRejected, Overloaded, RaglineError
from ragline.hot_tier import HotTier, Kind, Outcome
from ragline.prompting import SYSTEM
from ragline.protocols import Searcher
from ragline.registry.guard import Guard, GuardView
from ragline.serialisation import dump_answer, dump_retrieved, load_answer, load_retrieved
from ragline.settings import Settings
from ragline.singleflight import SingleFlight
from ragline.snapshots import Snapshots
from ragline.types import Answer, Groups, Namespace, Passage, Retrieved, SearchRequest, Seen

R = TypeVar("R", Retrieved, Answer)

EXPIRED = "expired"
"""Marks a result that is older than it may be, served because every leg is down."""

_NO_MATTER = {
    "threads", "concurrency", "leg_concurrency", "timeout_s", "patience_s", "deadline_ms", "keyword_deadline_ms",
    "dense_deadline_ms", "least_deadline_ms", "grace_ms", "target_ms", "leave_out_after", "guard_deadline_ms",
}  # fmt: skip
"""Settings that change when a result comes, not which: late steps are told in `degraded`, and such results are not kept."""


def pipeline(settings: Settings) -> str:
    """A hash of whatever else in this process a result depends on; equal ones may use each other's entries."""
    parts = {
        name: getattr(settings, name).model_dump(mode="json", exclude=_NO_MATTER)
        for name in ("query", "embedder", "reranker")
    }
    generators = [one.model_dump(mode="json", exclude=_NO_MATTER) for one in settings.generators]
    return _digest([__version__, SYSTEM, parts, generators])


def cache_key(kind: Kind, namespace: Namespace, request: SearchRequest, pipeline: str) -> str:
    """32 hexadecimal digits of all that the result depends on, but for the documents themselves."""
    fusion = namespace.settings.fusion
    return _digest([
        kind, pipeline, namespace.uid, namespace.epoch.label,
        fusion.method, sorted(fusion.weights.items()), namespace.settings.candidates, namespace.foreign,
        normalised(request.query), request.top_k, dict(request.filters), sorted(request.groups), request.legs,
        request.distinct,
    ])  # fmt: skip


def normalised(query: str) -> str:
    """Equal for queries that differ in white space and in how an accent is written. Not in case: models may tell it."""
    return unicodedata.normalize("NFC", " ".join(query.split()))


def _digest(parts: list[object]) -> str:
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=repr)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def holds(seen: Seen, passages: tuple[Passage, ...], view: GuardView, groups: Groups, *, joined: bool = False) -> bool:
    """Whether `passages` may be shown now to a caller with `groups`.

    seen:   while they were found.   view: now, of the documents in `seen`.
    joined: found a moment ago, by a search that was under way when this caller came: what it shows must be live and the
            caller's to read, no more.
    """
    if view.uid != seen.uid:
        return False
    if view.visible == seen.visible:
        return True
    if not (seen.full or joined):
        return False  # there was room for more: whatever is new belongs there
    for passage in passages:
        row, chunk = view.rows.get(passage.hit.chunk.document), passage.hit.chunk
        if row is None or row.live != chunk.content or not row.readable(groups):
            return False
        if not joined and row.settled != seen.documents.get(chunk.document):
            return False
    return True


class HotCache:
    """What the wrappers around the two paths share: find an entry that holds, or keep one. Without a `tier` neither happens."""

    def __init__(
        self, *, tier: HotTier | None, guard: Guard, queries: Queries, audit: CacheAudit | None, pipeline: str
    ) -> None:
        self.tier = tier
        self._guard = guard
        self._queries = queries
        self._audit = audit
        self._pipeline = pipeline

    def key(self, kind: Kind, namespace: Namespace, request: SearchRequest) -> str:
        return cache_key(kind, namespace, request, self._pipeline)

    async def passages(self, namespace: Namespace, key: str, request: SearchRequest) -> Retrieved | None:
        def served(found: Retrieved, timings: dict[str, float]) -> Retrieved:
            sequence = found.seen.settled if found.seen else 0
            return replace(found, cached=True, sequence=sequence, timings_ms=timings)

        return await self._find("search", namespace, key, request, load_retrieved, lambda found: found, served)

    async def answer(self, namespace: Namespace, key: str, request: SearchRequest) -> Answer | None:
        def served(found: Answer, timings: dict[str, float]) -> Answer:
            sequence = found.retrieved.seen.settled if found.retrieved.seen else 0
            retrieved = replace(found.retrieved, cached=True, sequence=sequence, timings_ms=timings)
            return replace(found, cached=True, retrieved=retrieved, timings_ms=timings)

        return await self._find("answer", namespace, key, request, load_answer, lambda found: found.retrieved, served)

    def keep(self, namespace: Namespace, key: str, found: Retrieved) -> None:
        """Unless it is degraded, or cannot be told to hold later on."""
        if self.tier and found.seen and _can_be_kept(namespace, found):
            kept = replace(found, timings_ms={})
            self.tier.put(namespace.uid, key, dump_retrieved(kept), made_at=found.seen.at)

    def keep_answer(self, namespace: Namespace, key: str, request: SearchRequest, answer: Answer) -> None:
        """The same. One that says that the documents do not answer holds only while nothing at all has changed, and the
        passages that do not answer are not kept for the next one who asks."""
        if self.tier and not answer.grounded:
            self.tier.remove(namespace.uid, self.key("search", namespace, request))
        found = answer.retrieved
        if self.tier is None or answer.degraded or found.seen is None or not _can_be_kept(namespace, found):
            return
        seen = replace(found.seen, full=found.seen.full and answer.grounded)
        kept = replace(answer, retrieved=replace(found, cached=False, seen=seen, timings_ms={}), timings_ms={})
        self.tier.put(namespace.uid, key, dump_answer(kept), made_at=seen.at)  # as old as the passages are

    async def expired(self, namespace: Namespace, key: str, request: SearchRequest) -> Retrieved | None:
        """Passages whose time is over and that hold all the same: for while every leg is down, and marked as such."""
        if self.tier is None:
            return None
        if (kept := await self.tier.get("search", namespace.uid, key, last=True)) is None:
            return None
        try:
            found = load_retrieved(kept.payload)
            view = await self._look(namespace, found)
        except (ValueError, EngineError):
            return None
        if (
            view is None
            or found.seen is None
            or not holds(found.seen, found.passages, view, request.groups, joined=True)
        ):
            return None
        return replace(found, cached=True, degraded=(EXPIRED,), sequence=found.seen.settled)

    async def holds_now(self, namespace: Namespace, found: Retrieved, groups: Groups) -> bool:
        """Whether what another caller's search has just found may be shown to this one, who came while it was under way."""
        if found.seen is None:
            return True  # the registry was away, and the guard has withheld what nobody can tell
        try:
            view = await self._look(namespace, found)
        except EngineError:
            return False
        return view is not None and holds(found.seen, found.passages, view, groups, joined=True)

    async def _find(
        self, kind: Kind, namespace: Namespace, key: str, request: SearchRequest, load: Callable[[bytes], R],
        passages_of: Callable[[R], Retrieved], served: Callable[[R, dict[str, float]], R],
    ) -> R | None:  # fmt: skip
        if self.tier is None:
            return None
        timings: dict[str, float] = {}
        asked_at = self.tier.now()
        with self._queries.under_way(), metrics.stage(timings, "total", span=False):
            with metrics.stage(timings, "cache"):
                kept = await self.tier.get(kind, namespace.uid, key)
            if kept is None:
                return None
            try:
                found = load(kept.payload)
            except ValueError:
                self.tier.unusable(kind, namespace.uid, key, "damaged")
                return None
            outcome: Outcome = "expired"
            if kept.fresh:
                with metrics.stage(timings, "guard"):
                    outcome = await self._judged(namespace, passages_of(found), request)
        self.tier.count(kind, outcome)
        if outcome != "hit":
            return None
        metrics.retrieval_latency_ms.labels("cached").observe(timings["total"])
        if self._audit:
            self._audit.consider(request, passages_of(found), asked_at, packed=kind == "answer")
        return served(found, timings)

    async def _judged(self, namespace: Namespace, found: Retrieved, request: SearchRequest) -> Outcome:
        if found.seen is None:
            return "unusable"
        if request.min_sequence is not None and found.seen.settled < request.min_sequence:
            return "behind"
        try:
            view = await self._look(namespace, found)
        except EngineError:
            return "unchecked"
        return "hit" if view and holds(found.seen, found.passages, view, request.groups) else "stale"

    async def _look(self, namespace: Namespace, found: Retrieved) -> GuardView | None:
        """Raises EngineError, NotFound: the namespace."""
        if found.seen is None:
            return None
        return await self._guard.look(namespace.name, list(found.seen.documents))


def _can_be_kept(namespace: Namespace, found: Retrieved) -> bool:
    seen = found.seen
    return (
        not found.degraded and seen is not None and (seen.exact or not found.passages)
        and seen.uid == namespace.uid and found.epoch == namespace.epoch.label
    )  # fmt: skip


class CachedSearch:
    """A `Searcher` around another. Identical queries that are in flight together are answered by one search; while every leg is
    down, by what was found before, if it still holds."""

    def __init__(self, search: Searcher, hot: HotCache, snapshots: Snapshots) -> None:
        self._search = search
        self._hot = hot
        self._snapshots = snapshots
        self._flights: SingleFlight[Retrieved] = SingleFlight()

    async def search(self, request: SearchRequest) -> Retrieved:
        """Raises as the search does that this stands around. Counts how it ended for whoever asked."""
        outcome = "failed"
        try:
            found = await self._search_once(request)
            outcome = "degraded" if found.degraded else "answered"
        except asyncio.CancelledError:
            outcome = "abandoned"
            raise
        except RaglineError as error:
            if error.status < 500:
                outcome = "refused" if isinstance(error, Overloaded) else "rejected"
            raise
        finally:
            metrics.searches_total.labels(outcome).inc()
        return found

    async def _search_once(self, request: SearchRequest) -> Retrieved:
        namespace = await self._snapshots.get(request.namespace)
        key = self._hot.key("search", namespace, request)
        own = False

        async def work() -> Retrieved:
            nonlocal own
            own = True
            return await self._found(namespace, key, request)

        with tracing.span("search") as span:
            span.note({"ragline.namespace": request.namespace, "ragline.top_k": request.top_k})
            span.text("ragline.query", request.query)
            found = await self._flights.run((key, request.min_sequence), work)
            if not own and not await self._hot.holds_now(namespace, found, request.groups):
                found = await work()
            span.note({
                "ragline.epoch": found.epoch, "ragline.degraded": found.degraded, "ragline.cached": found.cached,
                "ragline.joined": not own, "ragline.passages": len(found.passages),
            })  # fmt: skip
        return found

    async def check(self, request: SearchRequest) -> None:
        await self._search.check(request)

    async def still_serves(self, request: SearchRequest, found: Retrieved) -> bool:
        return await self._search.still_serves(request, found)

    async def _found(self, namespace: Namespace, key: str, request: SearchRequest) -> Retrieved:
        if (kept := await self._hot.passages(namespace, key, request)) is not None:
            return kept
        try:
            found = await self._search.search(request)
        except EngineError as error:
            if isinstance(error, EngineRejected) or request.min_sequence is not None:
                raise
            if (kept := await self._hot.expired(namespace, key, request)) is None:
                raise
            metrics.degraded_total.labels(EXPIRED).inc()
            return kept
        self._hot.keep(namespace, key, found)
        return found
