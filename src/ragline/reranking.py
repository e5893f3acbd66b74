"""The rerank step of a query, kept from hurting it: a number of candidates, and a deadline.

A reranker that fails or is late raises no error: the fused order stands, and `degraded` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ragline import metrics
from ragline.breaker import RUNNING, Breaker
from ragline.clock import Clock
from ragline.errors import EngineError
from ragline.protocols import Reranker
from ragline.settings import RerankerSettings
from ragline.types import Hit


class Reranking:
    def __init__(self, reranker: Reranker, settings: RerankerSettings, clock: Clock, *, after: int = RUNNING) -> None:
        self.breaker = Breaker("reranker", clock, called="The reranker", after=after)
        self._reranker = reranker
        self._deadline_s = settings.deadline_ms / 1000
        self.candidates = settings.candidates

    async def order(self, query: str, hits: Sequence[Hit], degraded: list[str]) -> list[Hit]:
        """The first `candidates` of `hits` by their new scores, ties as they stood; the others behind them, with their own
        score and scale.

        The places in the legs' rankings stay in `ranks`.
        """
        looked_at = hits[: self.candidates]
        texts = [_text(hit) for hit in looked_at]
        try:
            scores = await self.breaker.call(
                lambda: self._reranker.rerank(query, texts),
                within_s=self._deadline_s,
                next_step="Look at its load, lower reranker.candidates, or raise reranker.deadline_ms.",
            )
        except EngineError as error:
            metrics.retrieval_errors_total.labels("rerank", type(error).__name__).inc()
            degraded.append("rerank")
            return list(hits)
        best = sorted(zip(scores, looked_at, strict=True), key=lambda scored: -scored[0])
        reranked = [replace(hit, score=score, scale=self._reranker.scale) for score, hit in best]
        return [*reranked, *hits[self.candidates :]]


def _text(hit: Hit) -> str:
    """What a person would see of it: a chunk without its title and headings is often about nothing."""
    above = [part for part in (hit.title, *hit.chunk.headings) if part]
    return "\n".join([" › ".join(above), hit.chunk.text]) if above else hit.chunk.text
