"""The keyword index on a real Elasticsearch: the contract, and analyzers per language."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ragline.connections.elasticsearch import ElasticsearchServer
from ragline.connections.elasticsearch_url import options_of
from ragline.keywords.elasticsearch import ElasticsearchKeywordIndex
from ragline.protocols import KeywordIndex
from ragline.testing.keywords import KeywordIndexContract
from tests.engines.elasticsearch import Elasticsearch


def opened(url: str) -> ElasticsearchKeywordIndex:
    options = options_of(url, "keywords")
    return ElasticsearchKeywordIndex(ElasticsearchServer(options.server), options)


class TestContract(KeywordIndexContract):
    @pytest.fixture
    def connect(self, elasticsearch: Elasticsearch) -> Callable[[], KeywordIndex]:
        url = elasticsearch.url()
        return lambda: opened(url)
