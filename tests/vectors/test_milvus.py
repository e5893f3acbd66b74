"""Milvus, the real server: the contract, the indexes that a CPU has, and what goes wrong with a server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pymilvus import MilvusClient, MilvusException

from ragline.build import build
from ragline.errors import ConfigurationError, EngineError, EngineRejected, EngineTimeout, EngineUnavailable
from ragline.protocols import VectorStore
from ragline.settings import Settings
from ragline.system import System
from ragline.testing.corpus import DIM, FIELDS, embedding, embeddings, record
from ragline.testing.vectors import VectorStoreContract
from ragline.types import Between, Scope
from ragline.vectors import milvus as adapter
from ragline.vectors import milvus_rows
from ragline.vectors.milvus import INDEXES, MilvusVectorStore
from ragline.vectors.milvus_errors import check_version, failure
from tests.engines.milvus import Milvus
from tests.engines.server import free_port
from tests.house import House

EVERYBODY = Scope()


class TestContract(VectorStoreContract):
    @pytest.fixture
    def connect(self, milvus: Milvus) -> Callable[[], VectorStore]:
        return lambda: MilvusVectorStore(milvus.url)


@pytest.fixture
async def store(milvus: Milvus) -> AsyncIterator[MilvusVectorStore]:
    store = MilvusVectorStore(milvus.url)
    await store.create("c", dim=DIM, fields=FIELDS)
    yield store
    await store.drop("c")
    await store.aclose()


async def _works(store: MilvusVectorStore, word: str) -> None:
    await store.upsert("c", [record(word, word)], embeddings([record(word, word)]))
    assert [hit.chunk.text for hit in await store.search("c", embedding(word), top_k=1, scope=EVERYBODY)] == [word]


@pytest.mark.parametrize("words", ["index=IVF_FLAT&nlist=16", "index=IVF_PQ&nlist=16&m=16", "index=FLAT", "M=8&ef=50"])
async def test_each_index_of_a_cpu(milvus: Milvus, words: str) -> None:
    store = MilvusVectorStore(f"{milvus.url}?{words}")
    await store.create("indexed", dim=DIM, fields={})
    rows = [record(f"d{n}", f"word{n} word{n % 7}") for n in range(300)]
    await store.upsert("indexed", rows, embeddings(rows))
    hits = await store.search("indexed", embedding("word5 word5"), top_k=5, scope=EVERYBODY)
    assert hits[0].chunk.document == "d5"
    told = await (await store._opened()).describe_index("ragline_indexed", "embedding")
    assert told["index_type"] == store._index
    await store.drop("indexed")
    await store.aclose()


def test_the_indexes_of_gpus_are_known() -> None:
    """Not run: there is no server with a GPU here."""
    for name in ("GPU_CAGRA", "GPU_IVF_FLAT", "GPU_IVF_PQ", "GPU_BRUTE_FORCE"):
        assert name in INDEXES
        assert MilvusVectorStore(f"milvus://h?index={name}")._index == name


@pytest.mark.parametrize("words", ["index=ANNOY", "ef=many", "colour=red", "index=FLAT&nprobe=3"])
def test_words_of_the_url_that_nobody_knows(words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        MilvusVectorStore(f"milvus://h?{words}")
    assert refused.value.next_step


async def test_many_fresh_rows_get_their_index_once_no_more_come(
    store: MilvusVectorStore, milvus: Milvus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it ends the segment that grows, the server looks into a part of it."""
    monkeypatch.setattr(adapter, "BUILD_AFTER_ROWS", 30)
    monkeypatch.setattr(adapter, "BUILD_AFTER_S", 0.01)
    client = MilvusClient(uri=milvus.url.replace("milvus:", "http:"), timeout=60.0)
    try:
        for part in range(2):
            rows = [record(f"d{part}", f"w{n}", ordinal=n) for n in range(20)]
            await store.upsert("c", rows, embeddings(rows))
            assert bool(store._building) is (part == 1)
        await asyncio.gather(*store._building.values())
        ended = await asyncio.to_thread(client.list_persistent_segments, milvus_rows.name_of("c"))
        assert sum(segment.num_rows for segment in ended) == 40
    finally:
        client.close()


async def test_the_books_are_whole_over_segments_that_have_ended(store: MilvusVectorStore) -> None:
    """Found by an audit under SIGKILLs: the vendor's way to read all rows left out one of each such segment."""
    rows = [record(f"d{n}", f"w{n}") for n in range(120)]
    await store.upsert("c", rows, embeddings(rows))
    client = await store._opened()
    for at in range(0, 80, 10):
        await store.upsert("c", rows[at : at + 10], embeddings(rows[at : at + 10]))
        await client.flush(milvus_rows.name_of("c"))
    assert await store.contents("c") == {(f"d{n}", 1): 1 for n in range(120)}


async def test_the_books_hold_more_than_one_answer_does(
    store: MilvusVectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "MOST_HITS", 100)
    rows = [record(f"d{n % 50}", f"w{n}", ordinal=n) for n in range(730)]
    await store.upsert("c", rows, embeddings(rows))
    books = await store.contents("c")
    assert (len(books), sum(books.values())) == (50, 730)


# ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_collection_dropped_under_us(milvus: Milvus, store: MilvusVectorStore) -> None:
    other = MilvusVectorStore(milvus.url)
    await other.drop("c")
    await other.aclose()
    for call in (
        store.search("c", embedding("x"), top_k=1, scope=EVERYBODY),
        store.upsert("c", [record("a", "x")], embeddings([record("a", "x")])),
    ):
        with pytest.raises(EngineRejected, match="no vector collection c") as gone:
            await call
        assert "reindex" in gone.value.next_step


@pytest.mark.parametrize("bad", [np.nan, np.inf])
async def test_a_vector_that_is_no_number_is_refused(store: MilvusVectorStore, bad: float) -> None:
    rows = [record("a", "x"), record("b", "y")]
    vectors = embeddings(rows)
    vectors[1, 3] = bad
    with pytest.raises(EngineRejected, match="NaN"):
        await store.upsert("c", rows, vectors)
    assert await store.contents("c") == {}


async def test_a_vector_of_another_length_is_refused(store: MilvusVectorStore) -> None:
    with pytest.raises(EngineRejected, match="shape"):
        await store.upsert("c", [record("a", "x")], np.ones((1, DIM + 1), np.float32))
    with pytest.raises(EngineRejected, match="shape"):
        await store.search("c", np.ones(DIM + 1, np.float32), top_k=1, scope=EVERYBODY)


async def test_a_chunk_over_the_limit_of_a_text_is_refused_by_name(store: MilvusVectorStore) -> None:
    long = record("a", "x" * 70_000)
    with pytest.raises(EngineRejected, match="65,535") as refused:
        await store.upsert("c", [long], embeddings([long]))
    assert long.uri in refused.value.message
    assert "chunk_tokens" in refused.value.next_step


async def test_more_values_than_can_be_asked_for_are_refused(store: MilvusVectorStore) -> None:
    many = record("a", "x", fields={"year": tuple(range(9))})
    with pytest.raises(EngineRejected, match="'year' has 9 values"):
        await store.upsert("c", [many], embeddings([many]))
    eight = record("a", "x", fields={"year": tuple(range(8))})
    await store.upsert("c", [eight], embeddings([eight]))
    assert await store.search("c", embedding("x"), top_k=1, scope=Scope(conditions=(Between("year", 7, 7),)))


async def test_a_message_is_cut_before_the_servers_limit(
    store: MilvusVectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(milvus_rows, "MOST_BYTES", 10_000)
    rows = [record("a", f"w{n}", ordinal=n) for n in range(200)]
    parts = list(milvus_rows.parts_of(milvus_rows.rows_of(store._shelves["c"], rows, embeddings(rows))))
    assert len(parts) > 5
    await store.upsert("c", rows, embeddings(rows))
    assert await store.contents("c") == {("a", 1): 200}


async def test_large_fields_count_for_a_message_as_well(store: MilvusVectorStore) -> None:
    """Over the 64 MiB that the real server takes, nearly all of them metadata and readers."""
    large = [record(f"d{n}", f"w{n}", fields={"kind": f"{n} " + "é" * 30_000}) for n in range(1_200)]
    readers = record("many", "x", groups=[f"{n}" + "g" * 5_000 for n in range(200)])
    await store.upsert("c", [*large, readers], embeddings([*large, readers]))
    assert sum((await store.contents("c")).values()) == 1_201


async def test_a_wrong_port() -> None:
    store = MilvusVectorStore(f"milvus://127.0.0.1:{free_port()}")
    with pytest.raises(EngineUnavailable, match="not reached") as away:
        await store.collections()
    assert "host, port and TLS" in away.value.next_step
    await store.aclose()


async def test_tls_where_the_server_has_none(milvus: Milvus) -> None:
    store = MilvusVectorStore(milvus.url.replace("milvus://", "milvuss://"))
    with pytest.raises(EngineUnavailable):
        await store.collections()
    await store.aclose()


async def test_a_wrong_password(own_milvus: Milvus) -> None:
    wrong = MilvusVectorStore(own_milvus.url.replace("//", "//root:wrong@"))
    with pytest.raises(EngineRejected, match="refuses the user") as refused:
        await wrong.collections()
    assert "password" in refused.value.next_step
    await wrong.aclose()
    right = MilvusVectorStore(own_milvus.url.replace("//", "//root:Milvus@"))
    assert await right.collections() == []
    await right.aclose()


async def test_a_server_killed_in_the_middle_of_a_write_and_started_again(own_milvus: Milvus) -> None:
    """What was acknowledged is there; what was not may be, and is written again."""
    store = MilvusVectorStore(own_milvus.url.replace("//", "//root:Milvus@"))
    await store.create("c", dim=DIM, fields=FIELDS)
    rows = [record(f"d{n}", f"word{n}") for n in range(2_000)]
    await store.upsert("c", rows[:1_000], embeddings(rows[:1_000]))
    writing = asyncio.create_task(store.upsert("c", rows[1_000:], embeddings(rows[1_000:])))
    await asyncio.sleep(0)
    await asyncio.to_thread(own_milvus.kill)
    with contextlib.suppress(EngineUnavailable, EngineTimeout):  # it may have been quicker
        await writing
    await asyncio.to_thread(own_milvus.start)
    async with asyncio.timeout(120):
        while True:
            try:
                await store.create("c", dim=DIM, fields=FIELDS)
                held = await store.contents("c")
                break
            except EngineError:
                await asyncio.sleep(0.2)
    assert {(row.chunk.document, 1) for row in rows[:1_000]} <= held.keys()
    await store.upsert("c", rows, embeddings(rows))
    assert len(await store.contents("c")) == 2_000
    await store.aclose()


async def test_a_cancelled_search_leaves_a_sound_client(store: MilvusVectorStore) -> None:
    searches = [asyncio.create_task(store.search("c", embedding("x"), top_k=1, scope=EVERYBODY)) for _ in range(20)]
    await asyncio.sleep(0)
    for search in searches:
        search.cancel()
    await asyncio.gather(*searches, return_exceptions=True)
    await _works(store, "after")


@pytest.mark.parametrize("version", ["2.2.16", "v1.1.1", "devel"])
def test_an_older_server_is_refused(version: str) -> None:
    with pytest.raises(EngineRejected, match=r"2\.3"):
        check_version(version)
    check_version("v2.3.5-lite")


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (MilvusException(100, "collection not found[collection=x]"), EngineRejected, "no vector collection"),
        (MilvusException(8, "request is rejected by limiter"), EngineUnavailable, "limits its rate"),
        (MilvusException(9, "disk quota exceeded"), EngineUnavailable, "refuses writes"),
        (MilvusException(22, "disk"), EngineUnavailable, "out of disk"),
        (MilvusException(101, "collection not loaded"), EngineUnavailable, "not loaded"),
        (MilvusException(503, "no available shard delegator"), EngineUnavailable, "No node"),
        (MilvusException(2, "Fail connecting to server"), EngineUnavailable, "not reached"),
        (MilvusException(1400, "auth check failure, please check username"), EngineRejected, "refuses the user"),
        (MilvusException(1100, "invalid parameter"), EngineRejected, "defect"),
        (TimeoutError(), EngineTimeout, "in time"),
        (ConnectionRefusedError(), EngineUnavailable, "not reached"),
    ],
)
def test_the_error_table(error: Exception, kind: type[EngineError], words: str) -> None:
    told = failure(error, "x")
    assert type(told) is kind
    assert words in f"{told.message} {told.next_step}"


def test_names_are_the_servers_and_can_be_read_back() -> None:
    for name in ("default-1a2b-v20261126", "a_b-c", "a-b_c"):
        assert milvus_rows.name_of(name).replace("_", "a").isalnum()
        assert milvus_rows.collection_of(milvus_rows.name_of(name)) == name
    assert milvus_rows.name_of("a_b") != milvus_rows.name_of("a-b")


# ── the whole ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_documents_come_change_and_go(milvus: Milvus, tmp_path: Path) -> None:
    system: System = await build(Settings(data_dir=tmp_path, vectors=milvus.url))
    house = House(system)
    otter = await house.accept("otter.txt", "Otters swim in cold rivers.")
    await house.accept("badger.txt", "Badgers dig deep setts.", groups=frozenset({"staff"}))
    await house.work()
    assert await house.found("who swims") == ["Otters swim in cold rivers."]
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
    for name in await system.vectors.collections():
        await system.vectors.drop(name)
    await system.aclose()


def test_a_record_is_a_row() -> None:
    """The last of two with one id, whatever the order."""
    one = record("a", "old")
    rows = milvus_rows.rows_of(
        milvus_rows.Shelf("s", DIM, {}), [one, replace(one, title="new")], embeddings([one, one])
    )
    assert [row["title"] for row in rows] == ['"new"']
