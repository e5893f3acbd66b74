"""One model call for many callers, without a window: an idle model serves one caller at once (see `coalescing`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ragline.coalescing import Coalescer
from ragline.protocols import Embedder, Purpose, Vectors
from ragline.types import Space

MOST_QUERIES = 32
"""Texts in one query call. Queries are short; past this, the last caller waits longer than a second call would take."""


class BatchingEmbedder:
    """An `Embedder` that merges concurrent queries. Document calls pass: the embedder merges them as suits its model."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._queries: Coalescer[Sequence[str], Vectors] = Coalescer(self._run, most=MOST_QUERIES, weigh=len)

    @property
    def space(self) -> Space:
        return self._embedder.space

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Vectors:
        if not texts:
            return np.zeros((0, self.space.dim), np.float32)
        return await (self._queries(texts) if purpose == "query" else self._embedder.embed(texts, purpose=purpose))

    def token_spans(self, text: str) -> Sequence[tuple[int, int]]:
        return self._embedder.token_spans(text)

    async def aclose(self) -> None:
        await self._embedder.aclose()

    async def _run(self, batch: list[Sequence[str]]) -> list[Vectors]:
        vectors = await self._embedder.embed([text for texts in batch for text in texts], purpose="query")
        ends = np.cumsum([len(texts) for texts in batch])
        return np.split(vectors, ends[:-1])
