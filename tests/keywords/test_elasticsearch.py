"""The keyword index on a real Elasticsearch: the contract, and analyzers per language."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ragline.connections.elasticsearch import ElasticsearchServer
from ragline.connections.elasticsearch_url import LANGUAGES, options_of
from ragline.errors import EngineRejected
from ragline.keywords.elasticsearch import ElasticsearchKeywordIndex
from ragline.keywords.tantivy import TantivyKeywordIndex
from ragline.protocols import KeywordIndex
from ragline.testing.corpus import record, texts
from ragline.testing.keywords import KeywordIndexContract
from ragline.types import Scope
from tests.engines.elasticsearch import Elasticsearch


def opened(url: str) -> ElasticsearchKeywordIndex:
    options = options_of(url, "keywords")
    return ElasticsearchKeywordIndex(ElasticsearchServer(options.server), options)


class TestContract(KeywordIndexContract):
    @pytest.fixture
    def connect(self, elasticsearch: Elasticsearch) -> Callable[[], KeywordIndex]:
        url = elasticsearch.url()
        return lambda: opened(url)


@pytest.mark.parametrize(
    ("language", "text", "query", "other"),
    [
        ("german", "Die Häuser am Fluss", "Haus", "und"),
        ("english", "Running foxes", "fox run", "the"),
        ("french", "Les chevaux blancs", "cheval", "les"),
        ("cjk", "猫は東京に住んでいる。", "東京", "大阪"),
        ("russian", "красивые столицы", "столица", "и"),
    ],
)
async def test_a_language_has_its_own_stems_and_stop_words(
    elasticsearch: Elasticsearch, language: str, text: str, query: str, other: str
) -> None:
    index = opened(elasticsearch.url(language=language))
    await index.create("c", fields={})
    await index.upsert("c", [record("a", text, title=""), record("b", "zzz", title="")])
    assert texts(await index.search("c", query, top_k=9, scope=Scope())) == [text]
    assert await index.search("c", other, top_k=9, scope=Scope()) == []
    await index.drop("c")
    await index.aclose()


async def test_every_language_that_is_offered_is_known_to_the_cluster(elasticsearch: Elasticsearch) -> None:
    for language in LANGUAGES:
        index = opened(elasticsearch.url(language=language))
        try:
            await index.create("c", fields={})
        except EngineRejected:
            assert language == "thai", "whose words the small Java of the tests cannot tell apart"
        else:
            await index.upsert("c", [record("a", "Ragline 42", title="")])
            assert texts(await index.search("c", "42", top_k=9, scope=Scope())) == ["Ragline 42"], language
            await index.drop("c")
        await index.aclose()


async def test_any_makes_the_words_that_the_embedded_index_makes(elasticsearch: Elasticsearch, tmp_path: Path) -> None:
    """The same hits in the same order on both, for words of several scripts, stems, accents and punctuation."""
    said = [
        "The runner's café, No. 42: it-is_open (daily)!", "Runners run the cafes of Größe 42", "猫は東京に住んでいる。",
        "東京の猫", "서울에서 만나요", "नमस्ते दुनिया", "مدينة القاهرة", "E1234 e-1234 E_1234",
    ]  # fmt: skip
    records = [record(f"d{n}", text, title="") for n, text in enumerate(said)]
    ours, embedded = opened(elasticsearch.url()), TantivyKeywordIndex(tmp_path)
    rooms: tuple[KeywordIndex, KeywordIndex] = (ours, embedded)
    for index in rooms:
        await index.create("c", fields={})
        await index.upsert("c", records)
    for query in [*said, "run", "café", "grösse", "東", "京の", "만나", "1234", "is open", "القاهره"]:
        found = [
            {hit.chunk.document for hit in await index.search("c", query, top_k=9, scope=Scope())} for index in rooms
        ]
        assert found[0] == found[1], query
    await ours.drop("c")
    await ours.aclose()
    await embedded.aclose()
