"""The contract of `VectorStore`, as tests.

class TestMine(VectorStoreContract):
    @pytest.fixture
    def connect(self, tmp_path):
        return lambda: MyVectorStore(tmp_path)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from ragline.errors import EngineRejected
from ragline.protocols import VectorStore
from ragline.testing.corpus import DIM, FIELDS, chunk_ids, embedding, embeddings, record
from ragline.testing.stores import EVERYBODY, StoreContract
from ragline.types import Between, Hit, Record, Scope


@pytest.mark.asyncio
class VectorStoreContract(StoreContract[VectorStore]):
    async def create(self, engine: VectorStore, collection: str) -> None:
        await engine.create(collection, dim=DIM, fields=FIELDS)

    async def upsert(self, engine: VectorStore, collection: str, records: Sequence[Record]) -> None:
        await engine.upsert(collection, records, embeddings(records))

    async def search(
        self, engine: VectorStore, collection: str, text: str, *, top_k: int = 10, scope: Scope = EVERYBODY
    ) -> list[Hit]:
        return await engine.search(collection, embedding(text), top_k=top_k, scope=scope)

    async def test_another_dimension_is_refused(self, engine: VectorStore, collection: str) -> None:
        await self.upsert(engine, collection, [record("a", "common")])
        with pytest.raises(EngineRejected):
            await engine.create(collection, dim=DIM + 1, fields=FIELDS)
        assert len(await self.search(engine, collection, "common")) == 1

    async def test_the_score_is_the_cosine(self, engine: VectorStore, collection: str) -> None:
        rows = [record("a", "one two three"), record("b", "one two four"), record("c", "five six")]
        await self.upsert(engine, collection, rows)
        expected = {one.chunk.id: float(embedding(one.chunk.text) @ embedding("one two")) for one in rows}
        for hit in await self.search(engine, collection, "one two"):
            assert hit.scale == "cosine"
            assert hit.score == pytest.approx(expected[hit.chunk.id], abs=1e-3)

    async def test_the_scale_ends_at_one_and_minus_one(self, engine: VectorStore, collection: str) -> None:
        rows = [record("same", "x"), record("opposite", "y")]
        await engine.upsert(collection, rows, np.stack([embedding("x"), -embedding("x")]))
        same, opposite = await self.search(engine, collection, "x")
        assert (same.chunk.document, opposite.chunk.document) == ("same", "opposite")
        assert same.score == pytest.approx(1, abs=1e-3)
        assert opposite.score == pytest.approx(-1, abs=1e-3)
        assert opposite.score >= -1
        assert same.score <= 1

    async def test_a_new_payload_keeps_the_vectors(self, engine: VectorStore, collection: str) -> None:
        await self.upsert(engine, collection, [record("a", f"common word{n}", ordinal=n) for n in range(30)])
        before = [(hit.chunk.id, hit.score) for hit in await self.search(engine, collection, "word7", top_k=30)]
        await engine.update_payload(collection, "a", title="New", groups=frozenset(), fields={"year": 1})
        after = [(hit.chunk.id, hit.score) for hit in await self.search(engine, collection, "word7", top_k=30)]
        assert dict(after) == pytest.approx(dict(before), abs=1e-6)

    async def test_nothing_to_upsert(self, engine: VectorStore, collection: str) -> None:
        await engine.upsert(collection, [], np.zeros((0, DIM), np.float32))
        assert await engine.contents(collection) == {}

    @pytest.mark.parametrize("selectivity", [1.0, 0.3, 0.02])
    async def test_the_nearest_are_found(self, engine: VectorStore, collection: str, selectivity: float) -> None:
        """Recall@10 against brute force, for scopes that hold all, some and few of 5,000 chunks."""
        chance = np.random.default_rng(7)
        centres = chance.standard_normal((50, DIM))
        vectors = (centres[np.arange(5_000) % 50] + 0.6 * chance.standard_normal((5_000, DIM))).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        years = chance.permutation(5_000)
        rows = [record(f"d{n}", "common", fields={"year": int(years[n])}) for n in range(5_000)]
        for at in range(0, 5_000, 1_000):
            await engine.upsert(collection, rows[at : at + 1_000], vectors[at : at + 1_000])
        inside = years < selectivity * 5_000
        scope = Scope(conditions=(Between("year", None, selectivity * 5_000 - 1),) if selectivity < 1 else ())
        found = 0
        for vector in vectors[:: 5_000 // 25]:
            best = np.argsort(np.where(inside, -(vectors @ vector), 9.0), kind="stable")[:10]
            hits = await engine.search(collection, vector, top_k=10, scope=scope)
            found += len({rows[row].chunk.id for row in best} & set(chunk_ids(hits)))
        assert found >= 0.99 * 250
