"""The watch over the vector index: measured beside the search, on the stores that can search exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ragline import metrics
from ragline.protocols import ScanningVectorStore
from ragline.recall import RecallWatch, recall
from ragline.testing.corpus import DIM, embedding, embeddings, record
from ragline.types import Hit, Scope
from ragline.vectors import faiss_index
from ragline.vectors.faiss import FaissVectorStore

ROWS = [record(f"d{n}", f"word{n % 7} other{n}") for n in range(400)]
EVERYBODY = Scope()


def _measured() -> tuple[float, float]:
    read = metrics.REGISTRY.get_sample_value
    return read("ann_recall_count") or 0.0, read("ann_recall_sum") or 0.0


@pytest.fixture
async def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FaissVectorStore:
    monkeypatch.setattr(faiss_index, "FLAT_BELOW", 100)
    store = FaissVectorStore(tmp_path / "vectors")
    await store.create("c", dim=DIM, fields={})
    await store.upsert("c", ROWS, embeddings(ROWS))
    return store


async def test_an_exact_search_finds_what_the_best_of_all_vectors_are(store: FaissVectorStore) -> None:
    assert isinstance(store, ScanningVectorStore)
    vector = embedding("word3 other10")
    scores = sorted((float(one @ vector) for one in embeddings(ROWS)), reverse=True)[:10]
    found = await store.search_exactly("c", vector, top_k=10, scope=EVERYBODY)
    assert [hit.score for hit in found] == pytest.approx(scores, abs=1e-3)
    await store.aclose()


async def test_a_search_that_misses_is_seen_and_one_that_does_not_is_whole(store: FaissVectorStore) -> None:
    watch = RecallWatch(store, share=1.0)
    vector = embedding("word3 other10")
    exact = await store.search_exactly("c", vector, top_k=10, scope=EVERYBODY)
    count, total = _measured()
    watch.consider("c", vector, exact, top_k=10, scope=EVERYBODY)
    await watch.done()
    assert _measured() == (count + 1, total + 1.0)
    watch.consider("c", vector, exact[:6], top_k=10, scope=EVERYBODY)
    await watch.done()
    assert _measured()[1] - total == pytest.approx(1.0 + recall(exact[:6], exact))
    await watch.aclose()
    await store.aclose()


async def test_only_the_share_is_measured_and_only_where_it_can_be(store: FaissVectorStore) -> None:
    vector, before = embedding("word3"), _measured()
    for watch in (
        RecallWatch(store, share=0.001, draw=lambda: 0.001), RecallWatch(object(), share=1.0),  # type: ignore[arg-type]
    ):  # fmt: skip
        watch.consider("c", vector, [], top_k=10, scope=EVERYBODY)
        await watch.done()
    assert _measured() == before
    await store.aclose()


def test_what_is_as_near_counts_as_found(make_hits: Sequence[list[Hit]]) -> None:
    found, exact = make_hits
    assert recall(found, exact) == pytest.approx(2 / 3)
    assert recall(exact, exact) == 1.0


@pytest.fixture
async def make_hits(store: FaissVectorStore) -> Sequence[list[Hit]]:
    """Of three that are nearest, the index found the first, one as near as the third, and one that is not."""
    from dataclasses import replace

    some = await store.search_exactly("c", embedding("word3"), top_k=5, scope=EVERYBODY)
    await store.aclose()
    scored = [replace(hit, score=score) for hit, score in zip(some, (0.9, 0.8, 0.7, 0.7, 0.1), strict=True)]
    return [scored[0], scored[3], scored[4]], scored[:3]
