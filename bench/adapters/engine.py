"""What an engine's file gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ragline.protocols import Vectors, VectorStore
from ragline.types import Record


class Vendor(Protocol):
    """The vendor's client alone. What it writes and fetches is what the adapter does: all that a hit shows, and a filter
    for readers."""

    async def make(self, dim: int) -> None: ...

    async def insert(self, records: Sequence[Record], vectors: Vectors) -> None:
        """Durable, and found by the next search, when it returns."""
        ...

    async def search(self, vector: NDArray[np.float32], *, top_k: int) -> list[str]:
        """Ids of the nearest chunks, whose texts have been fetched as well."""
        ...

    async def remove(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Engine:
    adapter: VectorStore
    vendor: Vendor
    words: str
    """Server and client, with their versions."""
