"""The query path, to passages.

    snapshot ─▶ wait for min_sequence ─▶ [ keyword leg | embed ─▶ dense leg ] ─▶ fuse ─▶ guard ─▶ rerank ─▶ passages

A leg that fails or is late leaves the other one answering, and the response says so in `degraded`. The guard drops a
hit whose content is not what its document serves, and one that the caller may not read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from ragline import metrics
from ragline.background import Queries
from ragline.clock import Clock
from ragline.errors import EngineError, EngineTimeout, EngineUnavailable, InvalidRequest
from ragline.filters import parse_filters
from ragline.fusion import fuse
from ragline.languages import of_query, weighed
from ragline.leg import Leg
from ragline.pressure import Pressure
from ragline.protocols import Embedder, KeywordIndex, VectorStore
from ragline.recall import RecallWatch
from ragline.registry.documents import Documents
from ragline.registry.guard import Guard, GuardRow, GuardView
from ragline.reranking import Reranking
from ragline.settings import QuerySettings
from ragline.snapshots import Snapshots
from ragline.types import Fusion, Groups, Hit, LegName, Namespace, Passage, Retrieved, Scope, SearchRequest, Seen

LOOKED_AT = 2
"""Times `top_k` hits that the guard looks at in one statement: mostly it drops none."""


class Search:
    def __init__(
        self, *, snapshots: Snapshots, documents: Documents, guard: Guard, embedder: Embedder, vectors: VectorStore,
        keywords: KeywordIndex, queries: Queries, settings: QuerySettings, clock: Clock,
        pressure: Pressure, languages: frozenset[str] | None = None, reranking: Reranking | None = None,
        recall: RecallWatch | None = None,
    ) -> None:  # fmt: skip
        """`queries`: are told which are under way.   `languages`: that the embedder knows; None: all."""
        self._queries = queries
        self._snapshots = snapshots
        self._documents = documents
        self._guard = guard
        self._embedder = embedder
        self._vectors = vectors
        self._keywords = keywords
        self._settings = settings
        self._clock = clock
        self._languages = languages
        self._reranking = reranking
        self._pressure = pressure
        self._recall = recall
        caps: dict[LegName, int] = {"keyword": settings.keyword_deadline_ms, "dense": settings.dense_deadline_ms}
        self.legs = {
            name: Leg(
                name, cap_ms=cap_ms, floor_ms=settings.least_deadline_ms, concurrency=settings.leg_concurrency,
                clock=clock, after=settings.leave_out_after,
            )
            for name, cap_ms in caps.items()
        }  # fmt: skip

    async def search(self, request: SearchRequest) -> Retrieved:
        """The passages for a query. Identical ones that are in flight together are one already: see `caching.CachedSearch`.

        Raises:  InvalidRequest, NotFound: the namespace.  EngineError: every leg failed, or the registry is away and
                 the namespace was never read.  Overloaded: too many are under way.
        """
        _check(request, self._settings)
        with self._pressure.place(waits=request.min_sequence is not None):
            found = await self._in_time(request)
        for step in found.degraded:
            metrics.degraded_total.labels(step).inc()
        return found

    async def check(self, request: SearchRequest) -> None:
        """Raises as `search` does of a request that cannot be served as it is: for one that is searched for later."""
        _check(request, self._settings)
        namespace = await self._snapshots.get(request.namespace)
        parse_filters(request.filters, namespace.epoch.fields)

    async def still_serves(self, request: SearchRequest, found: Retrieved) -> bool:
        """Whether all that was found is what is served now, and the caller may still read it: passages may wait long. With the
        registry away, as in a search: what is open to everyone, as it was seen last.

        Raises:  NotFound: the namespace.  EngineError.
        """
        namespace = await self._snapshots.get(request.namespace)
        hits = [passage.hit for passage in found.passages]
        view = await self._look(namespace, [hit.chunk.document for hit in hits], [])
        return all(_serves(view.rows.get(hit.chunk.document), hit, request.groups) for hit in hits)

    async def _in_time(self, request: SearchRequest) -> Retrieved:
        """Whatever step hangs: nobody waits beyond the deadline of the whole. What `min_sequence` waited for comes on top,
        so that its end is an answer, not an error."""
        limit_ms = self._settings.deadline_ms
        if request.min_sequence is not None:
            limit_ms += max(
                self._settings.deadline_ms, self._settings.keyword_deadline_ms, self._settings.dense_deadline_ms
            )
        try:
            async with asyncio.timeout(limit_ms / 1000):
                return await self._search(request)
        except TimeoutError:
            raise EngineTimeout(
                f"The search was not done within {limit_ms} ms.",
                next_step="Look at the engines by `ragline doctor`, or raise query.deadline_ms.",
                engine="search",
            ) from None

    async def _search(self, request: SearchRequest) -> Retrieved:
        timings: dict[str, float] = {}
        with metrics.stage(timings, "total", metrics.retrieval_latency_ms):
            namespace = await self._snapshots.get(request.namespace)
            scope = Scope(request.groups, parse_filters(request.filters, namespace.epoch.fields))
            degraded: list[str] = []
            if request.min_sequence is not None:
                with metrics.stage(timings, "wait"):
                    await self._wait(request, degraded)
                self._snapshots.forget(request.namespace)  # what was waited for may be in another epoch
                namespace = await self._snapshots.get(request.namespace)
                scope = Scope(request.groups, parse_filters(request.filters, namespace.epoch.fields))
            reranking = self._reranking if len(request.legs) > 1 else None  # one leg alone keeps its own scores
            if reranking and self._pressure.sheds("rerank"):
                degraded.append("rerank")
                reranking = None
            wanted = max(request.top_k, reranking.candidates) if reranking else request.top_k
            began_at = self._clock.now()
            with self._queries.under_way():
                rankings = await self._rankings(request, namespace, scope, timings, degraded)
                ranked = partial(_fused, request, await self._fusion(request, namespace), rankings)
                with metrics.stage(timings, "fuse", metrics.retrieval_latency_ms):
                    best = ranked(most=LOOKED_AT * wanted)
                with metrics.stage(timings, "guard", metrics.retrieval_latency_ms):
                    hits, views = await self._readable(namespace, request, best, ranked, degraded, most=wanted)
            if reranking:
                with metrics.stage(timings, "rerank", metrics.retrieval_latency_ms):
                    hits = await reranking.order(request.query, hits, degraded)
                hits = hits[: request.top_k]
            passages = tuple(Passage(n, hit) for n, hit in enumerate(hits, start=1))
        settled = min((view.settled for view in views), default=0)
        full = len(passages) == request.top_k
        seen = None if "guard" in degraded else _seen(namespace, began_at, views, passages, full=full)
        return Retrieved(passages, tuple(degraded), namespace.epoch.label, settled, timings, seen=seen)

    async def _fusion(self, request: SearchRequest, namespace: Namespace) -> Fusion:
        """The namespace's; where it holds documents that the embedder does not understand, for the query's language."""
        fusion = namespace.settings.fusion
        if self._languages is None or not namespace.foreign or len(request.legs) == 1:
            return fusion
        language = await asyncio.to_thread(of_query, request.query)
        return fusion if language in self._languages else weighed(fusion)

    async def _wait(self, request: SearchRequest, degraded: list[str]) -> None:
        assert request.min_sequence is not None
        try:
            settled = await self._documents.settled(
                request.namespace, request.min_sequence, deadline_s=self._settings.deadline_ms / 1000
            )
        except EngineError:
            settled = False
        if not settled:
            degraded.append("not_yet_visible")

    async def _rankings(
        self, request: SearchRequest, namespace: Namespace, scope: Scope, timings: dict[str, float], degraded: list[str]
    ) -> Mapping[LegName, Sequence[Hit]]:
        """Run the asked-for legs side by side. Once one is in, the other gets only the grace."""
        epoch = namespace.epoch
        fetch = max(namespace.settings.candidates or self._settings.candidates, 2 * request.top_k)
        if self._pressure.sheds("candidates") and fetch > 2 * request.top_k:
            degraded.append("candidates")
            fetch = max(fetch // 2, 2 * request.top_k)

        async def keyword() -> list[Hit]:
            return await self._keywords.search(epoch.keywords, request.query, top_k=fetch, scope=scope)

        async def dense() -> list[Hit]:
            with metrics.stage(timings, "embed", metrics.retrieval_latency_ms):
                vector = (await self._embedder.embed([request.query], purpose="query"))[0]
            found = await self._vectors.search(epoch.vectors, vector, top_k=fetch, scope=scope)
            if self._recall:
                self._recall.consider(epoch.vectors, vector, found, top_k=fetch, scope=scope)
            return found

        searches: dict[LegName, Callable[[], Awaitable[list[Hit]]]] = {"keyword": keyword, "dense": dense}

        async def timed(name: LegName) -> list[Hit]:
            if (
                name == "dense" and epoch.space != self._embedder.space
            ):  # no fault of an engine: the breaker knows nothing of it
                raise EngineUnavailable(
                    f"Namespace {epoch.namespace} holds vectors of {epoch.space.id}, the embedder is {self._embedder.space.id}.",
                    next_step=f"Run `ragline reindex --namespace {epoch.namespace}`, or set the embedder back.",
                    engine="embedder",
                )
            with metrics.stage(timings, name, metrics.retrieval_latency_ms):
                return await self.legs[name].run(searches[name])

        began = time.perf_counter()
        tasks = {name: asyncio.create_task(timed(name)) for name in request.legs}
        late = await self._in(tasks)
        for name in late:
            self.legs[name].was_late(searches[name], time.perf_counter() - began)
        return _rankings_of(tasks, late, degraded)

    async def _in(self, tasks: Mapping[LegName, asyncio.Task[list[Hit]]]) -> list[LegName]:
        """Until all are in, or one is and the grace is over. Those that are not in then are broken off."""
        try:
            waiting = set(tasks.values())
            while waiting and not any(task.done() and not task.exception() for task in tasks.values()):
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if waiting:
                await asyncio.wait(waiting, timeout=self._settings.grace_ms / 1000)
        finally:
            late = [name for name, task in tasks.items() if task.cancel()]
        return late

    async def _readable(
        self, namespace: Namespace, request: SearchRequest, best: Sequence[Hit], ranked: Callable[..., Sequence[Hit]],
        degraded: list[str], *, most: int,
    ) -> tuple[list[Hit], list[GuardView]]:  # fmt: skip
        """The best `most` hits that are live and that the caller may read, and what was seen of the registry.

        One statement asks for the `best`; only when it drops too many, all are `ranked`, and others ask for more.
        """
        found: dict[str, Hit] = {}
        views: list[GuardView] = []
        for part in _parts(best, ranked):
            view = await self._look(namespace, [hit.chunk.document for hit in part], degraded)
            views.append(view)
            for hit in part:
                if _serves(view.rows.get(hit.chunk.document), hit, request.groups):
                    found.setdefault(hit.chunk.document if request.distinct == "document" else hit.chunk.id, hit)
            if len(found) >= most:
                break
        return list(found.values())[:most], views

    async def _look(self, namespace: Namespace, documents: Sequence[str], degraded: list[str]) -> GuardView:
        """With the registry away: the last-seen rows of documents that are open to everyone, and nothing else."""
        ids = list(dict.fromkeys(documents))
        try:
            return await self._guard.look(namespace.name, ids)
        except EngineError:
            if "guard" not in degraded:
                degraded.append("guard")
            return GuardView(self._guard.last_seen(ids), namespace.uid, namespace.visible, 0)


def _rankings_of(
    tasks: Mapping[LegName, asyncio.Task[list[Hit]]], late: Collection[LegName], degraded: list[str]
) -> Mapping[LegName, Sequence[Hit]]:
    """Of the legs that are in; the others are named in `degraded`. Raises EngineError: there is none."""
    rankings: dict[LegName, Sequence[Hit]] = {}
    failures: list[BaseException] = []
    for name, task in tasks.items():
        error = None if name in late else task.exception()
        if name not in late and error is None:
            rankings[name] = task.result()
            continue
        if error is not None and not isinstance(error, EngineError):
            raise error
        degraded.append(name)
        failures.extend([error] if error else [])
    if not rankings:
        raise failures[0]
    return rankings


def _fused(
    request: SearchRequest, fusion: Fusion, rankings: Mapping[LegName, Sequence[Hit]], *, most: int | None = None
) -> Sequence[Hit]:
    """One ranking, or its beginning. Where one leg was asked for there is nothing to fuse: it keeps its own scores."""
    if len(request.legs) == 1:
        (leg,) = request.legs
        return [replace(hit, ranks={leg: rank}) for rank, hit in enumerate(rankings[leg][:most], start=1)]
    return fuse(rankings, fusion, top_k=most or sum(map(len, rankings.values())) or 1)


def _parts(best: Sequence[Hit], ranked: Callable[..., Sequence[Hit]]) -> Iterator[Sequence[Hit]]:
    """The best, then, for whoever goes on, all that come behind them, as many at a time."""
    yield best
    if best:
        rest = ranked()[len(best) :]
        yield from (rest[start : start + len(best)] for start in range(0, len(rest), len(best)))


def _check(request: SearchRequest, settings: QuerySettings) -> None:
    if not request.query.strip():
        raise InvalidRequest("query is empty.", next_step="Send some words to search for.", field="query")
    if len(request.query) > settings.max_query_chars:
        raise InvalidRequest(
            f"query has {len(request.query)} characters; the limit is {settings.max_query_chars}.",
            next_step="Shorten it, or raise query.max_query_chars.",
            field="query",
        )
    if not 1 <= request.top_k <= settings.max_top_k:
        raise InvalidRequest(
            f"top_k is {request.top_k}; it must be from 1 to {settings.max_top_k}.",
            next_step="Ask for fewer passages, or raise query.max_top_k.",
            field="top_k",
        )
    if not request.legs or len(set(request.legs)) != len(request.legs):
        raise InvalidRequest(
            "legs must name keyword, dense or both, each once.", next_step="Leave it out for both.", field="legs"
        )


def _serves(row: GuardRow | None, hit: Hit, groups: Groups) -> bool:
    return row is not None and row.live == hit.chunk.content and row.readable(groups)


def _seen(
    namespace: Namespace, began_at: float, views: Sequence[GuardView], passages: Sequence[Passage], *, full: bool
) -> Seen | None:
    """By what the passages can be told to hold later on. None: the namespace is another one by now.

    `namespace` was read before the search, the `views` after it. What the stores held in between is what the views say, if
    the count stood still, or if all that is settled was so before.
    """
    if any(view.uid != namespace.uid for view in views):
        return None
    rows = {id: row for view in views for id, row in view.rows.items()}
    documents = {id: rows[id].settled for id in {passage.hit.chunk.document for passage in passages}}
    still = all(view.visible == namespace.visible for view in views)
    exact = still or all(settled <= namespace.settled for settled in documents.values())
    return Seen(namespace.uid, began_at, namespace.visible, namespace.settled, documents, exact, full)
