"""pgvector on a real PostgreSQL: the contract, and what goes wrong with a server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from ragline.connections.postgresql import COMMAND_S
from ragline.errors import ConfigurationError, EngineRejected, EngineUnavailable
from ragline.protocols import VectorStore
from ragline.testing.corpus import DIM, FIELDS, embedding, embeddings, record
from ragline.testing.vectors import VectorStoreContract
from ragline.types import AnyOf, Scope
from ragline.vectors import pgvector as adapter
from ragline.vectors.pgvector import MOST_DIM, PgvectorVectorStore, check_extension
from tests.engines.postgres import Postgres
from tests.engines.server import free_port

EVERYBODY = Scope()
OF_A_KIND = Scope(conditions=(AnyOf("kind", ("k",)),))


@pytest.fixture
async def url(postgres: Postgres) -> str:
    return await postgres.database()


@pytest.fixture
async def store(url: str) -> AsyncIterator[PgvectorVectorStore]:
    store = PgvectorVectorStore(url)
    await store.create("c", dim=DIM, fields=FIELDS)
    yield store
    await store.aclose()


@pytest.mark.parametrize("words", ["", "?type=halfvec"])
class TestContract(VectorStoreContract):
    @pytest.fixture
    def connect(self, url: str, words: str) -> Callable[[], VectorStore]:
        return lambda: PgvectorVectorStore(url + words)


async def _works(store: PgvectorVectorStore, word: str) -> None:
    await store.upsert("c", [record(word, word)], embeddings([record(word, word)]))
    assert [hit.chunk.text for hit in await store.search("c", embedding(word), top_k=1, scope=EVERYBODY)] == [word]


async def test_an_exact_search_passes_the_index_by_within_the_scope(store: PgvectorVectorStore) -> None:
    rows = [record(f"d{n}", f"word{n % 7} other{n}", fields={"kind": "k" if n % 2 else "other"}) for n in range(200)]
    vectors, asked = embeddings(rows), embedding("word3 other10")
    await store.upsert("c", rows, vectors)
    scores = vectors.astype(np.float32) @ asked
    for scope, among in ((EVERYBODY, scores), (OF_A_KIND, scores[1::2])):
        found = await store.search_exactly("c", asked, top_k=10, scope=scope)
        assert [hit.score for hit in found] == pytest.approx(sorted(among, reverse=True)[:10], abs=1e-3)


async def test_a_server_that_was_restarted_is_found_again(postgres: Postgres, store: PgvectorVectorStore) -> None:
    await _works(store, "before")
    await asyncio.to_thread(postgres.restart)
    with contextlib.suppress(EngineUnavailable):  # the pool may find only then that its connection is gone
        await _works(store, "after")
    await _works(store, "later")


async def test_a_cut_connection_is_unavailable_and_the_next_call_goes_on(
    postgres: Postgres, url: str, store: PgvectorVectorStore
) -> None:
    rows = [record(f"d{n}", f"word{n}") for n in range(5_000)]
    writing = asyncio.create_task(store.upsert("c", rows, embeddings(rows)))
    while not writing.done():
        await postgres.cut(url)
        await asyncio.sleep(0.01)
    with pytest.raises(EngineUnavailable):
        await writing
    assert await store.contents("c") == {}, "half of a write is none of it"
    await _works(store, "after")


@pytest.fixture
async def silent(url: str) -> AsyncIterator[tuple[str, asyncio.Event, asyncio.Event]]:
    """The server behind a line that falls silent: its URL, what makes it so, and whether it has swallowed something since."""
    hushed, swallowed, lines = asyncio.Event(), asyncio.Event(), list[asyncio.StreamWriter]()
    there = urlsplit(url)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while some := await reader.read(65_536):
                if hushed.is_set():
                    swallowed.set()
                else:
                    writer.write(some)
        if not hushed.is_set():
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        further, back = await asyncio.open_connection(there.hostname, there.port)
        lines.extend((writer, back))
        await asyncio.gather(pass_on(reader, back), pass_on(further, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    yield there._replace(netloc=f"{there.username}@127.0.0.1:{port}").geturl(), hushed, swallowed
    server.close()
    for line in lines:
        line.close()


async def test_a_caller_that_leaves_a_silent_server_is_let_go(
    silent: tuple[str, asyncio.Event, asyncio.Event],
) -> None:
    """The driver waits for the server to say that the statement has ended: without a bound, as long as a statement may take."""
    url, hushed, swallowed = silent
    store = PgvectorVectorStore(url)
    await store.create("c", dim=DIM, fields=FIELDS)
    await _works(store, "before")
    hushed.set()
    asked = asyncio.create_task(store.search("c", embedding("x"), top_k=1, scope=EVERYBODY))
    await swallowed.wait()
    asked.cancel()
    done, _ = await asyncio.wait([asked], timeout=COMMAND_S / 3)
    assert done
    assert asked.cancelled()
    closing = asyncio.create_task(store.aclose())
    closed, _ = await asyncio.wait([closing], timeout=COMMAND_S / 3)
    assert closed
    closing.result()


async def test_a_table_dropped_under_us(postgres: Postgres, url: str, store: PgvectorVectorStore) -> None:
    database = url.rsplit("/", 1)[1]
    await postgres.run("DROP TABLE ragline_vectors_1", database)
    for call in (
        store.search("c", embedding("x"), top_k=1, scope=EVERYBODY),
        store.upsert("c", [record("a", "x")], embeddings([record("a", "x")])),
    ):
        with pytest.raises(EngineRejected, match="no vector collection c") as gone:
            await call
        assert "reindex" in gone.value.next_step


async def test_a_collection_that_another_process_made_anew_is_found(url: str, store: PgvectorVectorStore) -> None:
    other = PgvectorVectorStore(url)
    await other.drop("c")
    await other.create("c", dim=DIM, fields=FIELDS)
    await other.aclose()
    with pytest.raises(EngineRejected):
        await store.contents("c")  # what it knew is gone; it asks again
    await _works(store, "after")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
async def test_a_vector_that_is_no_number_is_refused(store: PgvectorVectorStore, bad: float) -> None:
    rows = [record("a", "x"), record("b", "y")]
    vectors = embeddings(rows)
    vectors[1, 3] = bad
    with pytest.raises(EngineRejected, match="NaN") as refused:
        await store.upsert("c", rows, vectors)
    assert "embedder" in refused.value.next_step
    assert await store.contents("c") == {}


async def test_a_vector_of_another_length_is_refused(store: PgvectorVectorStore) -> None:
    with pytest.raises(EngineRejected, match="shape"):
        await store.upsert("c", [record("a", "x")], np.ones((1, DIM + 1), np.float32))
    with pytest.raises(EngineRejected, match="shape"):
        await store.search("c", np.ones(DIM + 1, np.float32), top_k=1, scope=EVERYBODY)


async def _large(postgres: Postgres, url: str, store: PgvectorVectorStore) -> None:
    """A table of a size at which the planner, left to itself, sorts all of it. Every hundredth chunk is of the kind "k"."""
    rows = [record(f"d{n}", f"word{n}", fields={} if n % 100 else {"kind": "k"}) for n in range(adapter.RARE + 500)]
    await store.upsert("c", rows, embeddings(rows))
    await postgres.run("ANALYZE", url.rsplit("/", 1)[1])


async def test_a_common_scope_is_searched_through_the_index_and_a_rare_one_is_not(
    postgres: Postgres, url: str, store: PgvectorVectorStore
) -> None:
    await _large(postgres, url, store)

    async def scans() -> int:
        async with store._connection() as connection:
            await connection.execute("SELECT pg_stat_force_next_flush()")
            name = "ragline_vectors_1_embedding"
            return int(
                await connection.fetchval("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = $1", name)
            )

    assert (await store.search("c", embedding("word7"), top_k=1, scope=EVERYBODY))[0].chunk.document == "d7"
    assert await scans() == 1
    assert len(await store.search("c", embedding("word7"), top_k=100, scope=OF_A_KIND)) == 55
    assert await scans() == 1


async def test_a_scope_that_the_index_gives_up_on_is_found_whole(
    postgres: Postgres, url: str, store: PgvectorVectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _large(postgres, url, store)
    monkeypatch.setattr(adapter, "RARE", 30)
    monkeypatch.setattr(adapter, "MOST_SCANNED", 1)
    other = PgvectorVectorStore(url)
    hits = await other.search("c", embedding("word7"), top_k=50, scope=OF_A_KIND)
    await other.aclose()
    assert len(hits) == 50


@pytest.mark.parametrize("groups", [(), ("staff",)])
async def test_a_thousand_of_one_score_are_put_in_order_by_the_server(
    store: PgvectorVectorStore, groups: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, no more are fetched than a few times what was asked for."""
    monkeypatch.setattr(adapter, "RARE", 30)
    rows = [record(f"d{n}", "twin" if n else "twin other", groups=groups) for n in range(1_000)]
    for at in range(0, 1_000, 250):
        await store.upsert("c", rows[at : at + 250], embeddings(rows[at : at + 250]))
    made, hit = 0, adapter._hit

    def counted(*given: Any) -> Any:
        nonlocal made
        made += 1
        return hit(*given)

    monkeypatch.setattr(adapter, "_hit", counted)
    hits = await store.search("c", embedding("twin"), top_k=10, scope=Scope(frozenset(groups)))
    assert [one.chunk.id for one in hits] == sorted(one.chunk.id for one in rows[1:])[:10]
    assert made == 10
    (last,) = await store.search("c", embedding("other"), top_k=1, scope=Scope(frozenset(groups)))
    assert last.chunk.document == "d0"


async def test_a_scope_is_counted_again_after_a_while(
    store: PgvectorVectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "RARE", 3)
    monkeypatch.setattr(adapter, "COMMON_S", 0.0)
    monkeypatch.setattr(adapter, "MOST_COMMON", 2)
    rows = [record(f"d{n}", f"word{n}") for n in range(20)]
    await store.upsert("c", rows, embeddings(rows))
    for n in range(6):
        await store.search("c", embedding("word7"), top_k=1, scope=Scope(frozenset({f"group-{n}"})))
        assert len(store._common) <= 2
    await store.delete("c", {f"d{n}": 2 for n in range(19)})
    (hit,) = await store.search("c", embedding("word7"), top_k=20, scope=EVERYBODY)
    assert hit.chunk.document == "d19"


async def test_more_dimensions_than_an_index_takes(url: str) -> None:
    store = PgvectorVectorStore(url)
    with pytest.raises(EngineRejected, match="2000") as refused:
        await store.create("wide", dim=MOST_DIM["vector"] + 1, fields={})
    assert "halfvec" in refused.value.next_step
    await store.aclose()


async def test_a_wrong_port() -> None:
    store = PgvectorVectorStore(f"postgresql://postgres@127.0.0.1:{free_port()}/x")
    with pytest.raises(EngineUnavailable, match="not reached") as away:
        await store.collections()
    assert "host and port" in away.value.next_step
    await store.aclose()


async def test_an_old_extension_is_refused() -> None:
    with pytest.raises(EngineRejected, match=r"0\.8"):
        check_extension("0.7.4")
    check_extension("0.8.6")


@pytest.mark.parametrize("words", ["m=many", "type=bit", "colour=red"])
def test_words_of_the_url_that_nobody_knows(words: str) -> None:
    with pytest.raises(ConfigurationError):
        PgvectorVectorStore(f"postgresql://h/d?{words}")


async def test_a_text_with_nul_in_it_comes_back_as_it_was(store: PgvectorVectorStore) -> None:
    one = record("a\0b", "x\0y", title="t\0", groups={"g\0"}, fields={"kind": "k\0"})
    await store.upsert("c", [one], embeddings([one]))
    (hit,) = await store.search("c", embedding("x\0y"), top_k=1, scope=Scope(frozenset({"g\0"})))
    assert (hit.chunk, hit.title) == (one.chunk, "t\0")


async def test_two_processes_make_one_collection(url: str) -> None:
    stores = [PgvectorVectorStore(url) for _ in range(4)]
    await asyncio.gather(*(store.create("same", dim=DIM, fields=FIELDS) for store in stores))
    assert await stores[0].collections() == ["same"]
    await asyncio.gather(*(store.aclose() for store in stores))
