"""LanceDB: the contract, its index, and what goes wrong with a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ragline.protocols import VectorStore
from ragline.testing.vectors import VectorStoreContract
from ragline.vectors.lancedb import LanceDBVectorStore


class TestContract(VectorStoreContract):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Callable[[], VectorStore]:
        return lambda: LanceDBVectorStore(f"lancedb:{tmp_path}/vectors")
