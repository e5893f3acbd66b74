"""What every store of vectors refuses before it sends anything: vectors of another shape, or that are none."""

from __future__ import annotations

import numpy as np

from ragline.errors import EngineRejected
from ragline.protocols import Vectors


def check(vectors: Vectors, *, count: int, dim: int, engine: str) -> None:
    """Shapes: vectors (count, dim). Raises EngineRejected, of `engine`: another shape, or a component that is not finite."""
    if vectors.shape != (count, dim):
        raise EngineRejected(
            f"Vectors of shape {vectors.shape} for {count} texts, in a collection of {dim} dimensions.",
            next_step="Run `ragline reindex NAMESPACE`: the embedder is another one than this collection was made for.",
            engine=engine,
        )
    if not np.isfinite(vectors).all():
        raise EngineRejected(
            "A vector holds NaN or infinity.",
            next_step="Look at the embedder: it gives no number there.",
            engine=engine,
        )
