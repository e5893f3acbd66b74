"""One model call for many callers, without a window: an idle model serves one caller at once (see `coalescing`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from ragline.coalescing import Coalescer
from ragline.protocols import Embedder, Purpose, Vectors
from ragline.types import Space

MOST_QUERIES = 32
"""Texts in one query call. Queries are short; past this, the last caller waits longer than a second call would take."""

MOST_PASSAGES = 256
"""Texts in one document call: enough of them to sort by length over many documents."""


class BatchingEmbedder:
    """An `Embedder` that merges concurrent calls, queries and documents apart."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._calls: dict[Purpose, Coalescer[Sequence[str], Vectors]] = {
            "query": Coalescer(partial(self._run, "query"), most=MOST_QUERIES, weigh=len),
            "document": Coalescer(partial(self._run, "document"), most=MOST_PASSAGES, weigh=len),
        }

    @property
    def space(self) -> Space:
        return self._embedder.space

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Vectors:
        if not texts:
            return np.zeros((0, self.space.dim), np.float32)
        return await self._calls[purpose](texts)

    def token_spans(self, text: str) -> Sequence[tuple[int, int]]:
        return self._embedder.token_spans(text)

    async def aclose(self) -> None:
        await self._embedder.aclose()

    async def _run(self, purpose: Purpose, batch: list[Sequence[str]]) -> list[Vectors]:
        vectors = await self._embedder.embed([text for texts in batch for text in texts], purpose=purpose)
        ends = np.cumsum([len(texts) for texts in batch])
        return np.split(vectors, ends[:-1])
