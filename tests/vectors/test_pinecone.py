"""Pinecone, played to its published API: the contract, and what goes wrong with a service."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ragline.protocols import VectorStore
from ragline.testing.vectors import VectorStoreContract
from ragline.vectors.pinecone import PineconeVectorStore


class TestContract(VectorStoreContract):
    @pytest.fixture
    def connect(self, pinecone_url: str) -> Callable[[], VectorStore]:
        return lambda: PineconeVectorStore(pinecone_url)
