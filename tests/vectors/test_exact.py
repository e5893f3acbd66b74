"""The reference store passes the contract: so the contract asks for what can be had."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ragline.protocols import VectorStore
from ragline.testing.exact import ExactVectorStore, Shelf
from ragline.testing.vectors import VectorStoreContract


class TestContract(VectorStoreContract):
    @pytest.fixture
    def connect(self) -> Callable[[], VectorStore]:
        disk: dict[str, Shelf] = {}
        return lambda: ExactVectorStore(disk)
