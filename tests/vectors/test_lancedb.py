"""LanceDB: the contract, its index, and what goes wrong with a folder."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest
from lancedb.query import AsyncVectorQuery

from ragline.build import build
from ragline.errors import ConfigurationError, EngineError, EngineRejected, EngineTimeout, EngineUnavailable
from ragline.protocols import VectorStore
from ragline.settings import Settings
from ragline.testing.corpus import DIM, FIELDS, chunk_ids, embedding, embeddings, record
from ragline.testing.vectors import VectorStoreContract
from ragline.types import AnyOf, Between, Scope
from ragline.vectors import lancedb as adapter
from ragline.vectors.lancedb import LanceDBVectorStore, failure
from tests.house import House
from tests.killing import killed_after

EVERYBODY = Scope()


class TestContract(VectorStoreContract):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Callable[[], VectorStore]:
        return lambda: LanceDBVectorStore(f"lancedb:{tmp_path}/vectors")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LanceDBVectorStore]:
    store = LanceDBVectorStore(f"lancedb:{tmp_path}")
    await store.create("c", dim=DIM, fields=FIELDS)
    yield store
    await store.aclose()


async def _works(store: LanceDBVectorStore, word: str) -> None:
    await store.upsert("c", [record(word, word)], embeddings([record(word, word)]))
    assert [hit.chunk.text for hit in await store.search("c", embedding(word), top_k=1, scope=EVERYBODY)] == [word]


# ── the folder, and the words of the URL ─────────────────────────────────────────────────────────────────────────────


def test_a_folder_here_or_from_the_root() -> None:
    assert LanceDBVectorStore("lancedb:vectors/of%20mine")._folder == Path("vectors/of mine")
    assert LanceDBVectorStore("lancedb:///srv/vectors?index_from=7")._folder == Path("/srv/vectors")


@pytest.mark.parametrize(
    "url", ["lancedb://host/folder", "lancedb:", "lancedb:x?colour=red", "lancedb:x?index_from=-1"]
)
def test_what_nobody_knows_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        LanceDBVectorStore(url)
    assert refused.value.next_step


# ── the index ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def many() -> np.ndarray:
    """3,000 vectors around 60 centres."""
    chance = np.random.default_rng(5)
    vectors = chance.standard_normal((60, DIM))[np.arange(3_000) % 60] + 0.6 * chance.standard_normal((3_000, DIM))
    unit: np.ndarray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


async def test_a_large_collection_is_searched_through_an_index(
    tmp_path: Path, many: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "RARE", 100)
    store = LanceDBVectorStore(f"lancedb:{tmp_path}?index_from=1000")
    await store.create("c", dim=DIM, fields=FIELDS)
    rows = [record(f"d{n}", "common", fields={"year": n}, groups={"few"} if n % 100 == 0 else ()) for n in range(3_000)]
    await store.upsert("c", rows[:2_000], many[:2_000])
    await store.tend("c")
    assert store._shelves["c"].indexed
    await store.upsert("c", rows[2_000:], many[2_000:])  # not in the index yet
    found = 0
    for at in range(0, 3_000, 60):
        best = np.argsort(-(many @ many[at]), kind="stable")[:10]
        hits = await store.search("c", many[at], top_k=10, scope=Scope(frozenset({"few"})))
        found += len({rows[n].chunk.id for n in best} & set(chunk_ids(hits)))
    assert found >= 0.97 * 500
    assert [hit.score for hit in hits] == pytest.approx(sorted(many @ many[2_940], reverse=True)[:10], abs=1e-5)
    whole, bypass = list[object](), AsyncVectorQuery.bypass_vector_index

    def told(query: AsyncVectorQuery) -> AsyncVectorQuery:
        whole.append(query)
        return bypass(query)

    monkeypatch.setattr(AsyncVectorQuery, "bypass_vector_index", told)
    await store.search("c", many[0], top_k=50, scope=EVERYBODY)
    assert not whole
    scope = Scope(frozenset({"few"}), (Between("year", 500, 2_600), AnyOf("year", tuple(range(0, 3_000, 100)))))
    assert len(await store.search("c", many[0], top_k=50, scope=scope)) == 22
    assert whole, "a rare scope is compared whole"
    again = LanceDBVectorStore(f"lancedb:{tmp_path}")
    await again.search("c", many[0], top_k=1, scope=EVERYBODY)
    assert again._shelves["c"].indexed
    await store.aclose()
    await again.aclose()


async def test_writes_and_searches_go_on_while_the_index_is_made(tmp_path: Path, many: np.ndarray) -> None:
    store = LanceDBVectorStore(f"lancedb:{tmp_path}?index_from=1000")
    await store.create("c", dim=DIM, fields={})
    rows = [record(f"d{n}", "common") for n in range(3_000)]
    await store.upsert("c", rows[:2_000], many[:2_000])
    tending = asyncio.create_task(store.tend("c"))
    for at in range(2_000, 3_000, 100):
        await store.upsert("c", rows[at : at + 100], many[at : at + 100])
        assert (await store.search("c", many[at], top_k=1, scope=EVERYBODY))[0].chunk.document == f"d{at}"
    await tending
    assert store._shelves["c"].indexed
    assert sum((await store.contents("c")).values()) == 3_000
    await store.aclose()


async def test_small_writes_are_merged_while_searches_go_on(
    tmp_path: Path, store: LanceDBVectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "TEND_EVERY", 10)
    monkeypatch.setattr(adapter, "KEPT_S", 0.01)
    for n in range(40):
        await store.upsert("c", [record(f"d{n}", f"word{n}")], embeddings([record(f"d{n}", f"word{n}")]))
        assert len(await store.search("c", embedding("x"), top_k=100, scope=EVERYBODY)) == n + 1
    await asyncio.gather(*store._tending.values())
    await store.tend("c")
    assert len(list((tmp_path / "c.lance" / "data").iterdir())) < 20  # of 40 and what they were merged into


# ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────────


WRITER = """
import asyncio, sys
from ragline.testing.corpus import DIM, embeddings, record
from ragline.vectors import lancedb as adapter

adapter.TEND_EVERY, adapter.KEPT_S = 3, 0.01

async def main(folder, start):
    store = adapter.LanceDBVectorStore(f"lancedb:{folder}?index_from=20")
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
    """Killed anywhere, also while it merges and learns."""
    chance, held, gone = random.Random(13), set[int](), set[int]()
    for start in range(100_000, 600_000, 100_000):
        acknowledged = killed_after(chance.randint(1, 12), WRITER, tmp_path, start)
        held |= {number for number in acknowledged if number > 0}
        gone |= {-number for number in acknowledged if number < 0}
        store = LanceDBVectorStore(f"lancedb:{tmp_path}")
        books = await store.contents("c")
        for number in held - gone:
            deleting = number == max(held) and number % 3 == 2  # killed between the delete and its word
            assert books.get((f"d{number}", 1), 3 if deleting else 0) == 3
        gone |= {number for number in held if (f"d{number}", 1) not in books}
        assert set(books.values()) <= {3}
        assert not any((f"d{number}", 1) in books for number in gone)
        (number,) = chance.sample(sorted(n for n in held if n % 3 != 2), 1)
        hits = await store.search("c", embedding(f"common word{number}"), top_k=3, scope=EVERYBODY)
        assert {hit.chunk.document for hit in hits} == {f"d{number}"}
        await store.aclose()


async def test_a_collection_dropped_under_us(tmp_path: Path, store: LanceDBVectorStore) -> None:
    other = LanceDBVectorStore(f"lancedb:{tmp_path}")
    await other.drop("c")
    await other.aclose()
    for call in (
        store.search("c", embedding("x"), top_k=1, scope=EVERYBODY),
        store.upsert("c", [record("a", "x")], embeddings([record("a", "x")])),
    ):
        with pytest.raises(EngineRejected, match="no vector collection c") as gone:
            await call
        assert "reindex" in gone.value.next_step
    await store.create("c", dim=DIM, fields=FIELDS)
    await _works(store, "after")


async def test_a_collection_made_anew_by_another_process(tmp_path: Path, store: LanceDBVectorStore) -> None:
    await _works(store, "before")
    other = LanceDBVectorStore(f"lancedb:{tmp_path}")
    await other.drop("c")
    await other.create("c", dim=DIM + 1, fields={})
    await other.aclose()
    with pytest.raises(EngineRejected, match=f"{DIM + 1} dimensions, not {DIM}"):
        await store.create("c", dim=DIM, fields=FIELDS)
    await store.create("c", dim=DIM + 1, fields={})
    await store.upsert("c", [record("a", "x")], np.ones((1, DIM + 1), np.float32))


async def test_a_damaged_file_is_told_with_what_mends_it(tmp_path: Path, store: LanceDBVectorStore) -> None:
    await _works(store, "before")
    (data,) = (tmp_path / "c.lance" / "data").iterdir()
    data.write_bytes(data.read_bytes()[:100])
    again = LanceDBVectorStore(f"lancedb:{tmp_path}")
    with pytest.raises(EngineRejected, match="c is damaged") as torn:
        await again.search("c", embedding("x"), top_k=1, scope=EVERYBODY)
    assert "reindex" in torn.value.next_step
    data.unlink()
    with pytest.raises(EngineRejected, match="c is damaged"):
        await again.search("c", embedding("x"), top_k=1, scope=EVERYBODY)
    await again.drop("c")
    assert await again.collections() == []
    await again.aclose()


async def test_the_folder_gone_under_us(tmp_path: Path) -> None:
    store = LanceDBVectorStore(f"lancedb:{tmp_path}/vectors")
    await store.create("c", dim=DIM, fields={})
    shutil.rmtree(tmp_path / "vectors")
    with pytest.raises(EngineRejected, match="no vector collection"):
        await store.upsert("c", [record("a", "x")], embeddings([record("a", "x")]))
    await store.create("c", dim=DIM, fields={})
    await _works(store, "after")
    await store.aclose()


async def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "vectors").write_text("no folder")
    store = LanceDBVectorStore(f"lancedb:{tmp_path}/vectors")
    with pytest.raises(EngineUnavailable, match="folder cannot be used"):
        await store.create("c", dim=DIM, fields={})
    await store.aclose()


async def test_a_collection_that_was_left_half_made_is_made(tmp_path: Path) -> None:
    """Its folder alone: another process was killed there, or is about to fill it."""
    (tmp_path / "c.lance").mkdir()
    store = LanceDBVectorStore(f"lancedb:{tmp_path}")
    assert await store.collections() == ["c"]
    await store.create("c", dim=DIM, fields=FIELDS)
    rows = [record("a", "x")]
    await store.upsert("c", rows, embeddings(rows))
    assert await store.contents("c") == {("a", 1): 1}
    await store.aclose()


async def test_two_processes_write_to_one_collection(tmp_path: Path) -> None:
    """Each write of each is there, or was refused as one that may be tried again."""
    stores = [LanceDBVectorStore(f"lancedb:{tmp_path}") for _ in range(3)]
    await asyncio.gather(*(store.create("c", dim=DIM, fields={}) for store in stores))

    async def write(number: int) -> None:
        for n in range(8):
            rows = [record(f"w{number}-{n}", f"word{n}")]
            while True:
                try:
                    await stores[number].upsert("c", rows, embeddings(rows))
                    break
                except EngineUnavailable:
                    continue

    await asyncio.gather(*(write(number) for number in range(3)))
    for store in stores:
        assert await store.contents("c") == {(f"w{number}-{n}", 1): 1 for number in range(3) for n in range(8)}
        await store.aclose()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
async def test_a_vector_that_is_no_number_is_refused(store: LanceDBVectorStore, bad: float) -> None:
    rows = [record("a", "x"), record("b", "y")]
    vectors = embeddings(rows)
    vectors[1, 3] = bad
    with pytest.raises(EngineRejected, match="NaN"):
        await store.upsert("c", rows, vectors)
    assert await store.contents("c") == {}


async def test_a_vector_of_another_length_is_refused(store: LanceDBVectorStore) -> None:
    with pytest.raises(EngineRejected, match="shape"):
        await store.upsert("c", [record("a", "x")], np.ones((1, DIM + 1), np.float32))
    with pytest.raises(EngineRejected, match="shape"):
        await store.search("c", np.ones(DIM + 1, np.float32), top_k=1, scope=EVERYBODY)


async def test_more_values_than_are_compared_are_refused(store: LanceDBVectorStore) -> None:
    nine, eight = (record("a", "x", fields={"year": tuple(range(count))}) for count in (9, 8))
    with pytest.raises(EngineRejected, match="'year' has 9 values"):
        await store.upsert("c", [nine], embeddings([nine]))
    await store.upsert("c", [eight], embeddings([eight]))
    assert await store.search("c", embedding("x"), top_k=1, scope=Scope(conditions=(Between("year", 7, 7),)))


@pytest.mark.parametrize("text", ["') OR true --", "a'b''c", "\\'", "*", "group:x", "a\0b"])
async def test_no_text_becomes_a_part_of_the_query(store: LanceDBVectorStore, text: str) -> None:
    hidden, shown = record("h", "x", groups={"staff"}), record("s", "x", groups={text}, fields={"kind": text})
    await store.upsert("c", [hidden, shown], embeddings([hidden, shown]))
    for scope in (Scope(frozenset({text})), Scope(frozenset({text}), (AnyOf("kind", (text,)),))):
        assert [hit.chunk.document for hit in await store.search("c", embedding("x"), top_k=5, scope=scope)] == ["s"]
    await store.update_payload("c", text, title="New", groups=frozenset(), fields={})
    await store.delete("c", {text: 99})
    assert await store.contents("c") == {("h", 1): 1, ("s", 1): 1}


async def test_cancelled_calls_leave_a_sound_store(store: LanceDBVectorStore) -> None:
    searches = [asyncio.create_task(store.search("c", embedding("x"), top_k=1, scope=EVERYBODY)) for _ in range(20)]
    await asyncio.sleep(0)
    for search in searches:
        search.cancel()
    await asyncio.gather(*searches, return_exceptions=True)
    await _works(store, "after")


async def test_a_name_that_no_table_can_have(store: LanceDBVectorStore) -> None:
    with pytest.raises(EngineRejected, match="cannot be the name"):
        await store.create("../escaped", dim=DIM, fields={})


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (RuntimeError("Connection is closed"), EngineUnavailable, "closed"),
        (RuntimeError("lance error: Retryable commit conflict for version 7"), EngineUnavailable, "same time"),
        (RuntimeError("lance error: Too many concurrent writers"), EngineUnavailable, "same time"),
        (OSError("LanceError(IO): No space left on device (os error 28)"), EngineUnavailable, "disk is full"),
        (OSError("Permission denied (os error 13)"), EngineUnavailable, "read or written"),
        (RuntimeError("operation timed out"), EngineTimeout, "in time"),
        (ValueError("Table 'c' was not found"), EngineRejected, "no vector collection c"),
        (RuntimeError("lance error: Not found: tmp/c.lance/_versions"), EngineRejected, "no vector collection c"),
        (RuntimeError("lance error: Not found: tmp/c.lance/data/1.lance"), EngineRejected, "damaged"),
        (ValueError("Invalid input, Schema error: No field named x"), EngineRejected, "defect"),
        (RuntimeError("something new"), EngineError, "RuntimeError"),
    ],
)
def test_the_error_table(error: Exception, kind: type[EngineError], words: str) -> None:
    told = failure(error, "c")
    assert type(told) is kind
    assert words in f"{told.message} {told.next_step}"


# ── the whole ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_documents_come_change_and_go(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, vectors=f"lancedb:{tmp_path}/lance")
    system = await build(settings)
    house = House(system)
    otter = await house.accept("otter.txt", "Otters swim in cold rivers.")
    await house.accept("badger.txt", "Badgers dig deep setts.", groups=frozenset({"staff"}))
    await house.work()
    assert await house.found("who swims") == ["Otters swim in cold rivers."]
    await system.aclose()

    system = await build(settings)
    house = House(system)
    await house.accept("otter.txt", "Otters sleep on their backs.")
    await house.accept("badger.txt", "Badgers dig deep setts.")
    await house.work()
    assert sorted(await house.found("who digs")) == ["Badgers dig deep setts.", "Otters sleep on their backs."]
    await house.held()  # both stores agree
    await system.epochs.begin("default")
    await system.epochs.fill("default")
    await system.documents.delete("default", otter.id)
    await house.work()
    assert await house.found("who sleeps") == ["Badgers dig deep setts."]
    assert (await system.audit.look()).findings == []
    await system.aclose()
