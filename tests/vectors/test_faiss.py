"""The embedded vector store: the contract, and what a crash leaves."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from ragline.errors import EngineRejected, EngineUnavailable
from ragline.protocols import VectorStore
from ragline.testing.corpus import DIM, embedding, embeddings, record
from ragline.testing.vectors import VectorStoreContract
from ragline.types import Scope
from ragline.vectors import faiss_index
from ragline.vectors.faiss import FaissVectorStore
from ragline.vectors.faiss_index import Half, IvfIndex
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
from ragline.vectors import faiss_index
from ragline.vectors.faiss import FaissVectorStore

faiss_index.FLAT_BELOW = FROM_HERE_A_SKETCH

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


@pytest.mark.parametrize("sketch_from", [20_000, 20])
async def test_what_was_acknowledged_survives_sigkill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sketch_from: int
) -> None:
    """Without a sketch, and with one that is learnt, kept and read again all the time."""
    monkeypatch.setattr(faiss_index, "FLAT_BELOW", sketch_from)
    writer = WRITER.replace("FROM_HERE_A_SKETCH", str(sketch_from))
    chance = random.Random(13)
    held: set[int] = set()
    gone: set[int] = set()
    for start in range(100_000, 600_000, 100_000):
        acknowledged = killed_after(chance.randint(1, 12), writer, tmp_path, start)
        held |= {number for number in acknowledged if number > 0}
        gone |= {-number for number in acknowledged if number < 0}
        store = FaissVectorStore(tmp_path)
        try:
            books = await store.contents("c")
            for number in held - gone:
                deleting = number == max(held) and number % 3 == 2  # killed between the delete and its word
                assert books.get((f"d{number}", 1), 3 if deleting else 0) == 3
            gone |= {number for number in held if (f"d{number}", 1) not in books}  # and must stay so
            assert set(books.values()) <= {3}
            assert not any((f"d{number}", 1) in books for number in gone)
            (number,) = chance.sample(sorted(n for n in held if n % 3 != 2), 1)
            hits = await store.search("c", embedding(f"common word{number}"), top_k=3, scope=EVERYBODY)
            assert {hit.chunk.document for hit in hits} == {f"d{number}"}
            rows = [record(f"after{start}", "common", ordinal=n) for n in range(3)]
            await store.upsert("c", rows, embeddings(rows))
        finally:
            await store.aclose()


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> Half:
    """5,000 random vectors of unit length; a sketch is learnt from 200 on."""
    monkeypatch.setattr(faiss_index, "FLAT_BELOW", 200)
    vectors = np.random.default_rng(0).normal(size=(5_000, 32))
    halves: Half = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    return halves


def _index(half: Half, kept: Path, count: int = 0) -> IvfIndex:
    return IvfIndex([(np.arange(1, count + 1), half[:count])] if count else [], half.shape[1], kept)


def _add(index: IvfIndex, half: Half, start: int, end: int) -> None:
    index.replace([], list(range(start + 1, end + 1)), half[start:end])
    index.tend()


def _learnt(index: IvfIndex) -> bool:
    return index._sketch is not None and index._sketch.nlist > 1


def _best(index: IvfIndex, half: Half, asked: Iterable[int]) -> list[int]:
    return [index.nearest(half[n].astype(np.float32), 1)[0][0] for n in asked]


def test_the_sketch_is_learnt_anew_when_the_collection_has_outgrown_it(half: Half, tmp_path: Path) -> None:
    index = _index(half, tmp_path / "sketch.npz", 100)
    assert not _learnt(index)
    for start in range(100, len(half), 100):
        _add(index, half, start, start + 100)
    index.replace(list(range(1, 51)), [], half[:0])
    assert len(index) == 4_950
    assert _learnt(index)
    asked = range(50, 5_000, 99)
    assert _best(index, half, asked) == [n + 1 for n in asked]
    assert not {key for key, _ in index.nearest(half[7].astype(np.float32), 1_000)} & set(range(1, 51))
    few = list(range(61, 4_000, 400))
    asked_for = half[0].astype(np.float32)
    exact = sorted(few, key=lambda key: -float(half[key - 1].astype(np.float32) @ asked_for))
    assert [key for key, _ in index.nearest_of(few, asked_for, 3)] == exact[:3]


def test_what_is_gone_hides_nothing(half: Half, tmp_path: Path) -> None:
    """Neither what comes after it, nor what stands behind a crowd of copies that are gone; it leaves the sketch in time."""
    index = _index(half, tmp_path / "sketch.npz")
    _add(index, half, 0, 2_000)
    copies = np.repeat(half[:1], 400, axis=0)
    index.replace([], list(range(10_001, 10_401)), copies)
    index.replace(list(range(10_001, 10_401)), [], half[:0])
    assert index.nearest(half[0].astype(np.float32), 20)[0][0] == 1
    assert len(index.nearest(half[0].astype(np.float32), 20)) == 20
    _add(index, half, 2_000, 3_000)
    assert _best(index, half, range(0, 3_000, 29)) == [n + 1 for n in range(0, 3_000, 29)]
    index.replace(list(range(1, 501)), [], half[:0])
    index.tend()
    assert index._sketch.ntotal == len(index) == 2_500
    assert _best(index, half, range(500, 3_000, 29)) == [n + 1 for n in range(500, 3_000, 29)]


def test_what_was_learnt_serves_the_next_start(half: Half, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when vectors have come and gone since it was kept: nothing is learnt, everything is found."""
    kept = tmp_path / "sketch.npz"
    _add(_index(half, kept), half, 0, 4_000)
    assert [path.name for path in tmp_path.iterdir()] == ["sketch.npz"]
    monkeypatch.setattr(IvfIndex, "_learn", lambda index: pytest.fail("learnt again"))
    alive = np.concatenate([np.arange(101, 4_001), np.arange(4_501, 5_001)])
    index = IvfIndex([(alive, half[alive - 1])], half.shape[1], kept)
    index.tend()
    asked = [int(key) - 1 for key in alive[::45]]
    assert _best(index, half, asked) == [n + 1 for n in asked]
    assert {key for key, _ in index.nearest(half[0].astype(np.float32), 5_000)} <= set(alive.tolist())


@pytest.mark.parametrize("damage", [b"", b"no sketch", None])
def test_a_damaged_sketch_is_learnt_anew(half: Half, tmp_path: Path, damage: bytes | None) -> None:
    kept = tmp_path / "sketch.npz"
    _add(_index(half, kept), half, 0, 1_000)
    whole = kept.read_bytes()
    middle = len(whole) // 2
    kept.write_bytes(whole[:middle] + b"damage" + whole[middle + 6 :] if damage is None else damage)
    index = _index(half, kept, 1_000)
    assert not _learnt(index)
    index.tend()
    assert _learnt(index)
    assert _best(index, half, range(0, 1_000, 50)) == [n + 1 for n in range(0, 1_000, 50)]


def test_a_collection_that_is_emptied_lets_go_of_its_sketch(half: Half, tmp_path: Path) -> None:
    kept = tmp_path / "sketch.npz"
    index = _index(half, kept)
    _add(index, half, 0, 1_000)
    assert kept.exists()
    index.replace(list(range(51, 1_001)), [], half[:0])
    index.tend()
    assert not _learnt(index)
    assert not kept.exists()
    assert _best(index, half, range(50)) == list(range(1, 51))
    _add(index, half, 1_000, 2_000)
    assert _learnt(index)


def test_a_disk_that_takes_no_sketch_costs_nothing_else(
    half: Half, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    index = _index(half, tmp_path / "sketch.npz")
    monkeypatch.setattr(np, "savez", full)
    _add(index, half, 0, 1_000)
    assert list(tmp_path.iterdir()) == []
    assert _best(index, half, range(0, 1_000, 50)) == [n + 1 for n in range(0, 1_000, 50)]
    monkeypatch.undo()
    index.keep()
    assert [path.name for path in tmp_path.iterdir()] == ["sketch.npz"]


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
