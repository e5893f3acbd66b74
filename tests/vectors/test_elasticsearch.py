"""The vector store on a real Elasticsearch: the contract for each kind of index, and what is this engine's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ragline.connections.elasticsearch import ElasticsearchServer
from ragline.connections.elasticsearch_url import options_of
from ragline.protocols import VectorStore
from ragline.testing.vectors import VectorStoreContract
from ragline.vectors.elasticsearch import ElasticsearchVectorStore
from tests.engines.elasticsearch import Elasticsearch


def opened(url: str) -> ElasticsearchVectorStore:
    options = options_of(url, "vectors")
    return ElasticsearchVectorStore(ElasticsearchServer(options.server), options)


class _Contract(VectorStoreContract):
    INDEX = ""

    @pytest.fixture
    def connect(self, elasticsearch: Elasticsearch) -> Callable[[], VectorStore]:
        url = elasticsearch.url(index=self.INDEX)
        return lambda: opened(url)


class TestInt8(_Contract):
    INDEX = "int8_hnsw"


class TestWhole(_Contract):
    INDEX = "hnsw"


class TestOneBit(_Contract):
    INDEX = "bbq_hnsw"
