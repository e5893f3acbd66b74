"""The ingest path on the real engines: late never wins, and a crash at any step loses nothing and doubles nothing."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ragline.api.next_step import next_step
from ragline.build import build, open_embedder
from ragline.contents import Kept
from ragline.errors import (
    DocumentRejected,
    EngineDenied,
    EngineError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    NotFound,
    RaglineError,
)
from ragline.findings import Kind, judge
from ragline.ingest import _Superseded, records
from ragline.protocols import Embedder, Purpose, Vectors
from ragline.settings import Settings
from ragline.types import Document, NamespaceSettings, SearchRequest, State, Upload
from ragline.workers import MOST_BACKOFF_S
from tests.house import NOBODY, House
from tests.reading import Counted


class _Crash(BaseException):
    """Like a kill, as far as one process can: nothing catches it."""


async def test_a_replaced_content_leaves_no_rows_and_no_blobs(house: House) -> None:
    await house.accept("a.txt", "The first version tells of badgers.")
    await house.work()
    changed = await house.accept("a.txt", "The second version tells of otters.")
    await house.work()
    assert await house.found("version tells of") == ["The second version tells of otters."]
    assert await house.held() == {(changed.id, changed.content): 1}
    namespace = await house.system.namespaces.get("default")
    paths = await house.system.contents._blobs.paths(f"default-{namespace.uid}")
    assert {path.split("/")[2] for path in paths} == {changed.blob}


async def test_while_queries_come_documents_are_cut_one_at_a_time(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each cut computes in Python: several at once would keep the event loop waiting for all of them."""
    for n in range(3):
        await house.accept(f"{n}.txt", f"Document {n} tells of badgers.")
    cut, both, lock, inside = house.system.ingest._cut, threading.Event(), threading.Lock(), 0

    def noted(*given: Any) -> Any:
        nonlocal inside
        with lock:
            inside += 1
            if inside == 2:
                both.set()
        both.wait(0.1)
        with lock:
            inside -= 1
        return cut(*given)

    monkeypatch.setattr(house.system.ingest, "_cut", noted)
    with house.system.ingest._background._queries.under_way():
        await asyncio.gather(*(house.system.ingest.process(document) for document in await house.claim()))
    assert not both.is_set()
    assert len(await house.found("tells of badgers")) == 3


async def test_an_old_worker_that_wakes_up_late_does_not_win(house: House) -> None:
    await house.accept("a.txt", "The first version tells of badgers.")
    (late,) = await house.claim()
    namespace = await house.system.namespaces.get("default")
    content = await house.system.ingest.parse(namespace, late)
    vectors = await house.system.ingest.embed(namespace, late, content)
    newer = await house.accept("a.txt", "The second version tells of otters.")
    await house.work()
    with pytest.raises(_Superseded):
        await house.system.ingest.index(late, content, vectors)
    assert await house.found("version tells of") == ["The second version tells of otters."]
    assert await house.held() == {(newer.id, newer.content): 1}


async def test_a_worker_that_is_overtaken_while_it_writes_takes_its_rows_back(house: House, monkeypatch: Any) -> None:
    await house.accept("a.txt", "The first version tells of badgers.")
    (late,) = await house.claim()
    write = house.system.stores.write
    newer: list[Document] = []

    async def overtaken(*args: Any) -> None:
        monkeypatch.undo()
        newer.append(await house.accept("a.txt", "The second version tells of otters."))
        await house.work()
        await write(*args)

    monkeypatch.setattr(house.system.stores, "write", overtaken)
    await house.system.ingest.process(late)
    assert await house.held() == {(newer[0].id, newer[0].content): 1}
    assert await house.found("version tells of") == ["The second version tells of otters."]


@pytest.mark.parametrize("change", ["deleted", "updated", "retried"])
async def test_what_a_late_worker_wrote_before_it_was_killed_is_swept_as_well(
    house: House, monkeypatch: Any, change: str
) -> None:
    document = await house.accept("a.txt", "The first version tells of badgers.")
    (late,) = await house.claim()
    clock = house.system.claims._clock
    write = house.system.stores.write

    async def overtaken_and_killed(*args: Any) -> None:
        monkeypatch.undo()
        if change == "deleted":
            await house.system.documents.delete("default", document.id)
        elif change == "updated":
            await house.accept("a.txt", "The second version tells of otters.")
        else:
            await house.system.documents.retry("default", document.id)
        await house.work()
        await write(*args)
        raise _Crash

    monkeypatch.setattr(house.system.stores, "write", overtaken_and_killed)
    with pytest.raises(_Crash):
        await house.system.ingest.process(late)
    now = await house.look(document)
    served = {(now.id, now.live): 1} if now.live else {}
    assert (now.settled, await house.held()) == (now.revision, served | {(late.id, late.content): 1})
    await house.work()
    assert (late.id, late.content) in await house.held(), "the lease of the late worker has not ended"
    monkeypatch.setattr(clock, "now", lambda: time.time() + 3601.0)
    await house.work()
    assert await house.held() == served
    assert await house.claim() == []


async def test_a_create_that_arrives_after_its_delete_stays_deleted(house: House) -> None:
    document = await house.accept("a.txt", "Nobody shall read of wolverines.")
    (late,) = await house.claim()
    await house.system.documents.delete("default", document.id)
    await house.work()
    await house.system.ingest_worker._one(late)
    assert await house.found("wolverines") == []
    assert await house.held() == {}
    assert (await house.look(document)).state is State.DELETED


STEPS = ("put", "mark_chunked", "embed", "put_vectors", "write", "mark_live", "_delete_rows", "keep_only", "mark_swept")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_crash_around_any_step_is_made_good_by_the_next_attempt(
    house: House, monkeypatch: Any, step: str, after: bool
) -> None:
    await house.accept("a.txt", "The first version tells of badgers.")
    await house.work()
    changed = await house.accept("a.txt", "The second version tells of otters. " * 3)
    system = house.system
    parts = (system.contents, system.claims, system.embedder, system.stores, system.ingest)
    holder = next(part for part in parts if hasattr(part, step))
    real = getattr(holder, step)

    async def crash(*args: Any, **kwargs: Any) -> None:
        if after:
            await real(*args, **kwargs)
        raise _Crash

    monkeypatch.setattr(holder, step, crash)
    with pytest.raises(_Crash):
        await house.work()
    monkeypatch.undo()
    await house.expire_leases()
    await house.work()
    now = await house.look(changed)
    assert (now.live, now.settled, now.garbage) == (changed.content, changed.revision, ())
    assert await house.held() == {(now.id, changed.content): now.chunks}
    assert await house.found("version tells of") == [("The second version tells of otters. " * 3).strip()]


async def test_words_that_change_during_indexing_reach_the_stores(house: House) -> None:
    text = "Only the board may read of mergers."
    await house.accept("a.txt", text)
    (claimed,) = await house.claim()
    await house.accept("a.txt", text, groups=frozenset({"board"}))
    await house.system.ingest.process(claimed)
    await house.work()
    assert await house.found("mergers") == []
    request = SearchRequest(query="mergers", namespace="default", groups=frozenset({"board"}), legs=("dense",))
    assert len((await house.system.search.search(request)).passages) == 1


@pytest.mark.parametrize("error", [EngineUnavailable, EngineTimeout, EngineDenied])
async def test_an_engine_that_is_away_costs_no_attempts_however_long(
    house: House, monkeypatch: Any, error: type[EngineError]
) -> None:
    """Nor does one that is silent for everybody, or lets nobody in."""
    document, system = await house.accept("a.txt", "Herons wait for as long as it takes."), house.system

    async def down(*_: Any, **__: Any) -> None:
        raise error("The store is away.", next_step="Wait.", engine="vectors")

    monkeypatch.setattr(system.vectors, "upsert", down)
    for attempt in (1, 2, 3, 4, 5, 6, 7, 2000):
        await house.expire_leases()
        set_attempt = f"UPDATE documents SET attempt = {attempt - 1} WHERE attempt > 0"
        await system.database.write(lambda c, sql=set_attempt: c.exec_driver_sql(sql).rowcount)  # type: ignore[misc]
        (claimed,) = await house.claim()
        before = system.clock.now()
        await system.ingest_worker._one(claimed)
        row = (await system.upkeep.rows([document.id]))[document.id]
        assert row.lease_until <= system.clock.now() + MOST_BACKOFF_S
        assert row.lease_until > before + min(MOST_BACKOFF_S, 2.0 ** min(attempt, 6)) / 2
    assert (await house.look(document)).state is State.CHUNKED
    story = await system.documents.history(document.id)
    assert sum(entry.event == "engine away" for entry in story) == 8
    step = await next_step(system, await house.look(document))
    assert "It waits for an engine that was away; attempt 2001 begins then" in step.words
    limits = replace(system.audit.limits, chunked_s=0.0)
    overdue = judge(row, [], await _kept(house, document), now=system.clock.now(), limits=limits)
    assert [finding.kind for finding in overdue] == [Kind.OVERDUE]
    monkeypatch.undo()
    await house.expire_leases()
    await house.work()
    assert (await house.look(document)).state is State.INDEXED


async def _kept(house: House, document: Document) -> list[Kept]:
    namespace = await house.system.namespaces.get("default")
    return [one for one in await house.system.contents.kept(namespace) if one.document == document.id]


async def test_an_engine_that_fails_for_a_while_costs_attempts_not_documents(house: House, monkeypatch: Any) -> None:
    document = await house.accept("a.txt", "Patience is a virtue of herons.")
    (claimed,) = await house.claim()

    async def down(*_: Any, **__: Any) -> None:
        raise EngineUnavailable("The store is away.", next_step="Wait.", engine="vectors")

    monkeypatch.setattr(house.system.vectors, "upsert", down)
    await house.system.ingest_worker._one(claimed)
    monkeypatch.undo()
    now = await house.look(document)
    assert (now.state, now.live) == (State.CHUNKED, None)
    events = [(entry.event, entry.detail) for entry in await house.system.documents.history(document.id)]
    assert events[-1] == ("engine away", "The store is away. Wait.")
    await house.expire_leases()
    await house.work()
    assert (await house.look(document)).state is State.INDEXED


@pytest.mark.parametrize("error", [EngineError, EngineTimeout])
async def test_after_the_last_attempt_the_document_fails_with_what_stood_in_its_way(
    house: House, monkeypatch: Any, error: type[EngineError]
) -> None:
    """A timeout is the document's doing where others got their answers meanwhile."""
    document = await house.accept("a.txt", "Some herons have less patience.")

    async def down(*_: Any, **__: Any) -> None:
        house.system.ingest_worker._came_through += error is EngineTimeout
        raise error("The store chokes.", next_step="Wait.", engine="vectors")

    monkeypatch.setattr(house.system.vectors, "upsert", down)
    for _ in range(house.system.settings.ingest.max_attempts):
        await house.expire_leases()
        (claimed,) = await house.claim()
        await house.system.ingest_worker._one(claimed)
    now = await house.look(document)
    assert now.state is State.FAILED
    assert now.reason
    assert now.reason.startswith("gave up: The store chokes.")
    assert f"documents retry {document.id}" in now.reason


async def test_reindex_builds_beside_and_cuts_over_with_what_changed_meanwhile(house: House, monkeypatch: Any) -> None:
    documents = [await house.accept(f"{n}.txt", f"Chapter {n} tells of herons.") for n in range(20)]
    await house.work()
    system = house.system
    before = (await system.namespaces.get("default")).epoch
    epoch = await system.epochs.begin("default")
    await house.accept("3.txt", "Chapter 3 tells of storks now.")
    await system.documents.delete("default", documents[7].id)
    await house.work()

    async def none(*_: Any, **__: Any) -> Any:
        raise AssertionError("a re-index takes text and vectors from the blobs")

    monkeypatch.setattr(system.ingest, "embed_texts", none)
    monkeypatch.setattr(system.ingest, "parse", none)
    await system.epochs.fill("default")
    after = await system.namespaces.get("default")
    assert (after.epoch, after.building) == (epoch, None)
    assert after.epoch.label != before.label
    assert len(await house.held()) == 19
    assert "Chapter 3 tells of storks now." in await house.found("tells of storks")
    assert not any("Chapter 7 " in text for text in await house.found("Chapter 7"))
    assert before.vectors in await system.vectors.collections()  # a query may still be reading it
    expire = "UPDATE epochs SET drop_after = 1 WHERE drop_after > 1"
    await system.database.write(lambda c: c.exec_driver_sql(expire).rowcount)
    await system.epochs.drop_retired()
    assert before.vectors not in await system.vectors.collections()
    assert before.keywords not in await system.keywords.collections()


async def test_a_killed_reindex_is_taken_up_again(house: House, monkeypatch: Any) -> None:
    for n in range(12):
        await house.accept(f"{n}.txt", f"Chapter {n} tells of cranes.")
    await house.work()
    epoch = await house.system.epochs.begin("default")
    write, writes = house.system.stores.write, 0

    async def dying(*args: Any) -> None:
        nonlocal writes
        writes += 1
        if writes > 5:
            raise EngineUnavailable("The power went.", next_step="Wait.", engine="vectors")
        await write(*args)

    monkeypatch.setattr(house.system.stores, "write", dying)
    with pytest.raises(EngineUnavailable):
        await house.system.epochs.fill("default")
    monkeypatch.undo()
    assert (await house.system.epochs.begin("default")).label == epoch.label
    await house.system.epochs.fill("default")
    house.system.snapshots.forget("default")
    assert len(await house.held()) == 12


@pytest.mark.parametrize("change", ["bytes", "delete", "nothing"])
async def test_chunks_that_are_gone_are_made_anew_unless_their_document_has_changed(
    house: House, monkeypatch: Any, change: str
) -> None:
    """The copy reads a row, then the blob: what is swept in between is not missing."""
    document = await house.accept("a.txt", "The first version tells of badgers.")
    await house.accept("b.txt", "Otters swim.")
    await house.work()
    await house.system.epochs.begin("default")
    get, changed = house.system.contents.get, False

    async def swept(namespace: Any, one: Any, blob: str, number: int) -> Any:
        nonlocal changed
        if one.id != document.id or changed:
            return await get(namespace, one, blob, number)
        changed = True
        if change == "bytes":
            await house.accept("a.txt", "The second version tells of herons.")
            await house.work()
        elif change == "delete":
            await house.system.documents.delete("default", document.id)
            await house.work()
        return None

    monkeypatch.setattr(house.system.contents, "get", swept)
    await house.system.epochs.fill("default")
    story = [line.event for line in await house.system.documents.history(document.id)]
    assert story.count("retried") == (change == "nothing")
    await house.work()
    house.system.snapshots.forget("default")
    assert len(await house.held()) == (1 if change == "delete" else 2)


@pytest.mark.parametrize("killed", [False, True], ids=["goes on", "is killed"])
@pytest.mark.parametrize("change", ["bytes", "delete", "delete and purge"])
async def test_a_reindex_leaves_no_rows_of_what_changed_while_it_copied(
    house: House, monkeypatch: Any, change: str, killed: bool
) -> None:
    """Found by a SIGKILL: the copy landed in the building stores after the sweep of what had replaced it."""
    document = await house.accept("a.txt", "The first version tells of badgers.")
    await house.accept("b.txt", "Cranes stay as they are.")
    await house.work()
    await house.system.epochs.begin("default")
    write = house.system.stores.write

    async def overtaken(epoch: Any, rows: Any, *rest: Any) -> None:
        if rows[0].chunk.document != document.id:
            return await write(epoch, rows, *rest)
        monkeypatch.undo()
        if change == "bytes":
            await house.accept("a.txt", "The second version tells of otters.")
        else:
            await house.system.documents.delete("default", document.id)
        await house.work()
        if change == "delete and purge":
            assert await house.system.upkeep.purge_tombstones(older_than_s=-7200.0) == 1
        await write(epoch, rows, *rest)
        if killed:
            raise _Crash
        return None

    monkeypatch.setattr(house.system.stores, "write", overtaken)
    if killed:
        with pytest.raises(_Crash):
            await house.system.epochs.fill("default")
    await house.system.epochs.fill("default")
    house.system.snapshots.forget("default")
    held = await house.held()
    now = await house.system.documents.look(document.id)
    assert {content for id, content in held if id == document.id} == ({now.live} if now and now.live else set())
    assert (await house.system.audit.look()).findings == []


async def test_reparsing_makes_a_new_content_and_leaves_one(house: House) -> None:
    document = await house.accept("a.txt", "Parsed once, parsed twice.")
    await house.work()
    again = await house.system.documents.retry("default", document.id)
    await house.work()
    now = await house.look(document)
    assert (now.live, now.state) == (again.content, State.INDEXED)
    assert await house.held() == {(now.id, again.content): 1}
    namespace = await house.system.namespaces.get("default")
    names = {path.rsplit("/", 1)[1] for path in await house.system.contents._blobs.paths(f"default-{namespace.uid}")}
    assert names == {"original", f"chunks-{now.live}", f"vectors-{now.live}-{house.system.embedder.space.id}"}


async def test_what_was_parsed_again_with_other_settings_is_unchanged_when_it_is_uploaded_again(
    house: House, monkeypatch: Any
) -> None:
    document, system = await house.accept("a.txt", "Parsed as it is asked for now."), house.system
    await house.work()
    monkeypatch.setattr("ragline.registry.acceptance.PARSER_VERSION", 99)
    await system.namespaces.configure("default", NamespaceSettings(chunk_tokens=100))
    system.snapshots.forget("default")
    retried = await system.documents.retry("default", document.id)
    await house.work()
    assert (await house.accept("a.txt", "Parsed as it is asked for now.")).content == retried.content
    await system.namespaces.configure("default", NamespaceSettings(chunk_tokens=50))
    assert (await house.accept("a.txt", "Parsed as it is asked for now.")).content > retried.content


async def test_a_document_the_parser_rejects_raises_its_reason(house: House) -> None:
    await house.accept("a.bin", "\x00\x01\x02" * 500)
    (claimed,) = await house.claim()
    with pytest.raises(DocumentRejected):
        await house.system.ingest.process(claimed)
    with contextlib.suppress(RaglineError):
        await asyncio.gather(house.system.ingest_worker._one(claimed))
    assert (await house.look(claimed)).state is State.FAILED


async def test_documents_in_work_are_in_memory_only_while_they_are_parsed(house: House, monkeypatch: Any) -> None:
    contents, counted = house.system.contents, Counted()
    slots = house.system.ingest._parser._slots._value  # type: ignore[attr-defined]
    original = contents.original

    async def read(*args: Any) -> bytes:
        return counted(await original(*args))

    monkeypatch.setattr(contents, "original", read)
    for n in range(20 * slots):
        await house.accept(f"{n}.txt", f"Number {n} tells of badgers.")
    await asyncio.gather(*map(house.system.ingest.process, await house.claim()))
    assert (await house.system.documents.counts("default"))[State.INDEXED] == counted.ever == 20 * slots
    assert counted.most <= slots
    assert counted.now == 0


async def test_a_parse_that_ends_after_the_delete_leaves_nothing_on_disk(house: House, monkeypatch: Any) -> None:
    document = await house.accept("a.txt", "Nobody shall find this text again.")
    (late,) = await house.claim()
    put = house.system.contents.put

    async def overtaken(*args: Any) -> None:
        monkeypatch.undo()
        await house.system.documents.delete("default", document.id)
        await house.work()
        await put(*args)

    monkeypatch.setattr(house.system.contents, "put", overtaken)
    await house.system.ingest.process(late)
    namespace = await house.system.namespaces.get("default")
    assert await house.system.contents._blobs.paths(f"default-{namespace.uid}/{document.id}") == []
    assert await house.held() == {}


async def test_words_written_late_do_not_stay_over_those_of_a_newer_content(house: House, monkeypatch: Any) -> None:
    await house.accept("a.txt", "Only the board may read of mergers.", groups=frozenset({"board"}))
    await house.work()
    await house.accept("a.txt", "Only the board may read of mergers.", groups=frozenset({"old"}))
    (late,) = await house.claim()
    update = house.system.vectors.update_payload

    async def overtaken(*args: Any, **words: Any) -> None:
        monkeypatch.undo()
        await house.accept("a.txt", "Only the council may read of mergers.", groups=frozenset({"council"}))
        await house.work()
        await update(*args, **words)

    monkeypatch.setattr(house.system.vectors, "update_payload", overtaken)
    await house.system.ingest.process(late)
    await house.work()
    for leg in ("dense", "keyword"):
        request = SearchRequest("mergers", "default", frozenset({"council"}), legs=(leg,))
        assert len((await house.system.search.search(request)).passages) == 1


@pytest.mark.parametrize("meanwhile", ["served", "deleted", "reworded"])
async def test_words_written_late_bring_back_no_older_content(house: House, monkeypatch: Any, meanwhile: str) -> None:
    """As a store does that replaces whole rows: it reads them, and writes them once they are swept."""
    document = await house.accept("a.txt", "Only the board may read of mergers.")
    await house.work()
    await house.accept("a.txt", "Only the board may read of mergers.", groups=frozenset({"board"}))
    (late,) = await house.claim()
    update, system = house.system.vectors.update_payload, house.system

    async def overtaken(collection: str, id: str, **words: Any) -> None:
        monkeypatch.undo()
        epoch, old = (await system.namespaces.get("default")).epoch, await house.look(document)
        content = await system.contents.get(
            await system.namespaces.get("default"), old, old.live_blob or "", old.content
        )
        assert content is not None
        rows = records(old, content, old.content, old.title, epoch)
        await house.accept("a.txt", "Only the council may read of mergers.", groups=frozenset({"council"}))
        await house.work()
        await house.expire_leases()
        await house.work()
        if meanwhile == "deleted":
            await system.documents.delete("default", document.id)
            await house.work()
            await house.expire_leases()
            await house.work()
        elif meanwhile == "reworded":
            await house.accept("a.txt", "Only the council may read of mergers.", groups=frozenset({"all"}))
        space = (await system.namespaces.get("default")).epoch.space
        await system.stores.write(epoch, rows, np.eye(1, space.dim, dtype=np.float32), space)
        await update(collection, id, **words)

    monkeypatch.setattr(house.system.vectors, "update_payload", overtaken)
    await house.system.ingest.process(late)
    await house.work()
    now = await house.look(document)
    assert await house.held() == ({} if meanwhile == "deleted" else {(document.id, now.live): 1})


async def test_a_sweep_leaves_what_a_newer_retry_has_parsed(house: House) -> None:
    document = await house.accept("a.txt", "Parsed again and again.")
    await house.work()
    await house.system.documents.retry("default", document.id)
    (first,) = await house.claim()
    await house.system.ingest.process(first)
    (sweeping,) = await house.claim()
    newer = await house.system.documents.retry("default", document.id)
    (second,) = await house.claim()
    namespace = await house.system.namespaces.get("default")
    await house.system.ingest.parse(namespace, second)
    await house.system.contents.keep_only(namespace, sweeping)
    assert newer.blob
    assert await house.system.contents.get(namespace, second, newer.blob, newer.content) is not None


async def test_a_document_whose_collection_is_dropped_meanwhile_goes_to_the_one_that_serves(house: House) -> None:
    await house.accept("a.txt", "Herons outlive their collections.")
    system = house.system
    (claimed,) = await house.claim()
    stale = await system.snapshots.get("default")
    content = await system.ingest.parse(stale, claimed)
    vectors = await system.ingest.embed(stale, claimed, content)
    await system.epochs.begin("default")
    await system.epochs.fill("default")
    expire = "UPDATE epochs SET drop_after = 1 WHERE drop_after > 1"
    await system.database.write(lambda c: c.exec_driver_sql(expire).rowcount)
    await system.epochs.drop_retired()
    system.snapshots._kept["default"] = (system.clock.monotonic(), stale)
    await system.ingest.index(claimed, content, vectors)
    system.snapshots.forget("default")
    assert len(await house.held()) == 1
    assert await house.found("herons") == ["Herons outlive their collections."]


async def test_new_words_whose_collection_is_dropped_meanwhile_go_to_the_one_that_serves(
    house: House, monkeypatch: Any
) -> None:
    await house.accept("a.txt", "Herons outlive their collections.")
    await house.work()
    await house.accept("a.txt", "Herons outlive their collections.", groups=frozenset({"board"}))
    system, stale = house.system, await house.system.snapshots.get("default")
    (claimed,) = await house.claim()
    await system.epochs.begin("default")
    await system.epochs.fill("default")
    real = system.stores.update_payload

    async def update(epoch: Any, *given: Any, **words: Any) -> None:
        if epoch.label == stale.epoch.label:
            raise EngineRejected("There is no such collection.", next_step="Reindex.", engine="vectors")
        await real(epoch, *given, **words)

    monkeypatch.setattr(system.stores, "update_payload", update)
    await system.ingest.index_words(stale, claimed)
    assert (await house.look(claimed)).state is State.INDEXED
    assert await house.found("herons") == []
    request = SearchRequest(query="herons", namespace="default", groups=frozenset({"board"}), legs=("dense",))
    assert len((await system.search.search(request)).passages) == 1


async def test_bytes_for_a_namespace_that_was_made_anew_meanwhile_are_refused(house: House) -> None:
    old = await house.system.namespaces.get("default")
    await house.system.namespaces.delete("default")
    await house.system.epochs.create_namespace("default", NamespaceSettings())
    with pytest.raises(NotFound):
        await house.system.ingest.accept(old, Upload("a.txt", b"Too late."))
    assert await house.system.documents.page("default", after="", most=10, state=None) == []


async def test_one_document_that_a_store_cannot_hold_does_not_fail_those_written_with_it(house: House) -> None:
    bad = await house.accept("bad.txt", "Half a surrogate in its groups.", groups=frozenset({"\ud800"}))
    good = [await house.accept(f"{n}.txt", f"Good document {n}.") for n in range(5)]
    await asyncio.gather(*(house.system.ingest_worker._one(document) for document in await house.claim()))
    assert [(await house.look(document)).state for document in good] == [State.INDEXED] * 5
    assert (await house.look(bad)).state is State.FAILED


class _Shorter:
    """Another embedder: the first 256 components of the real one, a space of its own."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.space = replace(embedder.space, model="shorter", dim=256)

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Vectors:
        cut = (await self._embedder.embed(texts, purpose=purpose))[:, :256]
        unit: Vectors = cut / np.linalg.norm(cut, axis=1, keepdims=True)
        return unit

    def token_spans(self, text: str) -> Sequence[tuple[int, int]]:
        return self._embedder.token_spans(text)

    async def aclose(self) -> None:
        await self._embedder.aclose()


async def test_another_embedder_never_writes_into_a_space_that_is_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await build(Settings(data_dir=tmp_path))
    old = await House(first).accept("old.txt", "Badgers dig.")
    await House(first).work()
    waiting = await House(first).accept("waiting.txt", "Otters swim.")
    await first.aclose()

    async def shorter(settings: Settings, *_: object) -> Embedder:
        return _Shorter(await open_embedder(settings))

    monkeypatch.setattr("ragline.build.open_embedder", shorter)
    system = await build(Settings(data_dir=tmp_path))
    house = House(system)
    await house.work_as_workers_do()
    found = await house.look(waiting)
    assert (found.state, found.live) == (State.INDEXED, waiting.content)
    epoch = (await system.namespaces.get("default")).epoch
    assert set(await system.vectors.contents(epoch.vectors)) == {(old.id, old.content)}
    retrieved = await system.search.search(SearchRequest("Otters", "default", NOBODY))
    assert [passage.hit.uri for passage in retrieved.passages] == ["waiting.txt"]
    assert retrieved.degraded == ("dense",)
    assert "reindex" in [entry.detail for entry in await system.documents.history(waiting.id)][-1]

    await system.epochs.begin("default")
    beside = await house.accept("beside.txt", "Herons wade.")
    await house.work_as_workers_do()
    await system.epochs.fill("default")
    system.snapshots.forget("default")
    everything = {(one.id, one.content): 1 for one in (old, waiting, beside)}
    assert await house.held() == everything
    assert (await system.search.search(SearchRequest("Otters", "default", NOBODY))).degraded == ()
    await system.aclose()
