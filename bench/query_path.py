"""The query path against the sum of its raw parts: one embed, the slower leg, one fusion.

What is over 1 is ours: the snapshot, the guard's statement, tasks and timers. Each query runs whole and in parts in
turn, so that a busy machine slows both; the ratio is taken query by query.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bench.figures import Figure, Ground, median
from bench.ground import ingest, records, running
from ragline.build import open_embedder
from ragline.evaluation import load_judged
from ragline.fusion import fuse
from ragline.protocols import Embedder
from ragline.system import System
from ragline.types import Hit, LegName, Namespace, Scope, SearchRequest

T = TypeVar("T")

WARM_UP, ROUNDS = 20, 3
NAMESPACE = "eval-scifact"


@dataclass(frozen=True, slots=True)
class Took:
    """One query. Units: milliseconds."""

    whole: float
    embed: float
    keyword: float
    dense: float
    fuse: float

    @property
    def parts(self) -> float:
        return self.embed + max(self.keyword, self.dense) + self.fuse


async def run(ground: Ground) -> list[Figure]:
    folder = ground.collection("scifact")
    queries = [query.text for query in load_judged(folder)]
    async with running(ground.indexed) as system:
        raw = await open_embedder(system.settings)
        namespace = await ingest(system, NAMESPACE, records(folder / "corpus.jsonl"))
        chunks = sum((await system.vectors.contents(namespace.epoch.vectors)).values())
        for query in queries[:WARM_UP]:
            await measure(system, raw, namespace, query, whole_first=True)
        took = [
            await measure(system, raw, namespace, query, whole_first=(i + n) % 2 == 0)
            for n in range(ROUNDS)
            for i, query in enumerate(queries)
        ]
        await raw.aclose()
    return figures(took, chunks)


def figures(took: Sequence[Took], chunks: int) -> list[Figure]:
    size = f"{chunks:,} chunks"
    parts = [
        Figure(name, median([getattr(one, field) for one in took]), "ms", note=f"p50, alone, {size}")
        for name, field in (("whole search", "whole"), ("raw embed", "embed"), ("raw keyword leg", "keyword"),
                            ("raw dense leg", "dense"), ("fusion", "fuse"))
    ]  # fmt: skip
    ratio = median([one.whole / one.parts for one in took])
    return [Figure("search / raw parts", ratio, "×", at_most=1.25, note=f"median of {len(took)} pairs"), *parts]


async def measure(system: System, raw: Embedder, namespace: Namespace, query: str, *, whole_first: bool) -> Took:
    request = SearchRequest(query, namespace.name, groups=frozenset())
    whole = 0.0
    if whole_first:
        whole, _ = await _timed(lambda: system.search.search(request))
    fetch = max(system.settings.query.candidates, 2 * request.top_k)
    epoch, scope = namespace.epoch, Scope()
    embed_ms, vectors = await _timed(lambda: raw.embed([query], purpose="query"))
    keyword_ms, keyword = await _timed(lambda: system.keywords.search(epoch.keywords, query, top_k=fetch, scope=scope))
    dense_ms, dense = await _timed(lambda: system.vectors.search(epoch.vectors, vectors[0], top_k=fetch, scope=scope))
    rankings: dict[LegName, Sequence[Hit]] = {"keyword": keyword, "dense": dense}
    start = time.perf_counter()
    fuse(rankings, namespace.settings.fusion, top_k=len(keyword) + len(dense) or 1)
    fuse_ms = (time.perf_counter() - start) * 1000
    if not whole_first:
        whole, _ = await _timed(lambda: system.search.search(request))
    return Took(whole, embed_ms, keyword_ms, dense_ms, fuse_ms)


async def _timed(call: Callable[[], Awaitable[T]]) -> tuple[float, T]:
    start = time.perf_counter()
    result = await call()
    return (time.perf_counter() - start) * 1000, result
