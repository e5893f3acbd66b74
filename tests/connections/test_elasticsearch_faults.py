"""What can go wrong between us and a cluster, on a real one: who may come in, what it refuses, and when it dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest

from ragline.connections.elasticsearch import ElasticsearchServer
from ragline.connections.elasticsearch_errors import OLDEST
from ragline.connections.elasticsearch_url import options_of
from ragline.errors import EngineDenied, EngineError, EngineRejected, EngineTimeout, EngineUnavailable
from ragline.keywords.elasticsearch import ElasticsearchKeywordIndex
from ragline.testing.corpus import DIM, FIELDS, embedding, embeddings, record, texts
from ragline.types import AnyOf, FieldType, Record, Scope
from ragline.vectors.elasticsearch import ElasticsearchVectorStore
from tests.engines.elasticsearch import MOST_BODY_BYTES, Elasticsearch
from tests.engines.elasticsearch_door import HANG, Door, certificate, door
from tests.engines.played import Answer, nowhere, played

Store: TypeAlias = ElasticsearchVectorStore | ElasticsearchKeywordIndex
EVERYBODY = Scope()


@asynccontextmanager
async def vectors(url: str) -> AsyncIterator[ElasticsearchVectorStore]:
    options = options_of(url, "vectors")
    store = ElasticsearchVectorStore(ElasticsearchServer(options.server), options)
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def keywords(url: str) -> AsyncIterator[ElasticsearchKeywordIndex]:
    options = options_of(url, "keywords")
    index = ElasticsearchKeywordIndex(ElasticsearchServer(options.server), options)
    try:
        yield index
    finally:
        await index.aclose()


@asynccontextmanager
async def both(
    elasticsearch: Elasticsearch,
) -> AsyncIterator[tuple[ElasticsearchVectorStore, ElasticsearchKeywordIndex]]:
    """On the same prefix, each with a collection `c`."""
    url = elasticsearch.url()
    async with vectors(url) as store, keywords(url) as index:
        await store.create("c", dim=DIM, fields=FIELDS)
        await index.create("c", fields=FIELDS)
        yield store, index


async def upsert(store: Store, records: list[Record], collection: str = "c") -> None:
    if isinstance(store, ElasticsearchVectorStore):
        await store.upsert(collection, records, embeddings(records))
    else:
        await store.upsert(collection, records)


async def search(store: Store, collection: str = "c") -> list[str]:
    if isinstance(store, ElasticsearchVectorStore):
        return texts(await store.search(collection, embedding("common"), top_k=9, scope=EVERYBODY))
    return texts(await store.search(collection, "common", top_k=9, scope=EVERYBODY))


async def refused(call: Awaitable[object], kind: type[EngineError], *words: str) -> EngineError:
    with pytest.raises(EngineError) as raised:
        await call
    assert type(raised.value) is kind, raised.value
    for word in words:
        assert word in str(raised.value)
    assert "secret" not in str(raised.value)
    return raised.value


# ── who may come in ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_through_tls_with_a_password(elasticsearch: Elasticsearch, tmp_path: Path) -> None:
    authority, pair = certificate(tmp_path)
    async with door(elasticsearch.host, user="ragline", password="s3/cr@t", certificate=pair) as ours:
        host = f"ragline:s3%2Fcr%40t@{ours.host}"
        url = elasticsearch.url(scheme="elasticsearchs", host=host)
        for words in (f"&ca={authority}", "&verify=false"):
            async with vectors(url + words) as store:
                await store.create("c", dim=DIM, fields=FIELDS)
                await upsert(store, [record("a", "common")])
                assert await search(store) == ["common"]
                await store.drop("c")


async def test_with_an_api_key(elasticsearch: Elasticsearch) -> None:
    async with door(elasticsearch.host, password="the-key") as ours:
        async with vectors(elasticsearch.url(host=f":the-key@{ours.host}")) as store:
            assert await store.collections() == []
        async with vectors(elasticsearch.url(host=f":secret@{ours.host}")) as store:
            await refused(store.collections(), EngineDenied, "security_exception")


@pytest.mark.parametrize("login", ["ragline:secret@", "other:right@", ""])
async def test_a_wrong_password(elasticsearch: Elasticsearch, login: str) -> None:
    async with (
        door(elasticsearch.host, user="ragline", password="right") as ours,
        keywords(elasticsearch.url(host=f"{login}{ours.host}")) as index,
    ):
        await refused(index.collections(), EngineDenied, "security_exception", "user and password in the URL")


async def test_an_authority_that_is_not_known(elasticsearch: Elasticsearch, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    _, pair = certificate(tmp_path)
    other, _ = certificate(tmp_path / "other")
    async with door(elasticsearch.host, certificate=pair) as ours:
        url = elasticsearch.url(scheme="elasticsearchs", host=ours.host)
        for words in ("", f"&ca={other}"):
            async with vectors(url + words) as store:
                await refused(store.collections(), EngineRejected, "certificate is not trusted", "`ca`")


async def test_tls_where_there_is_none_and_none_where_there_is(elasticsearch: Elasticsearch, tmp_path: Path) -> None:
    async with vectors(elasticsearch.url(scheme="elasticsearchs")) as store:
        await refused(store.collections(), EngineRejected, "speaks no TLS", "elasticsearch://")
    _, pair = certificate(tmp_path)
    async with door(elasticsearch.host, certificate=pair) as ours, vectors(elasticsearch.url(host=ours.host)) as store:
        await refused(store.collections(), EngineUnavailable, "TLS is elasticsearchs://")


async def test_a_wrong_port() -> None:
    async with vectors(nowhere().replace("http", "elasticsearch")) as store:
        await refused(store.collections(), EngineUnavailable, "host and port")


async def test_a_server_that_does_not_answer(elasticsearch: Elasticsearch) -> None:
    async with door(elasticsearch.host) as ours, vectors(elasticsearch.url(host=ours.host, timeout_s=0.2)) as store:
        ours.answer = lambda path, body: HANG
        await refused(store.collections(), EngineTimeout, "in time")


# ── who answers ──────────────────────────────────────────────────────────────────────────────────────────────────────

HEADERS = {"X-Elastic-Product": "Elasticsearch"}


@pytest.mark.parametrize(
    "answer",
    [
        Answer({"version": {"number": "9.2.9"}}, headers=HEADERS),
        Answer({"version": {"number": "7.17.13"}}, headers=HEADERS),
        Answer({"error": {"type": "media_type_header_exception"}, "status": 400}, status=400, headers=HEADERS),
    ],
    ids=["just", "long ago", "8, which refuses our headers"],
)
async def test_an_older_server_is_refused_before_anything_is_asked_of_it(answer: Answer) -> None:
    async with played() as server, vectors(server.url.replace("http", "elasticsearch")) as store:
        server.answer = lambda asked: answer
        await refused(store.create("c", dim=3, fields={}), EngineRejected, "older", f"{OLDEST[0]}.{OLDEST[1]} or newer")
        assert {one.path for one in server.asked} == {"/"}


@pytest.mark.parametrize(
    "answer",
    [
        Answer({"version": {"number": "2.11.0", "distribution": "opensearch"}}),
        Answer(b"<html>", headers={"content-type": "text/html"}),
        Answer({}, status=404),
        Answer(b"{", headers=HEADERS),
    ],
    ids=["opensearch", "a page", "404", "half"],
)
async def test_what_is_no_elasticsearch(answer: Answer) -> None:
    async with played() as server, vectors(server.url.replace("http", "elasticsearch")) as store:
        server.answer = lambda asked: answer
        await refused(store.collections(), EngineRejected, "OpenSearch")


# ── what was built, and what is put in ───────────────────────────────────────────────────────────────────────────────


async def test_what_built_an_index_stands_in_it(elasticsearch: Elasticsearch) -> None:
    url = elasticsearch.url("house", index="bbq_hnsw", language="german")
    async with vectors(url) as store, keywords(url) as index:
        await store.create("c", dim=DIM, fields={"kind": FieldType.KEYWORD})
        await index.create("c", fields={"kind": FieldType.KEYWORD})
        for room, how in (
            ("vectors", {"dim": DIM, "similarity": "cosine", "index": "bbq_hnsw"}),
            ("keywords", {"language": "german"}),
        ):
            (told,) = elasticsearch.ask("GET", f"house-{room}-c/_mapping").values()
            meta = told["mappings"]["_meta"]["ragline"]
            assert (meta["how"], meta["fields"], meta["collection"]) == (how, {"kind": "keyword"}, "c")
        await store.drop("c")
        await index.drop("c")


async def test_an_index_keeps_what_built_it_whatever_the_url_says_later(elasticsearch: Elasticsearch) -> None:
    url = elasticsearch.url("later", language="german", index="hnsw")
    async with vectors(url) as store, keywords(url) as index:
        await store.create("c", dim=DIM, fields=FIELDS)
        await index.create("c", fields=FIELDS)
    async with (
        vectors(elasticsearch.url("later", index="bbq_hnsw")) as store,
        keywords(elasticsearch.url("later", language="english")) as index,
    ):
        await store.create("c", dim=DIM, fields=FIELDS)
        await index.create("c", fields=FIELDS)
        await upsert(store, [record("a", "common")])
        await index.upsert("c", [record("a", "die Häuser", title="")])
        assert await search(store) == ["common"]
        assert texts(await index.search("c", "Haus", top_k=9, scope=EVERYBODY)) == ["die Häuser"]
        await store.drop("c")
        await index.drop("c")


async def test_scores_do_not_depend_on_the_shard(elasticsearch: Elasticsearch) -> None:
    found = []
    for shards in (1, 5):
        async with keywords(elasticsearch.url(shards=shards)) as index:
            await index.create("c", fields={})
            await index.upsert("c", [record(f"d{n}", f"common word{n % 3} " + "and more " * n) for n in range(20)])
            hits = await index.search("c", "common word1", top_k=20, scope=EVERYBODY)
            found.append([(hit.chunk.id, hit.score) for hit in hits])
            await index.drop("c")
    assert [chunk for chunk, _ in found[1]] == [chunk for chunk, _ in found[0]]
    assert [score for _, score in found[1]] == pytest.approx([score for _, score in found[0]], rel=1e-5)


async def test_another_metric_is_refused(elasticsearch: Elasticsearch) -> None:
    how = {"dim": DIM, "similarity": "dot_product", "index": "hnsw"}
    meta = {"format": 1, "prefix": "metric", "collection": "c", "shards": 1, "fields": {}, "how": how}
    elasticsearch.ask("PUT", "metric-vectors-c", {"mappings": {"_meta": {"ragline": meta}}})
    async with vectors(elasticsearch.url("metric")) as store:
        await refused(store.create("c", dim=DIM, fields={}), EngineRejected, "dot_product", "drop it")
        await store.drop("c")


async def test_other_fields_are_refused(elasticsearch: Elasticsearch) -> None:
    async with both(elasticsearch) as (store, index):
        await refused(index.create("c", fields={"kind": FieldType.INTEGER}), EngineRejected, "other fields", "reindex")
        for one in (store, index):
            late = record("a", "common", fields={"new": 1})
            await refused(upsert(one, [late]), EngineRejected, "without the field 'new'")
            scope = Scope(conditions=(AnyOf("new", (1,)),))
            asked = (
                one.search("c", embedding("common"), top_k=1, scope=scope)
                if isinstance(one, ElasticsearchVectorStore)
                else one.search("c", "common", top_k=1, scope=scope)
            )
            await refused(asked, EngineRejected, "without the field 'new'", "reindex")
            assert await one.contents("c") == {}


@pytest.mark.parametrize("ours", [None, {"format": 99}])
async def test_an_index_of_somebody_else_is_left_alone(
    elasticsearch: Elasticsearch, ours: dict[str, object] | None
) -> None:
    elasticsearch.ask("PUT", "foreign-vectors-c", {"mappings": {"_meta": {"ragline": ours}} if ours else {}})
    try:
        async with vectors(elasticsearch.url("foreign")) as store:
            await refused(store.create("c", dim=DIM, fields={}), EngineRejected, "not written by this version")
    finally:
        elasticsearch.ask("DELETE", "foreign-vectors-c")


async def test_vectors_that_are_none(elasticsearch: Elasticsearch) -> None:
    async with both(elasticsearch) as (store, _):
        one, good = [record("a", "common")], embedding("common")
        bad = good.copy()
        bad[3] = np.nan
        for vector in (bad, np.full(DIM, np.inf, np.float32)):
            await refused(store.upsert("c", one, vector[None]), EngineRejected, "NaN", "embedder")
            await refused(store.search("c", vector, top_k=3, scope=EVERYBODY), EngineRejected, "NaN")
        for vector in (good[:-1], np.append(good, np.float32(0))):
            await refused(store.upsert("c", one, vector[None]), EngineRejected, "shape")
            await refused(store.search("c", vector, top_k=3, scope=EVERYBODY), EngineRejected, "shape")
        await refused(store.upsert("c", one, np.stack([good, good])), EngineRejected, "shape")
        zero = np.zeros(DIM, np.float32)
        await refused(store.search("c", zero, top_k=3, scope=EVERYBODY), EngineRejected, "zero")
        await refused(store.upsert("c", one, zero[None]), EngineRejected, "zero")
        assert await store.contents("c") == {}
        await refused(store.create("d", dim=4_097, fields={}), EngineRejected, "4097", "at most 4096")


async def test_a_text_that_is_no_unicode(elasticsearch: Elasticsearch) -> None:
    async with both(elasticsearch) as rooms:
        for one in rooms:
            half = [record("a", "half \ud800")]
            if isinstance(one, ElasticsearchVectorStore):
                await refused(one.upsert("c", half, embedding("half")[None]), EngineRejected, "Unicode")
            else:
                await refused(one.upsert("c", half), EngineRejected, "Unicode")
            assert await one.contents("c") == {}


@pytest.mark.filterwarnings("ignore:Sending a large body")  # aiohttp, of bodies over 1 MiB: no chunk is so large
async def test_a_record_over_the_limit_is_refused_and_its_neighbours_go_in(elasticsearch: Elasticsearch) -> None:
    async with both(elasticsearch) as rooms:
        for one in rooms:
            large = record("large", "common " + "word " * (MOST_BODY_BYTES // 5))
            error = await refused(upsert(one, [large]), EngineRejected, "larger", "smaller")
            assert "word word" not in str(error)
            await upsert(one, [record("a", "common")])
            assert await one.contents("c") == {("a", 1): 1}


async def test_words_longer_than_lucene_takes(elasticsearch: Elasticsearch) -> None:
    async with both(elasticsearch) as (_, index):
        await index.upsert("c", [record("a", "common " + "x" * 40_000)])
        assert len(await search(index)) == 1


async def test_a_proxy_with_a_smaller_limit_gets_smaller_bodies(elasticsearch: Elasticsearch) -> None:
    async with door(elasticsearch.host) as ours, keywords(elasticsearch.url(host=ours.host)) as index:
        await index.create("c", fields=FIELDS)
        ours.answer = lambda path, body: (413, "") if len(body) > 20_000 else None
        records = [record(f"d{n}", "common " + "word " * 400) for n in range(40)]
        await index.upsert("c", records)
        assert len(await index.contents("c")) == 40
        await refused(index.upsert("c", [record("d", "word " * 5_000)]), EngineRejected, "proxy")
        await index.drop("c")


async def test_a_large_write_goes_in_bodies_of_the_size_that_the_url_says(elasticsearch: Elasticsearch) -> None:
    url = elasticsearch.url(bulk_bytes=100_000)
    async with door(elasticsearch.host) as ours, keywords(url.replace(elasticsearch.host, ours.host)) as index:
        await index.create("c", fields=FIELDS)
        ours.asked.clear()
        await index.upsert("c", [record(f"d{n}", "common " + "word " * 400) for n in range(400)])
        bulks = [size for path, size in ours.asked if path.startswith("/_bulk")]
        assert len(bulks) > 5
        assert max(bulks) <= 100_000
        refreshes = sum("_refresh" in path or "refresh=true" in path for path, _ in ours.asked)
        assert refreshes == 1, "one refresh a write, however many bodies"
        assert len(await index.contents("c")) == 400
        await index.drop("c")


# ── what happens to a collection ─────────────────────────────────────────────────────────────────────────────────────


async def test_an_index_deleted_under_us_is_not_made_anew_without_its_mapping(elasticsearch: Elasticsearch) -> None:
    async with both(elasticsearch) as rooms:
        for one in rooms:
            await upsert(one, [record("a", "common")])
            name = one._indices.index("c")
            elasticsearch.ask("DELETE", name)
            await refused(search(one), EngineRejected, "c does not exist", "ragline reindex")
            elasticsearch.ask("PUT", f"{name}-other")  # so that what is remembered of `c` is all there is to go by
            if isinstance(one, ElasticsearchVectorStore):
                await one.create("c", dim=DIM, fields=FIELDS)
            else:
                await one.create("c", fields=FIELDS)
            await upsert(one, [record("a", "common")])
            elasticsearch.ask("DELETE", name)
            await refused(upsert(one, [record("a", "common")]), EngineRejected, "c does not exist", "ragline reindex")
            assert "c" not in await one.collections()
            assert name not in elasticsearch.ask("GET", "_all/_mapping")
            elasticsearch.ask("DELETE", f"{name}-other")


async def test_a_read_only_index_is_a_full_disk(elasticsearch: Elasticsearch) -> None:
    async with both(elasticsearch) as rooms:
        for one in rooms:
            await upsert(one, [record("a", "common")])
            setting = f"{one._indices.index('c')}/_settings"
            elasticsearch.ask("PUT", setting, {"index.blocks.read_only_allow_delete": True})
            await refused(upsert(one, [record("b", "common")]), EngineUnavailable, "watermark", "Free space")
            await refused(one.delete("c", {"a": 2}), EngineUnavailable, "watermark")
            assert await search(one) == ["common"], "it is read"
            elasticsearch.ask("PUT", setting, {"index.blocks.read_only_allow_delete": None})
            await upsert(one, [record("b", "common")])
            assert await one.contents("c") == {("a", 1): 1, ("b", 1): 1}


async def test_names_that_no_index_can_have(elasticsearch: Elasticsearch) -> None:
    async with vectors(elasticsearch.url("names")) as store:
        names = ["Upper-v1", "upper-v1", "größe/*?,", "x" * 300, "x" * 299 + "y"]
        for n, name in enumerate(names):
            await store.create(name, dim=DIM, fields=FIELDS)
            await store.upsert(name, [record(f"d{n}", "common")], embedding("common")[None])
        assert await store.collections() == sorted(names)
        for n, name in enumerate(names):
            assert await store.contents(name) == {(f"d{n}", 1): 1}
            await store.drop(name)
        assert await store.collections() == []


async def test_two_houses_on_one_cluster_see_nothing_of_each_other(elasticsearch: Elasticsearch) -> None:
    async with vectors(elasticsearch.url("one")) as first, vectors(elasticsearch.url("one-vectors")) as second:
        await first.create("c", dim=DIM, fields={})
        await second.create("vectors-c", dim=DIM, fields={})
        assert (await first.collections(), await second.collections()) == (["c"], ["vectors-c"])
        await first.drop("c")
        assert await second.collections() == ["vectors-c"]
        await second.drop("vectors-c")


# ── busy, gone, back ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_cluster_is_waited_for_within_bounds(elasticsearch: Elasticsearch, status: int) -> None:
    url = elasticsearch.url(retries=2)
    async with door(elasticsearch.host) as ours, keywords(url.replace(elasticsearch.host, ours.host)) as index:
        await index.create("c", fields=FIELDS)
        busy = iter([True, True])
        full = (status, "es_rejected_execution_exception")
        ours.answer = lambda path, body: full if path.startswith("/_bulk") and next(busy, False) else None
        await upsert(index, [record("a", "common")])
        assert await index.contents("c") == {("a", 1): 1}
        ours.answer = lambda path, body: full if path.startswith("/_bulk") else None
        ours.asked.clear()
        await refused(upsert(index, [record("b", "common")]), EngineUnavailable, "queues")
        assert sum(path.startswith("/_bulk") for path, _ in ours.asked) == 3
        ours.answer = lambda path, body: full if "_search" in path else None
        ours.asked.clear()
        await refused(search(index), EngineUnavailable)
        assert sum("_search" in path for path, _ in ours.asked) == 1, "a reader waits for no retries"
        ours.answer = lambda path, body: None
        await index.drop("c")


async def test_a_node_that_restarts_between_two_calls(elasticsearch: Elasticsearch) -> None:
    async with both(elasticsearch) as rooms:
        for one in rooms:
            await upsert(one, [record("a", "common")])
        await asyncio.to_thread(elasticsearch.kill)
        for one in rooms:
            await refused(search(one), EngineUnavailable, "cannot be reached")
        await asyncio.to_thread(elasticsearch.start)
        for one in rooms:
            assert await search(one) == ["common"], "acknowledged, so it survives a SIGKILL"
            await upsert(one, [record("b", "common")])
            assert await one.contents("c") == {("a", 1): 1, ("b", 1): 1}


async def test_a_node_that_dies_in_the_middle_of_a_bulk(elasticsearch: Elasticsearch) -> None:
    url = elasticsearch.url(bulk_bytes=20_000)
    async with door(elasticsearch.host) as ours, vectors(url.replace(elasticsearch.host, ours.host)) as store:
        await store.create("c", dim=DIM, fields=FIELDS)
        before = [record("before", f"common {n}", ordinal=n) for n in range(50)]
        await upsert(store, before)
        bodies = 0

        def dying(path: str, body: bytes) -> None:
            nonlocal bodies
            bodies += path.startswith("/_bulk")
            if bodies == 5:
                elasticsearch.kill()

        ours.answer = dying
        records = [record(f"d{n // 10}", f"common word{n}", ordinal=n % 10) for n in range(1_000)]
        await refused(upsert(store, records), EngineUnavailable, "cannot be reached")
        assert bodies >= 5
        ours.answer = lambda path, body: None
        await asyncio.to_thread(elasticsearch.start)
        held = await store.contents("c")
        assert held["before", 1] == 50, "what had been acknowledged"
        assert sum(held.values()) < 1_050
        await upsert(store, records)
        assert await store.contents("c") == {("before", 1): 50, **{(f"d{n}", 1): 10 for n in range(100)}}
        await store.drop("c")


async def test_rows_of_a_process_killed_before_its_refresh_are_removed_with_the_others(
    elasticsearch: Elasticsearch,
) -> None:
    """Durable, acknowledged by the node, and seen by no search yet: a delete must find them."""
    async with door(elasticsearch.host) as ours, keywords(elasticsearch.url(host=ours.host, bulk_bytes=1)) as index:
        await index.create("c", fields=FIELDS)
        ours.answer = lambda path, body: HANG if "_refresh" in path else None
        lost = asyncio.create_task(index.upsert("c", [record("a", "common", ordinal=n) for n in range(3)]))
        await ours_hangs(ours)
        lost.cancel()
        with suppress(asyncio.CancelledError):
            await lost
        ours.answer = lambda path, body: None
        await index.delete("c", {"a": 2})
        assert await index.contents("c") == {}
        await index.drop("c")


@pytest.mark.parametrize("verb", ["search", "upsert", "delete", "contents", "update_payload"])
async def test_a_cancelled_call_leaves_nothing_behind(elasticsearch: Elasticsearch, verb: str) -> None:
    async with door(elasticsearch.host) as ours, keywords(elasticsearch.url(host=ours.host)) as index:
        await index.create("c", fields=FIELDS)
        await index.upsert("c", [record("a", "common")])
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "search": lambda: search(index),
            "upsert": lambda: upsert(index, [record("b", "common")]),
            "delete": lambda: index.delete("c", {"a": 2}),
            "contents": lambda: index.contents("c"),
            "update_payload": lambda: index.update_payload("c", "a", title="t", groups=frozenset(), fields={}),
        }
        before = asyncio.all_tasks()
        ours.answer = lambda path, body: HANG
        call = asyncio.ensure_future(calls[verb]())
        await ours_hangs(ours)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(ours.left.wait(), 30)  # the request is gone from the wire as well
        ours.answer = lambda path, body: None
        assert await search(index) == ["common"]
        left = {task for task in asyncio.all_tasks() - before if "serve" not in str(task.get_coro())}
        assert left == set()
        stats = elasticsearch.ask("GET", "_nodes/stats/indices/search")["nodes"]
        assert [node["indices"]["search"]["open_contexts"] for node in stats.values()] == [0]
        await index.drop("c")


async def test_closing_one_room_leaves_the_other_its_client(elasticsearch: Elasticsearch) -> None:
    options = options_of(elasticsearch.url(), "vectors")
    server = ElasticsearchServer(options.server)
    store, index = ElasticsearchVectorStore(server, options), ElasticsearchKeywordIndex(server, replace(options))
    await store.aclose()
    await store.aclose()
    assert await index.collections() == []
    await refused(store.collections(), EngineUnavailable, "closed")
    await index.aclose()
    await refused(index.collections(), EngineUnavailable, "closed")


async def ours_hangs(ours: Door) -> None:
    """Until a request has come that is not answered."""
    while True:
        ours.arrived.clear()
        await asyncio.wait_for(ours.arrived.wait(), 30)
        if ours.answer(*_last(ours)) is HANG:
            return


def _last(ours: Door) -> tuple[str, bytes]:
    return ours.asked[-1][0], b""
