"""The document state machine: sequence, revisions, leases, and that late never wins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, event

from ragline.connections.database import Database
from ragline.errors import NotFound, Reason
from ragline.registry.acceptance import Accepted, Incoming
from ragline.registry.claims import Claims
from ragline.registry.documents import Documents
from ragline.registry.guard import Guard
from ragline.registry.members import Members
from ragline.registry.migrations import SCHEMA
from ragline.registry.namespaces import Namespaces
from ragline.registry.tables import DUE, documents
from ragline.types import Document, FieldType, NamespaceSettings, Space, State

SPACE = Space("toy", "0" * 64, "fp32", 4, 256)
LEASE_S = 60.0


class HandClock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.at = 1_700_000_000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class Registry:
    def __init__(self, database: Database, clock: HandClock) -> None:
        self.database = database
        self.clock = clock
        self.documents = Documents(database, clock)
        self.claims = Claims(database, clock)
        self.guard = Guard(database, clock, deadline_ms=60_000)
        self.namespaces = Namespaces(database, clock)

    async def accept(self, uri: str = "a.txt", **words: object) -> Accepted:
        given = {"title": None, "groups": frozenset[str](), "metadata": {}, "sha256": "1" * 64, "blob": "b1"} | words
        fingerprint = f"{given['sha256']}"
        incoming = Incoming(uri=uri, media_type=None, size=1, fingerprint=fingerprint, **given)  # type: ignore[arg-type]
        return await self.documents.accept(await self.namespaces.get("n"), incoming)

    async def claim(self) -> list[Document]:
        return await self.claims.claim(most=10, lease_s=LEASE_S)

    async def live(self, document: Document) -> bool:
        epochs = frozenset({(await self.namespaces.get("n")).epoch.label})
        return await self.claims.mark_live(document, title="t", epochs=epochs, event="indexed", detail="", took_s=0.0)

    async def indexed(self, uri: str = "a.txt", **words: object) -> Document:
        await self.accept(uri, **words)
        (claimed,) = await self.claim()
        assert await self.claims.mark_chunked(claimed, chunks=1, title="t", took_s=0.0)
        assert await self.live(claimed)
        return await self.look(claimed.id)

    async def look(self, id: str) -> Document:
        found = await self.documents.look(id)
        assert found is not None
        return found

    async def sequence(self) -> int:
        return (await self.namespaces.get("n")).sequence

    async def visible(self) -> int:
        return (await self.namespaces.get("n")).visible


@pytest.fixture
async def registry(registry_url: str) -> AsyncIterator[Registry]:
    database = await Database.open(registry_url, SCHEMA)
    registry = Registry(database, HandClock())
    epoch = await registry.namespaces.plan_epoch("n", SPACE, {"year": FieldType.INTEGER})
    await registry.namespaces.create(NamespaceSettings(), epoch)
    yield registry
    await database.aclose()


async def test_each_accepted_change_takes_the_next_sequence_number(registry: Registry) -> None:
    first = await registry.accept("a.txt")
    second = await registry.accept("b.txt")
    assert (first.outcome, first.sequence, second.sequence) == ("created", 1, 2)
    assert second.document.revision == second.document.content == 2


async def test_the_same_upload_again_is_unchanged_and_counts_as_verified(registry: Registry) -> None:
    first = await registry.accept()
    registry.clock.at += 10
    again = await registry.accept(blob="b2")
    assert again.outcome == "unchanged"
    assert again.document.blob == "b1"
    assert again.document.verified_at == first.document.verified_at + 10
    assert await registry.sequence() == 1


async def test_only_words_changed_keeps_content_and_serves_on(registry: Registry) -> None:
    before = await registry.indexed()
    visible = await registry.visible()
    changed = await registry.accept(groups=frozenset({"hr"}), blob="b2")
    assert changed.outcome == "payload"
    now = changed.document
    assert (now.content, now.live, now.revision, now.state) == (before.content, before.live, 2, State.CHUNKED)
    assert await registry.visible() == visible + 1
    assert (await registry.guard.look("n", [now.id])).rows[now.id].groups == {"hr"}


async def test_the_old_content_serves_until_the_new_one_is_live(registry: Registry) -> None:
    old = await registry.indexed()
    new = (await registry.accept(sha256="2" * 64, blob="b2")).document
    assert (new.live, new.content) == (old.content, 2)
    (claimed,) = await registry.claim()
    assert await registry.claims.mark_chunked(claimed, chunks=1, title="t", took_s=0.0)
    assert (await registry.look(old.id)).live == old.content
    assert await registry.live(claimed)
    now = await registry.look(old.id)
    assert (now.live, now.live_blob, now.garbage, now.state) == (2, "b2", ("b1",), State.INDEXED)


async def test_a_late_worker_changes_nothing(registry: Registry) -> None:
    await registry.accept()
    (late,) = await registry.claim()
    await registry.accept(sha256="2" * 64, blob="b2")
    assert not await registry.claims.mark_chunked(late, chunks=1, title="t", took_s=0.0)
    assert not await registry.live(late)
    assert not await registry.claims.mark_failed(late, Reason.DAMAGED, "", took_s=0.0)
    now = await registry.look(late.id)
    assert (now.live, now.state, now.content) == (None, State.RECEIVED, 2)


async def test_an_older_attempt_is_fenced_off(registry: Registry) -> None:
    await registry.accept()
    (first,) = await registry.claim()
    assert await registry.claim() == []
    registry.clock.at += LEASE_S + 1
    (second,) = await registry.claim()
    assert (first.attempt, second.attempt) == (1, 2)
    assert not await registry.live(first)
    assert await registry.live(second)


async def test_words_changed_while_a_worker_writes_stay_due(registry: Registry) -> None:
    await registry.accept()
    (claimed,) = await registry.claim()
    await registry.accept(groups=frozenset({"hr"}))
    assert await registry.live(claimed)
    now = await registry.look(claimed.id)
    assert (now.live, now.settled, now.revision, now.state) == (1, 1, 2, State.CHUNKED)
    (again,) = await registry.claim()
    assert again.groups == {"hr"}


async def test_what_lies_in_an_archive_is_written_by_the_same_few_statements_however_much_it_is(
    registry: Registry,
) -> None:
    counted: dict[str, list[int]] = {}

    async def count(what: str, work: Awaitable[object]) -> None:
        statements = list[str]()
        event.listen(Engine, "before_cursor_execute", note := lambda *given: statements.append(given[2]))
        try:
            await work
        finally:
            event.remove(Engine, "before_cursor_execute", note)
        counted.setdefault(what, []).append(len(statements))

    members, holder = Members(registry.database, registry.clock), await registry.namespaces.get("n")
    for size in (3, 300):
        words = {"groups": frozenset[str](), "metadata": {}, "sha256": "2" * 64, "fingerprint": "2", "blob": "b2"}
        names = [f"{size}.zip!/{n}.txt" for n in range(size)]
        inside = [Incoming(uri=name, title=None, media_type=None, size=1, **words) for name in names]  # type: ignore[arg-type]
        await registry.accept(f"{size}.zip")
        (archive,) = await registry.claim()
        for what in ("new", "known"):
            await count(what, members.accept(holder, archive, inside))
        await count("vanished", members.keep_only(archive, set(), told="nothing"))
        await count("back", members.accept(holder, archive, inside))
        await count("other readers", registry.accept(f"{size}.zip", groups=frozenset({"hr"})))
        await count("deleted", registry.documents.delete("n", archive.id))
        await registry.claims.end_all_leases()
        for gone in await registry.claims.claim(most=1000, lease_s=LEASE_S):
            await registry.claims.mark_swept(gone)
    assert {what: few for what, (few, _) in counted.items()} == {what: many for what, (_, many) in counted.items()}
    assert max(max(both) for both in counted.values()) < 20


async def test_a_delete_is_not_served_from_then_on_and_a_later_create_begins_anew(registry: Registry) -> None:
    live = await registry.indexed()
    gone = (await registry.documents.delete("n", live.id)).document
    assert (gone.live, gone.state, gone.garbage) == (None, State.DELETED, ("b1",))
    with pytest.raises(NotFound):
        await registry.documents.get("n", live.id)
    (claimed,) = await registry.claim()
    assert await registry.claims.mark_swept(claimed)
    assert await registry.claim() == []
    assert await registry.sequence() == (await registry.look(live.id)).settled
    again = await registry.accept(blob="b3")
    assert (again.outcome, again.document.state, again.document.content) == ("updated", State.RECEIVED, 3)


async def test_a_replaced_content_is_swept_only_once_the_new_one_is_live(registry: Registry) -> None:
    await registry.indexed()
    await registry.accept(sha256="2" * 64, blob="b2")
    (claimed,) = await registry.claim()
    await registry.claims.mark_failed(claimed, Reason.DAMAGED, "torn", took_s=0.0)
    assert await registry.claim() == []
    failed = await registry.look(claimed.id)
    assert (failed.live, failed.live_blob, failed.state) == (1, "b1", State.FAILED)
    await registry.accept(sha256="3" * 64, blob="b3")
    (claimed,) = await registry.claim()
    assert await registry.live(claimed)
    (sweeping,) = await registry.claim()
    assert sweeping.garbage == ("b1", "b2")
    assert await registry.claims.mark_swept(sweeping)
    assert (await registry.look(sweeping.id)).garbage == ()
    assert await registry.claim() == []


async def test_the_same_bytes_after_a_failure_are_tried_again(registry: Registry) -> None:
    await registry.accept()
    (claimed,) = await registry.claim()
    await registry.claims.mark_failed(claimed, Reason.TIMEOUT, "60 s", took_s=60.0)
    again = await registry.accept(blob="b2")
    assert (again.outcome, again.document.state) == ("updated", State.RECEIVED)
    events = [entry.event for entry in await registry.documents.history(claimed.id)]
    assert events == ["created", "failed", "updated"]


async def test_going_live_is_refused_while_the_epochs_are_others(registry: Registry) -> None:
    await registry.accept()
    (claimed,) = await registry.claim()
    building = await registry.namespaces.plan_epoch("n", SPACE, {})
    await registry.namespaces.start_building(building, drop_after_s=0.0)
    assert not await registry.live(claimed)
    assert (await registry.look(claimed.id)).live is None


async def test_two_uploads_of_one_uri_at_once_are_two_revisions_of_one_document(registry: Registry) -> None:
    both = await asyncio.gather(
        registry.accept(sha256="1" * 64, blob="b1"), registry.accept(sha256="2" * 64, blob="b2")
    )
    assert {one.document.id for one in both} == {both[0].document.id}
    assert sorted(one.sequence for one in both) == [1, 2]
    assert (await registry.look(both[0].document.id)).content == 2


async def test_settled_names_the_last_sequence_before_unfinished_work(registry: Registry) -> None:
    first = await registry.indexed("a.txt")
    await registry.accept("b.txt")
    await registry.accept("c.txt")
    assert (await registry.guard.look("n", [first.id])).settled == 1
    assert await registry.documents.settled("n", 1, deadline_s=0.0)
    assert not await registry.documents.settled("n", 2, deadline_s=0.0)


async def test_a_waiter_is_woken_by_the_commit_it_waits_for(registry: Registry) -> None:
    await registry.accept()
    waiting = asyncio.create_task(registry.documents.settled("n", 1, deadline_s=30.0))
    (claimed,) = await registry.claim()
    await registry.live(claimed)
    assert await waiting


async def test_the_guard_does_not_cross_namespaces(registry: Registry) -> None:
    document = await registry.indexed()
    epoch = await registry.namespaces.plan_epoch("other", SPACE, {})
    await registry.namespaces.create(NamespaceSettings(), epoch)
    assert (await registry.guard.look("other", [document.id])).rows == {}
    with pytest.raises(NotFound):
        await registry.guard.look("nowhere", [document.id])


@pytest.mark.parametrize("registry_url", ["sqlite"], indirect=True)
async def test_due_work_is_found_through_its_partial_index(registry: Registry) -> None:
    from sqlalchemy import select
    from sqlalchemy.dialects import sqlite

    query = select(documents.c.id).where(DUE, documents.c.lease_until <= 1.0)
    text = str(query.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}))
    plan = await registry.database.read(
        lambda connection: connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}").all()
    )
    assert any("ix_documents_due" in str(row) for row in plan)


async def test_an_error_in_one_write_leaves_its_neighbours_committed(registry: Registry) -> None:
    results = await asyncio.gather(
        registry.accept("a.txt"), registry.documents.delete("n", "nothing"), registry.accept("b.txt"),
        return_exceptions=True,
    )  # fmt: skip
    assert isinstance(results[1], NotFound)
    assert await registry.sequence() == 2


async def test_a_renewed_lease_holds(registry: Registry) -> None:
    await registry.accept()
    (claimed,) = await registry.claim()
    registry.clock.at += LEASE_S - 1
    assert await registry.claims.renew(claimed, lease_s=LEASE_S)
    registry.clock.at += LEASE_S - 1
    assert await registry.claim() == []
    assert not await registry.claims.renew(replace(claimed, attempt=9), lease_s=LEASE_S)


async def test_after_a_kill_what_was_held_is_due_again_at_once(registry: Registry) -> None:
    await registry.accept()
    (held,) = await registry.claim()
    await registry.claims.end_all_leases()
    (again,) = await registry.claim()
    assert (again.id, again.attempt) == (held.id, 2)
    assert not await registry.live(held)


@pytest.mark.parametrize("registry_url", ["sqlite"], indirect=True)
async def test_the_guard_reads_again_after_each_commit_and_not_before(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = await registry.indexed()
    real, reads = registry.database.read, 0

    async def counted(work):  # type: ignore[no-untyped-def]
        nonlocal reads
        reads += 1
        return await real(work)

    monkeypatch.setattr(registry.database, "read", counted)
    for _ in range(3):
        assert (await registry.guard.look("n", [document.id, "unknown"])).rows[document.id].live == 1
    assert reads == 1
    await registry.documents.delete("n", document.id)
    assert (await registry.guard.look("n", [document.id])).rows[document.id].live is None
    assert reads == 2


async def test_a_write_that_fails_unexpectedly_fails_alone(registry: Registry) -> None:
    def defect(_: Any) -> None:
        raise ZeroDivisionError

    results = await asyncio.gather(
        registry.accept("a.txt"), registry.database.write(defect), registry.accept("b.txt"), return_exceptions=True
    )
    assert isinstance(results[1], ZeroDivisionError)
    assert await registry.sequence() == 2
    assert len(await registry.claim()) == 2


async def test_a_look_is_waited_for_in_proportion_to_the_last_ones(registry: Registry) -> None:
    document = await registry.indexed()
    guard = Guard(registry.database, registry.clock, deadline_ms=3_600_000, least_ms=30_000)
    assert guard.deadline_s == 3600.0
    for _ in range(30):
        guard._known.clear()  # each look is one at the registry
        assert document.id in (await guard.look("n", [document.id])).rows
    assert (guard.deadline_s, guard.standing().deadline_ms) == (30.0, 30_000.0)
