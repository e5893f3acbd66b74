"""The embedded vector store: the contract, and what a crash leaves."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ragline.errors import EngineRejected, EngineUnavailable
from ragline.protocols import VectorStore
from ragline.testing.corpus import DIM, embedding, embeddings, record
from ragline.testing.vectors import VectorStoreContract
from ragline.types import Scope
from ragline.vectors import faiss_index
from ragline.vectors.faiss import FaissVectorStore
from tests.killing import killed_after

EVERYBODY = Scope()


class TestContract(VectorStoreContract):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Callable[[], VectorStore]:
        return lambda: FaissVectorStore(tmp_path / "vectors")


WRITER = """
import asyncio, sys
from pathlib import Path
from ragline.testing.corpus import DIM, embeddings, record
from ragline.vectors.faiss import FaissVectorStore

async def main(folder, start):
    store = FaissVectorStore(Path(folder))
    await store.create("c", dim=DIM, fields={})
    for number in range(start, start + 10_000):
        rows = [record(f"d{number}", f"common word{number}", ordinal=n) for n in range(3)]
        await store.upsert("c", rows, embeddings(rows))
        print(number, flush=True)
        if number % 3 == 2:
            await store.delete("c", {f"d{number}": 2})
            print(-number, flush=True)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def test_what_was_acknowledged_survives_sigkill(tmp_path: Path) -> None:
    chance = random.Random(13)
    held: set[int] = set()
    gone: set[int] = set()
    for start in range(100_000, 600_000, 100_000):
        acknowledged = killed_after(chance.randint(1, 12), WRITER, tmp_path, start)
        held |= {number for number in acknowledged if number > 0}
        gone |= {-number for number in acknowledged if number < 0}
        store = FaissVectorStore(tmp_path)
        try:
            books = await store.contents("c")
            for number in held - gone:
                deleting = number == max(held) and number % 3 == 2  # killed between the delete and its word
                assert books.get((f"d{number}", 1), 3 if deleting else 0) == 3
            assert set(books.values()) <= {3}
            assert not any((f"d{number}", 1) in books for number in gone)
            (number,) = chance.sample(sorted(n for n in held if n % 3 != 2), 1)
            hits = await store.search("c", embedding(f"common word{number}"), top_k=3, scope=EVERYBODY)
            assert {hit.chunk.document for hit in hits} == {f"d{number}"}
            rows = [record(f"after{start}", "common", ordinal=n) for n in range(3)]
            await store.upsert("c", rows, embeddings(rows))
        finally:
            await store.aclose()


async def test_the_lists_are_learnt_anew_when_the_collection_has_outgrown_them(monkeypatch: Any) -> None:
    monkeypatch.setattr(faiss_index, "FLAT_BELOW", 200)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(5_000, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    half = vectors.astype(np.float16)
    keys = np.arange(1, len(half) + 1)
    index = faiss_index.IvfIndex(keys[:100], half[:100], 32)
    for start in range(100, len(half), 100):
        index.replace([], keys[start : start + 100].tolist(), half[start : start + 100])
        if index.outgrown():
            index.rebuild(keys[: start + 100], half[: start + 100])
    index.replace(keys[:50].tolist(), [], half[:0])
    assert len(index) == 4_950
    assert index._index.nlist > 1
    asked = range(50, 5_000, 99)
    assert [index.nearest(vectors[n], 1)[0][0] for n in asked] == [n + 1 for n in asked]
    few = [int(key) for key in keys[60:4_000:400]]
    exact = sorted(few, key=lambda key: -float(vectors[key - 1] @ vectors[0]))
    assert [key for key, _ in index.nearest_of(few, vectors[0], 3)] == exact[:3]


async def test_vectors_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    store = FaissVectorStore(tmp_path)
    await store.create("c", dim=DIM, fields={})
    for wrong in (np.full((1, DIM), np.nan, np.float32), np.zeros((1, DIM + 1), np.float32)):
        with pytest.raises(EngineRejected, match=r"[eE]mbed"):
            await store.upsert("c", [record("a", "x")], wrong)
    assert await store.contents("c") == {}
    await store.aclose()


async def test_damaged_rows_are_reported_with_the_way_to_mend_them(tmp_path: Path) -> None:
    store = FaissVectorStore(tmp_path)
    await store.create("c", dim=DIM, fields={})
    await store.aclose()
    (tmp_path / "c" / "rows.db").write_bytes(b"no database " * 1000)
    store = FaissVectorStore(tmp_path)
    with pytest.raises(EngineUnavailable, match="reindex"):
        await store.contents("c")
    await store.aclose()
