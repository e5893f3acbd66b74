"""Documents over the chunk log, on a real broker: nothing lost, nothing doubled, late never wins.

All roles stand in one process on the embedded engines. `REGISTRIES` is where a registry that several processes share is
added, by its URL.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from ragline import log_workers
from ragline.api.app import worker
from ragline.api.next_step import next_step
from ragline.build import build
from ragline.chunklogs.kafka_connection import options_of
from ragline.errors import EngineRejected, EngineTimeout, EngineUnavailable
from ragline.log_workers import EmbedWorker, IndexWorker
from ragline.protocols import Purpose, Vectors
from ragline.settings import IngestSettings, Settings
from ragline.system import WORKER_ROLES, System, WorkerRole
from ragline.types import ChunkMessage, Document, State, Topic
from tests.chunklogs.test_kafka import raw
from tests.engines.kafka import Kafka
from tests.house import House

REGISTRIES = {"sqlite": ""}

WITHIN_S = 120.0
"""For what must come to its end; nothing is asserted about how long it took."""

LONG = " ".join(f"Heron number {n} wades through the shallow water and waits for a fish." for n in range(40))
"""Of several chunks."""


@pytest.fixture(params=REGISTRIES)
def registry(request: pytest.FixtureRequest) -> str:
    return REGISTRIES[request.param]


@pytest.fixture
def settings(kafka: Kafka, registry: str, tmp_path: Path) -> Settings:
    ingest = IngestSettings(max_attempts=2)
    return Settings(data_dir=tmp_path, registry=registry, log=kafka.url(session_s=6), ingest=ingest)


@pytest.fixture
async def system(settings: Settings) -> AsyncIterator[System]:
    system = await build(settings)
    yield system
    await system.aclose()


@pytest.fixture
def house(system: System) -> House:
    return House(system)


@asynccontextmanager
async def working(system: System, roles: Collection[WorkerRole] = WORKER_ROLES) -> AsyncIterator[None]:
    async with task(system.work(roles)):
        yield


@asynccontextmanager
async def task(work: Any) -> AsyncIterator[asyncio.Task[None]]:
    running = asyncio.create_task(work)
    try:
        yield running
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not await condition():
            await asyncio.sleep(0.02)


async def drained(system: System, topic: Topic | None = None) -> None:
    """Until nothing of the log, or of a topic in either lane, is left undone."""
    assert system.log

    async def empty() -> bool:
        assert system.log
        lag = await system.log.lag()
        return not any(left for (name, _), left in lag.items() if topic is None or topic in name)

    await until(empty)


async def settled(system: System) -> None:
    async def none_waiting() -> bool:
        return await system.documents.waiting() == 0

    await until(none_waiting)


async def whole(house: House, documents: Sequence[Document]) -> None:
    """Each is live with all its chunks, once, in both stores, and the audit finds nothing."""
    rows = [await house.look(one) for one in documents]
    assert [(one.state, one.live) for one in rows] == [(State.INDEXED, one.content) for one in rows]
    assert await house.held() == {(one.id, one.content): one.chunks for one in rows}
    assert (await house.system.audit.look()).findings == []


@pytest.fixture
def vectors_kept(system: System, monkeypatch: pytest.MonkeyPatch) -> list[ChunkMessage]:
    """What the embed role would append is kept here instead: the test delivers it."""
    assert system.log
    kept: list[ChunkMessage] = []
    append = system.log.append

    async def keep(topic: Topic, messages: Sequence[ChunkMessage], *, bulk: bool = False) -> None:
        if topic == "doc_vectors":
            kept.extend(messages)
        else:
            await append(topic, messages, bulk=bulk)

    monkeypatch.setattr(system.log, "append", keep)
    return kept


async def embedded(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is accepted is parsed and embedded; afterwards what is appended goes to the log again."""
    async with working(system, ["parse", "embed"]):
        await until(lambda: _handed_over(system))
        await drained(system, "doc_chunks")
    monkeypatch.undo()


async def _handed_over(system: System) -> bool:
    pages = [
        await system.documents.page("default", after="", most=500, state=s) for s in (State.RECEIVED, State.CHUNKED)
    ]
    waiting = [one for page in pages for one in page]
    stories = [await system.documents.history(one.id) for one in waiting]
    return all(any(line.event == "on the log" for line in story) for story in stories)


async def test_documents_go_through_all_three_roles(system: System, house: House) -> None:
    documents = [await house.accept(f"{n}.txt", f"Document {n}. {LONG[: 400 * n]}") for n in range(8)]
    async with working(system):
        await settled(system)
        await drained(system)
    await whole(house, documents)
    assert (await house.look(documents[-1])).chunks != 1
    assert len(await house.found("heron in shallow water")) > 7
    story = [line.event for line in await system.documents.history(documents[0].id)]
    assert story == ["created", "parsed", "on the log", "indexed"]
    namespace = await system.namespaces.get("default")
    row = await house.look(documents[-1])
    assert row.blob
    assert row.chunks
    kept = await system.contents.vectors(namespace, row, row.blob, row.content, system.embedder.space, row.chunks)
    assert kept is not None, "a re-index finds the vectors"


async def test_changes_deletes_words_and_archives_go_the_same_way(system: System, house: House) -> None:
    pack = io.BytesIO()
    with zipfile.ZipFile(pack, "w") as archive:
        archive.writestr("a.txt", "Badgers dig.")
        archive.writestr("b.txt", "Otters swim.")
    async with working(system):
        changed = await house.accept("changed.txt", "The first version tells of badgers.")
        gone = await house.accept("gone.txt", "Nobody shall read of wolverines.")
        zipped = await house.accept("pack.zip", pack.getvalue())
        await settled(system)
        await house.accept("changed.txt", "The second version tells of otters.")
        await system.documents.delete("default", gone.id)
        await settled(system)
        await house.accept("changed.txt", "The second version tells of otters.", groups=frozenset({"council"}))
        await settled(system)
        await until(lambda: _swept(system))
    assert not [text for text in await house.found("version tells of") if "version" in text]
    found = await house.found("version tells of", groups=frozenset({"council"}))
    assert [text for text in found if "version" in text] == ["The second version tells of otters."]
    assert not [text for text in await house.found("wolverines") if "wolverines" in text]
    assert (await house.look(zipped)).state is State.INDEXED
    assert len(await house.held()) == 3
    assert (await house.look(changed)).live == (await house.look(changed)).content
    assert (await system.audit.look()).findings == []


async def _swept(system: System) -> bool:
    return await system.database.read(
        lambda c: c.exec_driver_sql("SELECT count(*) FROM documents WHERE sweep = 1").scalar() == 0
    )


async def test_out_of_order_and_twice(
    system: System, house: House, vectors_kept: list[ChunkMessage], monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [await house.accept(f"{n}.txt", f"Document {n}. {LONG}") for n in range(5)]
    await embedded(system, monkeypatch)
    assert system.log
    shuffled = vectors_kept * 2
    random.Random(3).shuffle(shuffled)
    for one in shuffled:
        await system.log.append("doc_vectors", [one])
    async with working(system, ["index"]):
        await settled(system)
        await drained(system)
        await system.log.append("doc_vectors", vectors_kept[:1])
        await drained(system)
    await whole(house, documents)


async def test_a_revision_that_comes_after_the_next_one_does_not_win(
    system: System, house: House, vectors_kept: list[ChunkMessage], monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.accept("a.txt", "The first version tells of badgers.")
    await embedded(system, monkeypatch)
    newer = await house.accept("a.txt", "The second version tells of otters.")
    async with working(system):
        await settled(system)
        assert system.log
        await system.log.append("doc_vectors", vectors_kept)
        await system.log.append("doc_chunks", [replace(one, space="", vector=b"") for one in vectors_kept])
        await drained(system)
        await settled(system)
    assert await house.found("version tells of") == ["The second version tells of otters."]
    await whole(house, [newer])


async def test_a_create_that_comes_after_its_delete_stays_deleted(
    system: System, house: House, vectors_kept: list[ChunkMessage], monkeypatch: pytest.MonkeyPatch
) -> None:
    document = await house.accept("a.txt", "Nobody shall read of wolverines.")
    await embedded(system, monkeypatch)
    await system.documents.delete("default", document.id)
    async with working(system):
        await settled(system)
        assert system.log
        await system.log.append("doc_vectors", vectors_kept)
        await drained(system)
    assert await house.held() == {}
    assert (await house.look(document)).state is State.DELETED


async def test_a_set_whose_rest_never_comes_is_let_go_once_its_document_has_changed(
    system: System, house: House, vectors_kept: list[ChunkMessage], monkeypatch: pytest.MonkeyPatch
) -> None:
    document = await house.accept("a.txt", LONG)
    await embedded(system, monkeypatch)
    monkeypatch.setattr(log_workers, "LOOK_AGAIN_S", 0.0)
    assert system.log
    await system.log.append("doc_vectors", vectors_kept[:-1])
    async with working(system, ["index"]):
        await until(lambda: _awaits_rest(system))
        await system.documents.delete("default", document.id)
        await drained(system, "doc_vectors")


async def _awaits_rest(system: System) -> bool:
    assert system.index_worker
    return bool(system.index_worker._sets)


@pytest.mark.parametrize("topic", ["doc_chunks", "doc_vectors"])
async def test_poison_goes_to_the_dead_letters_and_the_others_go_on(
    system: System, house: House, settings: Settings, topic: Topic
) -> None:
    assert system.log
    await system.log.lag()  # the topics are made
    await raw(settings.log, topic, b"stranger", b"no chunk \xff")
    documents = [await house.accept(f"{n}.txt", f"Document {n} tells of herons.") for n in range(5)]
    async with working(system):
        await settled(system)
        await drained(system)
    await whole(house, documents)
    (letter,) = await system.log.dead_letters(topic, most=10)
    assert (letter.value, letter.reason) == (b"no chunk \xff", "It is not JSON: UnicodeDecodeError.")


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda one: replace(one, vector=one.vector[:-4]), "383 components"),
        (lambda one: replace(one, vector=np.full(384, np.nan, "<f4").tobytes()), "not finite"),
        (lambda one: replace(one, space="another-model-1"), "of the space another-model-1"),
    ],
    ids=["short", "NaN", "another space"],
)
async def test_a_vector_that_is_none_of_ours_is_buried_and_its_document_driven_again(
    system: System, house: House, vectors_kept: list[ChunkMessage], monkeypatch: pytest.MonkeyPatch,
    wrong: Callable[[ChunkMessage], ChunkMessage], reason: str,
) -> None:  # fmt: skip
    document = await house.accept("a.txt", "Herons wade.")
    await embedded(system, monkeypatch)
    assert system.log
    await system.log.append("doc_vectors", [wrong(one) for one in vectors_kept])
    async with working(system):
        await drained(system)
        assert (await house.look(document)).state is State.CHUNKED
        (letter,) = await system.log.dead_letters("doc_vectors", most=10)
        assert reason in letter.reason
        await house.expire_leases()  # its deadline has come
        await settled(system)
    await whole(house, [document])


async def test_a_document_that_the_embedder_refuses_fails_alone_with_its_reason(
    system: System, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = system.embedder.embed

    async def refusing(texts: Sequence[str], *, purpose: Purpose) -> Vectors:
        if any("wolverine" in text for text in texts):
            raise EngineRejected("It does not like it.", next_step="Ask it why.", engine="embedder:test")
        return await embed(texts, purpose=purpose)

    monkeypatch.setattr(system.embedder, "embed", refusing)
    bad = await house.accept("bad.txt", "A wolverine.")
    good = [await house.accept(f"{n}.txt", f"Document {n} tells of herons.") for n in range(5)]
    async with working(system):
        await settled(system)
        await drained(system)
    await whole_but(house, good, bad)
    row = await house.look(bad)
    assert row.reason
    assert row.reason.startswith("gave up: It does not like it. Ask it why.")
    assert "documents retry" in row.reason
    assert system.log
    (letter,) = await system.log.dead_letters("doc_chunks", most=10)
    assert letter.reason == "It does not like it. Ask it why."


async def whole_but(house: House, good: Sequence[Document], bad: Document) -> None:
    assert (await house.look(bad)).state is State.FAILED
    rows = [await house.look(one) for one in good]
    assert await house.held() == {(one.id, one.content): one.chunks for one in rows}


async def test_an_engine_that_is_away_is_waited_for(
    system: System, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed, upsert, calls = system.embedder.embed, system.vectors.upsert, {"embed": 0, "upsert": 0}
    monkeypatch.setattr(log_workers, "FIRST_BACKOFF_S", 0.01)
    away = EngineUnavailable("It is away.", next_step="Wait.", engine="test")

    async def embed_later(texts: Sequence[str], *, purpose: Purpose) -> Vectors:
        calls["embed"] += 1
        if calls["embed"] <= 5:
            raise away
        return await embed(texts, purpose=purpose)

    async def upsert_later(*given: Any) -> None:
        calls["upsert"] += 1
        if calls["upsert"] <= 5:
            raise away
        await upsert(*given)

    monkeypatch.setattr(system.embedder, "embed", embed_later)
    monkeypatch.setattr(system.vectors, "upsert", upsert_later)
    document = await house.accept("a.txt", "Herons wade.")
    async with working(system):
        await settled(system)
        await drained(system)
    await whole(house, [document])
    assert min(calls.values()) > 5


@pytest.mark.parametrize("role", ["embed", "index"])
async def test_stopped_at_work_it_finishes_what_it_has_and_commits_it(
    system: System, house: House, monkeypatch: pytest.MonkeyPatch, role: WorkerRole
) -> None:
    document = await house.accept("a.txt", LONG)
    if role == "index":
        async with working(system, ["parse", "embed"]):
            await until(lambda: _handed_over(system))
            await drained(system, "doc_chunks")
    reached, go_on = asyncio.Event(), asyncio.Event()
    name = "embed_texts" if role == "embed" else "finish"
    real = getattr(system.ingest, name)

    async def slow(*given: Any, **words: Any) -> Any:
        reached.set()
        await go_on.wait()
        return await real(*given, **words)

    monkeypatch.setattr(system.ingest, name, slow)
    async with task(system.work(["parse", role])) as running:
        await reached.wait()
        running.cancel()
        go_on.set()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    await drained(system, "doc_chunks" if role == "embed" else "doc_vectors")
    if role == "index":
        await whole(house, [document])


@pytest.mark.parametrize("role", ["embed", "index"])
async def test_killed_at_work_another_does_it_again(
    system: System, house: House, monkeypatch: pytest.MonkeyPatch, role: WorkerRole
) -> None:
    documents = [await house.accept(f"{n}.txt", f"Document {n}. {LONG}") for n in range(3)]
    if role == "index":
        async with working(system, ["parse", "embed"]):
            await until(lambda: _handed_over(system))
            await drained(system, "doc_chunks")
    reached = asyncio.Event()

    async def stuck(*_: Any, **__: Any) -> Any:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(log_workers, "DRAIN_S", 0.01)
    monkeypatch.setattr(system.ingest, "embed_texts" if role == "embed" else "finish", stuck)
    async with working(system, ["parse", role]):
        await reached.wait()
    monkeypatch.undo()
    async with working(system):
        await settled(system)
        await drained(system)
    await whole(house, documents)


@pytest.mark.parametrize("change", ["update", "delete"])
async def test_killed_after_it_wrote_what_had_changed_meanwhile_leaves_nothing(
    system: System, house: House, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The change comes between the worker's look and its write, is served or swept, and the worker dies before it looks again."""
    document = await house.accept("a.txt", LONG)
    async with working(system, ["parse", "embed"]):
        await until(lambda: _handed_over(system))
        await drained(system, "doc_chunks")
    reached, write = asyncio.Event(), system.stores.write

    async def changed(*given: Any) -> None:
        if not reached.is_set():
            if change == "update":
                await house.accept("a.txt", "Herons wade.")
            else:
                await system.documents.delete("default", document.id)
                await house.work()
            await write(*given)
            reached.set()
            await asyncio.Event().wait()
        await write(*given)

    monkeypatch.setattr(log_workers, "DRAIN_S", 0.01)
    monkeypatch.setattr(system.stores, "write", changed)
    async with working(system, ["index"]):
        await reached.wait()
    monkeypatch.undo()
    async with working(system):
        await drained(system)
        await until(lambda: _as_it_serves(house, document))
        assert not await _swept(system), "what was on its way to the stores may land later"
        await house.expire_leases()
        await until(lambda: _swept(system))
    assert await _as_it_serves(house, document)


async def _as_it_serves(house: House, document: Document) -> bool:
    now, epoch = await house.look(document), (await house.system.namespaces.get("default")).epoch
    vectors, keywords = house.system.vectors, house.system.keywords
    books = [await vectors.contents(epoch.vectors), await keywords.contents(epoch.keywords)]
    held = [{key: chunks for key, chunks in book.items() if key[0] == document.id} for book in books]
    served = {} if now.state is State.DELETED else {(now.id, now.live): now.chunks}
    return now.settled == now.revision and held == [served, served]


async def test_what_a_try_that_gave_up_had_sent_goes_when_it_lands_behind_its_successor(
    system: System, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    document, write, gave_up = await house.accept("a.txt", LONG), system.stores.write, asyncio.Event()

    async def later(*given: Any) -> None:
        if gave_up.is_set():
            return await write(*given)
        gave_up.set()
        await house.accept("a.txt", "Herons wade.")
        await until(lambda: _as_it_serves(house, document))
        await until(lambda: _swept(system))
        await write(*given)
        raise EngineTimeout("It gives no answer.", next_step="Wait.", engine="test")

    monkeypatch.setattr(log_workers, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(system.stores, "write", later)
    async with working(system):
        await gave_up.wait()
        await until(lambda: _is_live(house, document))
        await drained(system)
        await until(lambda: _as_it_serves(house, document))
        await house.expire_leases()
        await until(lambda: _swept(system))
    assert await _as_it_serves(house, document)


async def _is_live(house: House, document: Document) -> bool:
    now = await house.look(document)
    return now.live == now.content != document.content


async def test_what_changes_on_the_log_is_settled_as_soon_as_it_is_served(system: System, house: House) -> None:
    """Its deadline is no worker's lease: nothing is waited for."""
    updated, deleted = await house.accept("a.txt", "Herons wade."), await house.accept("b.txt", "Otters swim.")
    async with working(system, ["parse"]):
        await until(lambda: _handed_over(system))
    await house.accept("a.txt", "Herons stand.")
    await system.documents.delete("default", deleted.id)
    async with working(system):
        for one in (updated, deleted):
            await until(partial(_as_it_serves, house, one))
    assert await house.found("herons") == ["Herons stand."]


async def test_what_is_whole_goes_live_though_sorting_in_fails(
    system: System, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its set would be busy for ever, and whatever comes again would join it."""
    document = await house.accept("a.txt", LONG)

    async def silent(*_: Any) -> None:
        raise EngineTimeout("It does not answer.", next_step="Wait.", engine="registry")

    monkeypatch.setattr(log_workers, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(system.ingest, "sweep_behind", silent)
    async with working(system):
        await settled(system)
        assert system.index_worker
        assert system.index_worker._sets == {}
    await whole(house, [document])


async def test_what_outlives_its_deadline_is_appended_again(system: System, house: House) -> None:
    document = await house.accept("a.txt", "Herons wade.")
    async with working(system, ["parse"]):
        await until(lambda: _handed_over(system))
        step = await next_step(system, await house.look(document))
        assert "on the chunk log" in step.words
        assert step.at
        assert await system.claims.claim(most=10, lease_s=60.0) == []
        assert await system.claims.end_leases_beyond(system.ingest.longest_lease_s + 1.0) == 0
        await house.expire_leases()

        async def twice() -> bool:
            story = await system.documents.history(document.id)
            return sum(line.event == "on the log" for line in story) == 2

        await until(twice)
    async with working(system):
        await settled(system)
        await drained(system)
    await whole(house, [document])


async def test_a_restart_leaves_to_the_log_what_the_log_has(settings: Settings, system: System, house: House) -> None:
    document = await house.accept("a.txt", "Herons wade.")
    async with working(system, ["parse"]):
        await until(lambda: _handed_over(system))
    waiting = await house.accept("b.txt", "Otters swim.")
    (held,) = await system.claims.claim(most=10, lease_s=3600.0)
    assert held.id == waiting.id
    await system.claims.end_all_leases(but_on_log=True)
    (again,) = await system.claims.claim(most=10, lease_s=3600.0)
    assert again.id == waiting.id
    assert await system.claims.deaths(document) == 0


async def test_what_is_parsed_again_while_it_serves_goes_by_the_bulk_lane(
    system: System, house: House, settings: Settings
) -> None:
    document = await house.accept("a.txt", "Herons wade.")
    async with working(system):
        await settled(system)
        await drained(system)
    await system.documents.retry("default", document.id)
    bulk = options_of(settings.log).topic("doc_chunks", bulk=True)

    async def only_bulk_waits() -> bool:
        assert system.log
        waiting = [name for (name, _), left in (await system.log.lag()).items() if left]
        assert set(waiting) <= {bulk}
        return waiting == [bulk]

    async with working(system, ["parse"]):
        await until(only_bulk_waits)
    async with working(system):
        await settled(system)
        await drained(system)
        await until(lambda: _swept(system))
    await whole(house, [document])


async def test_two_workers_a_role_share_and_one_leaves(system: System, house: House) -> None:
    assert system.log
    assert system.embed_worker
    assert system.index_worker
    dead_letters = system.embed_worker._dead_letters
    embedding = EmbedWorker(ingest=system.ingest, chunk_log=system.log, dead_letters=dead_letters, attempts=2)
    indexing = IndexWorker(
        ingest=system.ingest, chunk_log=system.log, dead_letters=dead_letters, clock=system.clock, attempts=2
    )
    documents = [await house.accept(f"{n}.txt", f"Document {n}. {LONG}") for n in range(20)]
    async with working(system), task(indexing.run()):
        async with task(embedding.run()):
            documents += [await house.accept(f"{n}.txt", f"Document {n}. {LONG}") for n in range(20, 40)]
            await until(lambda: _some_live(system, 5))
        documents += [await house.accept(f"{n}.txt", f"Document {n}. {LONG}") for n in range(40, 50)]
        await settled(system)
        await drained(system)
    await whole(house, documents)
    assert await system.log.dead_letters("doc_vectors", most=10) == []


async def _some_live(system: System, count: int) -> bool:
    return (await system.documents.counts("default")).get(State.INDEXED, 0) >= count


async def test_a_broker_that_is_killed_in_the_middle_loses_nothing(system: System, house: House, kafka: Kafka) -> None:
    documents = [await house.accept(f"{n}.txt", f"Document {n}. {LONG}") for n in range(40)]
    async with working(system):
        await until(lambda: _some_live(system, 3))
        await asyncio.to_thread(kafka.kill)
        documents += [await house.accept(f"{n}.txt", f"Document {n}. {LONG}") for n in range(40, 45)]
        await asyncio.to_thread(kafka.start)
        await settled(system)
        await drained(system)
    await whole(house, documents)


async def test_lag_and_readiness_are_told(system: System, house: House, settings: Settings) -> None:
    await house.accept("a.txt", LONG)
    async with working(system, ["parse"]):
        await until(lambda: _handed_over(system))
    transport = httpx.ASGITransport(app=worker(system, owner_token="x"))
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        told = (await client.get("/metrics")).text
        ready = await client.get("/readyz")
    options = options_of(settings.log)
    line = f'consumer_lag{{group="{options.group("doc_chunks")}",topic="{options.topic("doc_chunks")}"}}'
    (value,) = [one.rpartition(" ")[2] for one in told.splitlines() if one.startswith(line)]
    assert float(value) > 1
    assert ready.json() == {"ready": True, "missing": []}
