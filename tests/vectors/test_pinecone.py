"""Pinecone, played to its published API: the contract, and what goes wrong with a service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pinecone.errors as vendor
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from ragline import engines
from ragline.build import build, open_vectors
from ragline.errors import (
    ConfigurationError,
    EngineDenied,
    EngineError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    MissingDependency,
)
from ragline.protocols import VectorStore
from ragline.settings import Settings
from ragline.testing.corpus import DIM, FIELDS, chunk_ids, embedding, embeddings, record, texts
from ragline.testing.vectors import VectorStoreContract
from ragline.types import AnyOf, Between, FieldType, Scope
from ragline.vectors import pinecone_client, pinecone_rows, pinecone_waiting
from ragline.vectors.pinecone import PineconeVectorStore
from ragline.vectors.pinecone_errors import KINDS, STATUSES, failure
from ragline.vectors.pinecone_url import options_of
from tests.engines.pinecone import KEY, PlayedPinecone, played_pinecone
from tests.engines.pinecone_index import status
from tests.engines.played import HANG, Answer, nowhere
from tests.house import House

EVERYBODY = Scope()
BUSY = status(429, 8, "Too many requests. You have reached the limit", **{"retry-after": "0"})
BROKEN = status(500, 13, "Internal server error")


class TestContract(VectorStoreContract):
    @pytest.fixture
    def connect(self, pinecone_url: str) -> Callable[[], VectorStore]:
        return lambda: PineconeVectorStore(pinecone_url)

    def at_work(self) -> set[asyncio.Task[object]]:
        """The played service answers in this loop, a task a connection."""
        return {task for task in super().at_work() if getattr(task.get_coro(), "__name__", "") != "handle"}


@pytest.fixture
async def service() -> AsyncIterator[PlayedPinecone]:
    async with played_pinecone() as service:
        await service.add("docs", DIM)
        yield service


@pytest.fixture
async def store(service: PlayedPinecone) -> AsyncIterator[PineconeVectorStore]:
    store = PineconeVectorStore(service.url())
    await store.create("c", dim=DIM, fields=FIELDS)
    service.asked.clear()
    yield store
    await store.aclose()


async def _put(store: VectorStore, *words: str, collection: str = "c") -> None:
    rows = [record(word, word) for word in words]
    await store.upsert(collection, rows, embeddings(rows))


async def _found(store: VectorStore, word: str, *, collection: str = "c") -> list[str]:
    return texts(await store.search(collection, embedding(word), top_k=1, scope=EVERYBODY))


async def _refusal(store: VectorStore, kind: type[EngineError], words: str) -> EngineError:
    with pytest.raises(kind, match=words) as refused:
        await _found(store, "x")
    assert type(refused.value) is kind
    assert refused.value.next_step
    assert KEY not in str(refused.value)
    return refused.value


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("pinecone://", "no list of index names"),
        ("pinecone://Docs", "no list of index names"),
        ("pinecone://docs,", "no list of index names"),
        (f"pinecone://{'a' * 46}", "no list of index names"),
        ("pinecone://me:secret@docs", "no user at Pinecone"),
        ("pinecone://docs/Ä", "prefix"),
        ("pinecone://docs?colour=red", "no option 'colour'"),
        ("pinecone://docs?timeout_s=0", "timeout_s='0'"),
        ("pinecone://docs?parallel=many", "parallel='many'"),
        ("pinecone://docs?control=nowhere", "control='nowhere'"),
        ("pinecone://docs?cloud=aws", "cloud and region"),
        ("pinecone://docs?key_file=/no/such/file", "cannot be read"),
        ("pinecone://:secret@docs?key_file=/no/such/file", "twice"),
    ],
)
def test_urls_that_say_nothing(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as refused:
        options_of(url)
    assert refused.value.next_step
    assert "secret" not in str(refused.value)


def test_the_key_comes_from_the_url_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PINECONE_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="no API key") as refused:
        PineconeVectorStore("pinecone://docs")
    assert "PINECONE_API_KEY" in refused.value.next_step
    (tmp_path / "key").write_text("pcsk_file\n")
    assert options_of(f"pinecone://docs?key_file={tmp_path / 'key'}").key == "pcsk_file"
    assert options_of("pinecone://:pcsk%2Furl@docs").key == "pcsk/url"
    assert "pcsk" not in repr(options_of("pinecone://:pcsk@docs"))
    monkeypatch.setenv("PINECONE_API_KEY", "pcsk_environment")
    assert PineconeVectorStore("pinecone://docs")._project._client.config.api_key == "pcsk_environment"
    with pytest.raises(ConfigurationError, match="is no key"):
        PineconeVectorStore("pinecone://:two%0Alines@docs")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda _: None)
    with pytest.raises(MissingDependency, match="package pinecone") as missing:
        open_vectors(Settings(data_dir=tmp_path, vectors="pinecone://docs"))
    assert "ragline[pinecone]" in missing.value.next_step


# ── indexes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_wrong_key(service: PlayedPinecone) -> None:
    store = PineconeVectorStore(service.url(key="pcsk_wrong"))
    refused = await _refusal(store, EngineDenied, "refuses the API key")
    assert "pcsk_wrong" not in str(refused)
    await store.aclose()


async def test_a_key_that_is_taken_away(service: PlayedPinecone, store: PineconeVectorStore) -> None:
    service.key = "pcsk_new"
    await _refusal(store, EngineDenied, "refuses the API key")


async def test_no_such_index(service: PlayedPinecone) -> None:
    store = PineconeVectorStore(service.url("other").replace("&cloud=aws&region=us-east-1", ""))
    refused = await _refusal(store, EngineRejected, "no Pinecone index other")
    assert "cloud=aws" in refused.next_step
    with pytest.raises(EngineRejected, match="no Pinecone index other"):
        await store.collections()
    with pytest.raises(EngineRejected, match="no Pinecone index other") as told:
        await store.create("c", dim=96, fields={})
    assert "96 dimensions" in told.value.next_step
    await store.aclose()


async def test_an_index_is_made_where_the_url_says_where(service: PlayedPinecone) -> None:
    store = PineconeVectorStore(service.url("other"))
    assert await store.collections() == []
    await store.create("c", dim=96, fields={})
    assert (service.indexes["other"].dim, service.indexes["other"].metric) == (96, "cosine")
    await store.aclose()
    elsewhere = PineconeVectorStore(service.url("third").replace("us-east-1", "mars"))
    with pytest.raises(EngineRejected, match="mars"):
        await elsewhere.create("c", dim=96, fields={})
    await elsewhere.aclose()


async def test_another_dimension_needs_another_index(service: PlayedPinecone) -> None:
    """And with one, both spaces of a re-index serve."""
    narrow = PineconeVectorStore(service.url())
    with pytest.raises(EngineRejected, match=f"takes vectors of {DIM + 8} dimensions \\(docs {DIM}\\)") as refused:
        await narrow.create("wide", dim=DIM + 8, fields={})
    assert "docs,ANOTHER" in refused.value.next_step
    await narrow.aclose()
    both = PineconeVectorStore(service.url("docs,docs-wide"))
    await both.create("c", dim=DIM, fields={})
    await both.create("wide", dim=DIM + 8, fields={})
    assert await both.collections() == ["c", "wide"]
    await _put(both, "x")
    await both.upsert("wide", [record("y", "y")], np.eye(1, DIM + 8, dtype=np.float32))
    assert await _found(both, "x") == ["x"]
    (hit,) = await both.search("wide", np.eye(1, DIM + 8, dtype=np.float32)[0], top_k=1, scope=EVERYBODY)
    assert hit.chunk.text == "y"
    await both.drop("wide")
    assert await both.collections() == ["c"]
    await both.aclose()


@pytest.mark.parametrize(
    ("told", "kind", "words"),
    [
        ({"metric": "euclidean"}, EngineRejected, "by euclidean"),
        (
            {"deployment": {"deployment_type": "pod", "environment": "us-east1-gcp", "pod_type": "p1.x1", "replicas": 1,
                            "shards": 1}},
            EngineRejected, "made of pods",
        ),
        (
            {"schema": {"fields": {"body": {"type": "string", "full_text_search": {"language": "en"}}}}},
            EngineRejected, "does not compare dense vectors",
        ),
        ({"status": {"ready": False, "state": "Initializing"}}, EngineUnavailable, "not ready"),
    ],
)  # fmt: skip
async def test_an_index_that_cannot_hold_ours(
    service: PlayedPinecone, told: dict[str, object], kind: type[EngineError], words: str
) -> None:
    await service.add("odd", DIM, str(told.pop("metric", "cosine")), **told)
    store = PineconeVectorStore(service.url("odd"))
    await _refusal(store, kind, words)
    await store.aclose()


async def test_an_index_deleted_under_us_and_made_again(service: PlayedPinecone, store: PineconeVectorStore) -> None:
    await _put(store, "x")
    await service.remove("docs")
    await _refusal(store, EngineUnavailable, "not reached")
    await _refusal(store, EngineRejected, "no Pinecone index docs")
    await service.add("docs", DIM)
    await _refusal(store, EngineRejected, "no vector collection c")
    await store.create("c", dim=DIM, fields=FIELDS)
    await _put(store, "x")
    assert await _found(store, "x") == ["x"]


async def test_a_collection_dropped_under_us(service: PlayedPinecone, store: PineconeVectorStore) -> None:
    await _put(store, "x")
    other = PineconeVectorStore(service.url())
    await other.drop("c")
    await other.aclose()
    with pytest.raises(EngineRejected, match="no vector collection c"):
        await _put(store, "x")
    assert await store.collections() == []
    refused = await _refusal(store, EngineRejected, "no vector collection c")
    assert "reindex" in refused.next_step


async def test_a_search_in_a_collection_dropped_under_us(service: PlayedPinecone, store: PineconeVectorStore) -> None:
    await _put(store, "x")
    other = PineconeVectorStore(service.url())
    await other.drop("c")
    await other.aclose()
    await _refusal(store, EngineRejected, "no vector collection c")


async def test_two_processes_make_one_collection(service: PlayedPinecone) -> None:
    stores = [PineconeVectorStore(service.url("fresh")) for _ in range(3)]
    await asyncio.gather(*(store.create("c", dim=DIM, fields=FIELDS) for store in stores))
    for number, store in enumerate(stores):
        await _put(store, f"word{number}")
    for store in stores:
        assert len(await store.contents("c")) == 3
        await store.aclose()


# ── what is written ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("bad", [np.nan, np.inf])
async def test_a_vector_that_is_no_number_is_refused(store: PineconeVectorStore, bad: float) -> None:
    vectors = embeddings([record("a", "x"), record("b", "y")])
    vectors[1, 3] = bad
    with pytest.raises(EngineRejected, match="NaN"):
        await store.upsert("c", [record("a", "x"), record("b", "y")], vectors)
    with pytest.raises(EngineRejected, match="NaN"):
        await store.search("c", vectors[1], top_k=1, scope=EVERYBODY)
    assert await store.contents("c") == {}


async def test_vectors_of_another_length_and_zero_are_refused(store: PineconeVectorStore) -> None:
    for vectors in (np.ones((1, DIM + 1), np.float32), np.ones((2, DIM), np.float32)):
        with pytest.raises(EngineRejected, match="shape"):
            await store.upsert("c", [record("a", "x")], vectors)
    with pytest.raises(EngineRejected, match="shape"):
        await store.search("c", np.ones(DIM + 1, np.float32), top_k=1, scope=EVERYBODY)
    with pytest.raises(EngineRejected, match="zero"):
        await store.upsert("c", [record("a", "x")], np.zeros((1, DIM), np.float32))


async def test_a_chunk_over_the_limit_of_metadata_is_refused_by_name(store: PineconeVectorStore) -> None:
    """Text, title, groups and fields together."""
    for long in (record("a", "x" * 40_000), record("a", "x", groups={f"group-{n}" for n in range(3_000)})):
        with pytest.raises(EngineRejected, match="40,000 beside a vector") as refused:
            await store.upsert("c", [long], embeddings([long]))
        assert long.uri in refused.value.message
        assert "chunk_tokens" in refused.value.next_step
    assert await store.contents("c") == {}


async def test_more_values_than_can_be_asked_for_are_refused(store: PineconeVectorStore) -> None:
    many = record("a", "x", fields={"year": tuple(range(9))})
    with pytest.raises(EngineRejected, match="'year' has 9 values"):
        await store.upsert("c", [many], embeddings([many]))
    eight = record("a", "x", fields={"year": tuple(range(8))})
    await store.upsert("c", [eight], embeddings([eight]))
    assert await store.search("c", embedding("x"), top_k=1, scope=Scope(conditions=(Between("year", 7, 7),)))


async def test_a_field_that_was_declared_later_is_refused(store: PineconeVectorStore) -> None:
    later = record("a", "x", fields={"later": "y"})
    with pytest.raises(EngineRejected, match="'later' is not declared"):
        await store.upsert("c", [later], embeddings([later]))
    with pytest.raises(EngineRejected, match="'later' is not declared") as refused:
        await store.search("c", embedding("x"), top_k=1, scope=Scope(conditions=(AnyOf("later", ("y",)),)))
    assert "reindex" in refused.value.next_step


async def test_a_caller_in_more_groups_than_a_filter_takes(store: PineconeVectorStore) -> None:
    with pytest.raises(EngineRejected, match="10,001 words"):
        await store.search("c", embedding("x"), top_k=1, scope=Scope(frozenset(f"g{n}" for n in range(10_000))))


async def test_requests_stay_below_two_megabytes(service: PlayedPinecone) -> None:
    """The played service refuses a larger one."""
    store = PineconeVectorStore(service.url("docs,large"))
    await store.create("large", dim=1_536, fields={})
    vectors = np.random.default_rng(1).standard_normal((400, 1_536)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    service.asked.clear()
    await store.upsert("large", [record(f"d{n}", "ж" * 5_000) for n in range(400)], vectors)
    requests = [path for _, path in service.asked if path == "/vectors/upsert"]
    assert 5 <= len(requests) <= 8
    assert len(await store.contents("large")) == 400
    assert service.refused == []
    await store.aclose()


async def test_what_comes_back_is_what_32_bits_hold(store: PineconeVectorStore, service: PlayedPinecone) -> None:
    rows = [record(f"d{n}", f"word{n}") for n in range(100)]
    await store.upsert("c", rows, embeddings(rows))
    records = service.indexes["docs"].namespaces["ragline.c"].records
    held = np.stack([records.vectors[records.places[_id(one.chunk.document, one.chunk.id)]] for one in rows])
    assert np.abs(held - embeddings(rows)).max() < 1e-8


def _id(document: str, chunk: str) -> str:
    return pinecone_rows.record_id(document, 1, chunk)


@given(document=st.text(max_size=40), content=st.integers(0, 2**62), chunk=st.text(max_size=40))
def test_any_id_is_ascii_and_can_be_read_back(document: str, content: int, chunk: str) -> None:
    name = pinecone_rows.record_id(document, content, chunk)
    assert name.isascii()
    assert name.isprintable()
    assert " " not in name
    assert name.startswith(pinecone_rows.prefix(document))
    assert pinecone_rows.read_id(name) == (document, content, chunk)


def test_an_id_over_the_limit_is_refused() -> None:
    with pytest.raises(EngineRejected, match="512"):
        pinecone_rows.record_id("東" * 100, 1, "c")


async def test_documents_whose_names_begin_alike_are_not_taken_for_each_other(store: PineconeVectorStore) -> None:
    await _put(store, "a", "ab", "a#", "a%23")
    await store.delete("c", {"a": 2, "a#": 2})
    assert await store.contents("c") == {("ab", 1): 1, ("a%23", 1): 1}


async def test_a_document_of_more_chunks_than_a_delete_takes(store: PineconeVectorStore) -> None:
    rows = [record("a", "x", ordinal=n) for n in range(1_100)]
    await store.upsert("c", rows, np.random.default_rng(2).standard_normal((1_100, DIM)).astype(np.float32))
    await store.delete("c", {"a": 2})
    assert await store.contents("c") == {}


async def test_half_of_a_surrogate_pair_goes_in_and_comes_out(store: PineconeVectorStore) -> None:
    odd = replace(record("a", "x \ud800", title="t \ud800"), uri="file:///\udfff")
    await store.upsert("c", [odd], embeddings([record("a", "x")]))
    (hit,) = await store.search("c", embedding("x"), top_k=1, scope=EVERYBODY)
    assert (hit.chunk.text, hit.title, hit.uri) == ("x \ufffd", odd.title, odd.uri)


async def test_a_range_reaches_integers_that_floats_round(store: PineconeVectorStore) -> None:
    """Equality is exact; the end of a range is met to within the rounding of 64-bit floats."""
    rows = [record(str(n), "x", fields={"year": 2**53 + n}) for n in range(3)]
    await store.upsert("c", rows, embeddings(rows))

    async def documents(condition: AnyOf | Between) -> list[str]:
        hits = await store.search("c", embedding("x"), top_k=9, scope=Scope(conditions=(condition,)))
        return sorted(hit.chunk.document for hit in hits)

    assert await documents(AnyOf("year", (2**53 + 1,))) == ["1"]
    assert await documents(Between("year", 2**53 + 2, None)) == ["2"]
    assert await documents(Between("year", 2**53 - 1, None)) == ["0", "1", "2"]


@pytest.mark.parametrize("twins", [10, 11, 12, 100])
async def test_a_tie_that_ends_anywhere_goes_by_chunk_id(store: PineconeVectorStore, twins: int) -> None:
    rows = [record(f"d{n}", "twin") for n in range(twins)]
    await store.upsert("c", sorted(rows, key=lambda one: one.chunk.id, reverse=True), embeddings(rows))
    hits = await store.search("c", embedding("twin"), top_k=10, scope=EVERYBODY)
    assert chunk_ids(hits) == sorted(one.chunk.id for one in rows)[:10]


async def test_an_answer_over_four_megabytes_is_asked_in_two_steps(
    service: PlayedPinecone, store: PineconeVectorStore
) -> None:
    rows = [record(f"d{n}", "filler " * 3_000) for n in range(250)]
    await store.upsert("c", rows, np.random.default_rng(3).standard_normal((250, DIM)).astype(np.float32))
    hits = await store.search("c", embedding("common"), top_k=250, scope=EVERYBODY)
    assert sorted(chunk_ids(hits)) == sorted(one.chunk.id for one in rows)
    assert [len(words) for words in service.refused] == [len("The result of the query is over the limit of 4MB")]


# ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_service_started_again_between_two_calls(service: PlayedPinecone, store: PineconeVectorStore) -> None:
    await _put(store, "x")
    for _ in range(3):
        await service.restart()
        assert await _found(store, "x") == ["x"]
        await service.restart()
        await _put(store, "x")


async def test_a_limited_rate_is_waited_out(service: PlayedPinecone, store: PineconeVectorStore) -> None:
    for path in ("/vectors/upsert", "/vectors/fetch", "/vectors/update", "/vectors/delete", "/query"):
        service.say(path, BUSY, times=2)
    await _put(store, "x", "y")
    await store.delete("c", {"y": 2})
    service.say("/query", BUSY, times=2)
    assert await _found(store, "x") == ["x"]
    assert await store.contents("c") == {("x", 1): 1}


async def test_a_wait_beyond_the_bound_is_not_begun(service: PlayedPinecone, store: PineconeVectorStore) -> None:
    hour = replace(BUSY, headers={"retry-after": "3600"})
    for path, call in (("/vectors/upsert", _put(store, "x")), ("/query", _found(store, "x"))):
        service.asked.clear()
        service.say(path, hour)
        with pytest.raises(EngineUnavailable, match="limits its rate") as limited:
            await call
        assert limited.value.next_step
        assert [asked for _, asked in service.asked].count(path) == 1


async def test_nobody_else_asks_again(
    service: PlayedPinecone, store: PineconeVectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vendor's client would, for minutes."""
    monkeypatch.setattr(pinecone_client, "SEARCH_PATIENCE_S", 0.0)
    for answer, kind, words in (
        (BUSY, EngineUnavailable, "limits its rate"),
        (BROKEN, EngineUnavailable, "error of its own"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\ncut", EngineUnavailable, "not reached"),
        (Answer(b"<html>", headers={"content-type": "text/html"}), EngineRejected, "what is no answer"),
        (Answer(b"<html>", status=502), EngineUnavailable, "gateway"),
        (status(504, 4, "deadline exceeded"), EngineTimeout, "in time"),
        (status(400, 3, "Invalid request"), EngineRejected, "refused the request"),
        (status(403, 7, "Forbidden"), EngineDenied, "forbids"),
    ):
        service.asked.clear()
        service.say("/query", answer)
        await _refusal(store, kind, words)
        assert [path for _, path in service.asked].count("/query") == 1
    service.say("/query", BROKEN, times=2)
    monkeypatch.undo()
    assert await _found(store, "x") == []


async def test_an_outage_ends_within_the_patience(service: PlayedPinecone) -> None:
    store = PineconeVectorStore(service.url(patience_s=0.2))
    await store.create("c", dim=DIM, fields=FIELDS)
    service.say("/vectors/upsert", BROKEN, times=99)
    with pytest.raises(EngineUnavailable, match="error of its own"):
        await _put(store, "x")
    asked = [path for _, path in service.asked].count("/vectors/upsert") - 1
    assert 2 <= asked <= 3
    await store.aclose()


async def test_a_slow_service_is_a_timeout(service: PlayedPinecone) -> None:
    store = PineconeVectorStore(service.url(timeout_s=0.2))
    await store.create("c", dim=DIM, fields=FIELDS)
    service.say("/query", HANG)
    await _refusal(store, EngineTimeout, "in time")
    assert await _found(store, "x") == []
    await store.aclose()


async def test_no_service_at_all() -> None:
    store = PineconeVectorStore(f"pinecone://:{KEY}@docs?control={nowhere()}")
    refused = await _refusal(store, EngineUnavailable, "not reached")
    assert "network" in refused.next_step
    await store.aclose()


async def test_a_write_returns_once_it_is_seen(
    service: PlayedPinecone, store: PineconeVectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pinecone_waiting, "LOOK_PAUSE_S", 0.01)
    service.indexes["docs"].lag = 20
    await _put(store, "x")
    assert await _found(store, "x") == ["x"]
    await store.update_payload("c", "x", title="New", groups=frozenset(), fields={})
    (hit,) = await store.search("c", embedding("x"), top_k=1, scope=EVERYBODY)
    assert hit.title == "New"
    await store.delete("c", {"x": 2})
    assert await _found(store, "x") == []


async def test_fetches_may_follow_later_than_searches(service: PlayedPinecone) -> None:
    service.indexes["docs"].fetch_lag = 5
    store = PineconeVectorStore(service.url())
    await store.create("c", dim=DIM, fields=FIELDS)
    await _put(store, "x")
    assert await _found(store, "x") == ["x"]
    await store.aclose()


async def test_a_write_that_nobody_sees_is_a_timeout(service: PlayedPinecone) -> None:
    store = PineconeVectorStore(service.url(fresh_s=0.05))
    await store.create("c", dim=DIM, fields=FIELDS)
    service.indexes["docs"].lag = 10_000
    with pytest.raises(EngineTimeout, match="no search sees it"):
        await _put(store, "x")
    await store.aclose()


async def test_a_service_that_numbers_no_writes_is_told_of(service: PlayedPinecone, store: PineconeVectorStore) -> None:
    service.say("/vectors/upsert", Answer({"upsertedCount": 1}))
    with structlog.testing.capture_logs() as lines:
        await _put(store, "x")
    assert [line["log_level"] for line in lines] == ["warning"]


async def test_cancelled_calls_leave_a_sound_client(service: PlayedPinecone, store: PineconeVectorStore) -> None:
    for path in ("/query", "/vectors/upsert"):
        service.say(path, HANG, times=4)
    before = asyncio.all_tasks()
    address = service.addresses["docs"]
    calls: list[asyncio.Task[object]] = [asyncio.create_task(_found(store, "x")) for _ in range(4)]
    calls += [asyncio.create_task(_put(store, "x")) for _ in range(4)]
    while address.in_flight < 8:
        address.arrived.clear()
        await address.arrived.wait()
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert all(call.cancelled() for call in calls)
    await _put(store, "after")
    assert await _found(store, "after") == ["after"]
    assert {task for task in asyncio.all_tasks() - before if "handle" not in repr(task)} == set()


async def test_when_one_part_of_a_write_fails_none_is_left_at_work(
    service: PlayedPinecone, store: PineconeVectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pinecone_rows, "MOST_ROWS", 10)
    service.say("/vectors/upsert", status(403, 7, "Forbidden"))
    service.say("/vectors/upsert", HANG, times=3)
    rows = [record(f"d{n}", f"w{n}") for n in range(200)]
    before = asyncio.all_tasks()
    with pytest.raises(EngineRejected, match="forbids"):
        await store.upsert("c", rows, embeddings(rows))
    assert {task for task in asyncio.all_tasks() - before if "handle" not in repr(task)} == set()
    monkeypatch.undo()
    service._said.clear()
    await store.upsert("c", rows, embeddings(rows))
    assert len(await store.contents("c")) == 200


# ── the error table ──────────────────────────────────────────────────────────────────────────────────────────────────


def _every(kind: type[vendor.PineconeError]) -> set[type[vendor.PineconeError]]:
    return {kind}.union(*(_every(one) for one in kind.__subclasses__()))


def test_the_error_table_is_complete() -> None:
    """Every exception of the client is in it, by its status or by itself, and no other status falls through."""
    with_status = _every(vendor.ApiError)
    by_kind = _every(vendor.PineconeError) - with_status - {vendor.PineconeError}
    assert by_kind == {one for one in by_kind if any(kind in KINDS for kind in one.__mro__)}
    documented = {400, 401, 402, 403, 404, 409, 412, 422, 429, 500, 503}
    assert documented <= STATUSES.keys()
    for number in range(400, 600):
        told = failure(vendor.ApiError(message="m", status_code=number), "docs")
        assert told.next_step
        if number in STATUSES:
            assert type(told) is STATUSES[number][0]
            assert STATUSES[number][1] in told.message
        else:
            assert type(told) is (EngineError if number < 500 else EngineUnavailable)
        assert told.engine == "vectors:pinecone"
    for kind in KINDS:
        assert type(failure(_raised(kind))) is KINDS[kind][0]
    assert type(failure(OSError("x"))) is EngineUnavailable
    assert type(failure(vendor.PineconeError("new"))) is EngineError


def _raised(kind: type[vendor.PineconeError]) -> vendor.PineconeError:
    return vendor.IndexTerminatedError("n", "s") if kind is vendor.IndexTerminatedError else kind("m")


# ── the whole ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_documents_come_change_and_go(tmp_path: Path) -> None:
    async with played_pinecone() as service:
        system = await build(Settings(data_dir=tmp_path, vectors=service.url("house")))
        house = House(system)
        otter = await house.accept("otter.txt", "Otters swim in cold rivers.")
        await house.accept("badger.txt", "Badgers dig deep setts.", groups=frozenset({"staff"}))
        await house.work()
        assert await house.found("who swims") == ["Otters swim in cold rivers."]
        assert len(await house.found("who digs", groups=frozenset({"staff"}))) == 2
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
        assert service.refused == []


def test_a_filter_as_it_is_sent() -> None:
    shelf = pinecone_rows.Shelf("c", DIM, {"year": FieldType.INTEGER, "kind": FieldType.KEYWORD}, "made")
    scope = Scope(frozenset({"staff"}), (AnyOf("kind", ("A", "b")), Between("year", 1999.5, None)))
    places = [{f"field_1_{at}": {"$gte": 2000.0}} for at in range(8)]
    assert pinecone_rows.where(shelf, scope) == {
        "$and": [{"access": {"$in": ["*", "group:staff"]}}, {"field_0": {"$in": ["=A", "=b"]}}, {"$or": places}]
    }
