"""What is asked of an engine, in the words that adapters, data and phases share. The first file to read."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

GRAPH_LINKS, BUILD_EF, SEARCH_EF = 16, 200, 128
"""One setting for every graph index."""

Hit = tuple[str, float, str]
"""chunk_id, score, text"""


@dataclass(frozen=True, slots=True)
class Row:
    chunk_id: str
    vector: np.ndarray
    document: str
    content: int
    shelf: str
    groups: tuple[str, ...]
    text: str


class Engine(Protocol):
    """What is asked of an engine. `upsert`, `delete` and `regroup` have survived a SIGKILL when they return."""

    package: str

    def open(self, folder: Path, dim: int) -> None: ...
    def upsert(self, rows: Sequence[Row]) -> None: ...
    def search(
        self, vector: np.ndarray, top_k: int, groups: Sequence[str] | None = None, shelf: str | None = None
    ) -> list[Hit]:
        """`groups`: only chunks without groups, or sharing one; None asks for all. `shelf`: equality."""

    def delete(self, document: str, below: int) -> None:
        """Delete the document's chunks with content < below."""

    def regroup(self, document: str, groups: Sequence[str]) -> None: ...
    def count(self, document: str | None = None) -> int: ...
    def optimise(self) -> None: ...
    def close(self) -> None: ...


def vendor(module: str) -> Any:
    """Imported when its engine runs, so that one may be missing; untyped, as not all of them ship types."""
    return importlib.import_module(module)
