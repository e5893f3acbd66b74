"""Recall of the vector index, as it serves: a share of the dense searches is done exactly as well, beside the response.

An index that has outgrown what it learnt, or has too few lists probed, is as fast as ever and finds less: nothing else shows it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ragline import metrics
from ragline.errors import EngineError
from ragline.protocols import ScanningVectorStore, VectorStore
from ragline.types import Hit, Scope

TIED = 1e-5
"""Cosines that are nearer to each other than this are equal: an index may compute them in another order."""


class RecallWatch:
    """One at a time: what comes meanwhile is not measured. A store that cannot search exactly is not measured either."""

    def __init__(self, vectors: VectorStore, *, share: float, draw: Callable[[], float] = random.random) -> None:
        self._vectors = vectors if isinstance(vectors, ScanningVectorStore) else None
        self._share = share
        self._draw = draw
        self._task: asyncio.Task[None] | None = None

    def consider(
        self, collection: str, vector: NDArray[np.float32], found: Sequence[Hit], *, top_k: int, scope: Scope
    ) -> None:
        """`found`: what the index has found."""
        if self._vectors is None or self._draw() >= self._share or (self._task is not None and not self._task.done()):
            return
        self._task = asyncio.ensure_future(self._look(self._vectors, collection, vector, found, top_k, scope))

    async def done(self) -> None:
        """Wait for the one under way."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look(
        self, vectors: ScanningVectorStore, collection: str, vector: NDArray[np.float32], found: Sequence[Hit],
        top_k: int, scope: Scope,
    ) -> None:  # fmt: skip
        try:
            exact = await vectors.search_exactly(collection, vector, top_k=top_k, scope=scope)
        except EngineError:
            return  # the searches themselves tell of it
        if exact:
            metrics.ann_recall.observe(recall(found, exact))


def recall(found: Sequence[Hit], exact: Sequence[Hit]) -> float:
    """Share of the places of `exact` that `found` fills with something as near. Both best first; scale "cosine"."""
    last = exact[-1].score - TIED
    return min(1.0, sum(hit.score >= last for hit in found) / len(exact))
