"""The contract of `KeywordIndex`, as tests.

class TestMine(KeywordIndexContract):
    @pytest.fixture
    def connect(self, tmp_path):
        return lambda: MyKeywordIndex(tmp_path)
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ragline.protocols import KeywordIndex
from ragline.testing.corpus import FIELDS, record, texts
from ragline.testing.stores import EVERYBODY, StoreContract
from ragline.types import Hit, Record, Scope


@pytest.mark.asyncio
class KeywordIndexContract(StoreContract[KeywordIndex]):
    async def create(self, engine: KeywordIndex, collection: str) -> None:
        await engine.create(collection, fields=FIELDS)

    async def upsert(self, engine: KeywordIndex, collection: str, records: Sequence[Record]) -> None:
        await engine.upsert(collection, records)

    async def search(
        self, engine: KeywordIndex, collection: str, text: str, *, top_k: int = 10, scope: Scope = EVERYBODY
    ) -> list[Hit]:
        return await engine.search(collection, text, top_k=top_k, scope=scope)

    async def test_the_score_is_bm25(self, engine: KeywordIndex, collection: str) -> None:
        """A rare word counts more than a common one, a word in a short text more than in a long one."""
        rows = [record("long", "common rare " + "filler " * 50), record("short", "common rare")]
        await engine.upsert(collection, [*rows, *(record(f"d{n}", "common") for n in range(20))])
        hits = await engine.search(collection, "rare common", top_k=30, scope=EVERYBODY)
        assert [hit.chunk.document for hit in hits[:2]] == ["short", "long"]
        assert all(hit.scale == "bm25" and hit.score > 0 for hit in hits)

    async def test_only_chunks_with_a_word_of_the_query(self, engine: KeywordIndex, collection: str) -> None:
        await engine.upsert(collection, [record("a", "apples"), record("b", "pears")])
        assert texts(await engine.search(collection, "pears or quinces", top_k=9, scope=EVERYBODY)) == ["pears"]
        assert await engine.search(collection, "quinces", top_k=9, scope=EVERYBODY) == []

    async def test_the_search_text_is_searched(self, engine: KeywordIndex, collection: str) -> None:
        """It holds the title as it was embedded; a later change of the title is shown, not searched."""
        await engine.upsert(collection, [record("a", "apples", title="Orchards")])
        await engine.update_payload(collection, "a", title="Gardens", groups=frozenset(), fields={})
        (hit,) = await engine.search(collection, "orchards", top_k=9, scope=EVERYBODY)
        assert (hit.title, hit.chunk.text) == ("Gardens", "apples")
        assert await engine.search(collection, "gardens", top_k=9, scope=EVERYBODY) == []

    @pytest.mark.parametrize("query", ["", " ", "?!", "\u200b", "()", "\N{EM DASH}", "\ud800"])
    async def test_a_query_without_words_finds_nothing(self, engine: KeywordIndex, collection: str, query: str) -> None:
        await engine.upsert(collection, [record("a", "apples")])
        assert await engine.search(collection, query, top_k=9, scope=EVERYBODY) == []

    @pytest.mark.parametrize(
        "query",
        [
            "apples AND", "NOT apples", "-apples", "+apples", "title:apples", "apples^2", "apples~", '"apples', "(apples",
            "apples)", "[apples TO pears", "{apples", "apples*", "/apples/", "apples\\", "apples && ||", "<apples>", "#apples",
            "apples\x00", "'apples'; DROP TABLE", '{"query": "apples"}', "\ud800 apples",
        ],
    )  # fmt: skip
    async def test_operators_are_plain_text(self, engine: KeywordIndex, collection: str, query: str) -> None:
        await engine.upsert(collection, [record("a", "apples", title=""), record("b", "plums", title="")])
        assert texts(await engine.search(collection, query, top_k=9, scope=EVERYBODY)) == ["apples"]

    @pytest.mark.parametrize(
        ("text", "query"),
        [
            ("The Quick FOX", "quick fox"),
            ("Größe der Tür", "größe"),
            ("GRÖSSE", "grösse"),
            ("cafe\u0301", "café"),
            ("猫は東京に住んでいる。", "東京"),
            ("猫は東京に住んでいる。", "猫"),
            ("黑豹队的防守只丢了308分", "防守丢了多少分"),
            ("서울에서 만나요", "서울"),
            ("วันนี้อากาศดีมาก", "อากาศ"),
            ("مدينة القاهرة الكبيرة", "القاهرة"),
            ("столица России", "столица"),
            ("नमस्ते दुनिया", "नमस्ते"),
            ("The Who", "the who"),
            ("to be or not to be", "to be or not to be"),
            ("error E1234 in x-ray_2", "E1234"),
        ],
    )
    async def test_words_are_found_in_any_script(
        self, engine: KeywordIndex, collection: str, text: str, query: str
    ) -> None:
        await engine.upsert(collection, [record("a", text, title=""), record("b", "zzz", title="")])
        assert texts(await engine.search(collection, query, top_k=9, scope=EVERYBODY)) == [text]

    async def test_a_long_query_is_answered(self, engine: KeywordIndex, collection: str) -> None:
        await engine.upsert(collection, [record("a", "needle"), *(record(f"d{n}", "common hay") for n in range(9))])
        query = " ".join(f"hay straw{n}" for n in range(700))[:7_990] + " needle"
        hits = await engine.search(collection, query, top_k=20, scope=EVERYBODY)
        assert (hits[0].chunk.text, len(hits)) == ("needle", 10)
