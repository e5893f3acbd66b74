"""The audit on the real engines: each kind of damage is found, nothing else is, and mending makes it good."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
import time
import zipfile
from dataclasses import replace
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from ragline.audit import Report
from ragline.backup import check, written
from ragline.findings import Kind
from ragline.settings import IngestSettings
from ragline.system import System
from ragline.types import Document, State
from tests.house import House

ORPHAN_GRACE_S = 3600.0


class AuditedHouse(House):
    """A house that is looked over, and damaged."""

    def __init__(self, system: System) -> None:
        super().__init__(system)
        self.blobs = system.settings.data_dir / "blobs"

    async def indexed(self, uri: str = "a.txt", text: str = "Herons wade.") -> Document:
        document = await self.accept(uri, text)
        await self.work_as_workers_do()
        return await self.look(document)

    async def findings(self) -> list[tuple[Kind, str | None]]:
        return [(one.kind, one.uri) for one in (await self.system.audit.look()).findings]

    async def mended(self) -> Report:
        """Mend what is found, let the workers work, and look again."""
        report = await self.system.audit.look()
        assert all(one.done for one in await self.system.mending.mend(report.findings))
        await self.work_as_workers_do()
        await self.system.epochs.fill("default")
        self.system.snapshots.forget("default")
        return await self.system.audit.look()

    async def collections(self) -> tuple[str, str]:
        epoch = (await self.system.namespaces.get("default")).epoch
        return epoch.vectors, epoch.keywords

    async def sql(self, statement: str) -> None:
        await self.system.database.write(lambda c: c.exec_driver_sql(statement).rowcount)

    async def folder(self) -> Path:
        namespace = await self.system.namespaces.get("default")
        return self.blobs / f"{namespace.name}-{namespace.uid}"


def age(path: Path, *, by_s: float = 2 * ORPHAN_GRACE_S) -> None:
    for one in (path, *path.rglob("*")):
        os.utime(one, (time.time() - by_s,) * 2)


@pytest.fixture(scope="module")
def ingest_settings() -> IngestSettings:
    return IngestSettings(orphan_grace_s=ORPHAN_GRACE_S)


@pytest.fixture
def house(house: House) -> AuditedHouse:
    return AuditedHouse(house.system)


async def test_a_service_at_work_has_no_findings(house: AuditedHouse) -> None:
    documents = [await house.accept(f"{n}.txt", f"Chapter {n} tells of herons.") for n in range(12)]
    await house.work_as_workers_do()
    await house.accept("0.txt", "Chapter 0 tells of storks.")
    await house.system.documents.delete("default", documents[1].id)
    await house.accept("empty.txt", " ")
    report = await house.system.audit.look()
    assert (report.findings, report.due, report.documents, report.moving) == ([], 3, 13, 0)
    await house.work_as_workers_do()
    report = await house.system.audit.look()
    assert (report.findings, report.due, report.chunks) == ([], 0, 11)


async def test_nothing_is_found_while_documents_change_all_the_time(house: AuditedHouse) -> None:
    working = asyncio.create_task(house.system.ingest_worker.run())
    try:
        for n in range(6):
            changes = [house.accept(f"{k}.txt", f"Chapter {k} in its edition {n}.") for k in range(10)]
            looking = asyncio.create_task(house.system.audit.look())
            await asyncio.gather(*changes)
            assert (await looking).findings == []
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


@pytest.mark.parametrize("store", ["vectors", "keywords"])
async def test_rows_that_a_store_has_lost_are_found_and_made_again(house: AuditedHouse, store: str) -> None:
    document = await house.indexed()
    await house.indexed("b.txt")
    assert document.live is not None
    vectors, keywords = await house.collections()
    engine = house.system.vectors if store == "vectors" else house.system.keywords
    await engine.delete(vectors if store == "vectors" else keywords, {document.id: document.live + 1})
    report = await house.system.audit.look()
    assert [(one.kind, one.uri, one.place.partition(":")[0]) for one in report.findings] == [
        (Kind.MISSING_CHUNKS, "a.txt", store)
    ]
    assert "0 of 1 chunks" in report.findings[0].detail
    assert (await house.mended()).findings == []
    assert (await house.look(document)).live != document.live


async def test_rows_of_an_older_content_are_swept(house: AuditedHouse, monkeypatch: Any) -> None:
    await house.indexed()

    async def nothing(*_: Any, **__: Any) -> None:
        return None

    monkeypatch.setattr(house.system.ingest, "_delete_rows", nothing)
    document = await house.indexed(text="Herons fly.")
    monkeypatch.undo()
    report = await house.system.audit.look()
    assert [(one.kind, one.uri) for one in report.findings] == [(Kind.STALE_CHUNKS, "a.txt")] * 2
    await house.sql("UPDATE history SET at = at - 86400")
    await house.system.mending.mend(report.findings)
    assert await house.findings() == [], "it is due since now, not since yesterday"
    await house.work_as_workers_do()
    assert await house.findings() == []
    assert await house.system.vectors.contents((await house.collections())[0]) == {(document.id, document.live): 1}
    assert (await house.look(document)).live == document.live


async def test_rows_of_a_tombstone_and_of_a_document_nobody_knows_go(house: AuditedHouse, monkeypatch: Any) -> None:
    deleted, unknown = await house.indexed("a.txt"), await house.indexed("b.txt")

    async def nothing(*_: Any, **__: Any) -> None:
        return None

    monkeypatch.setattr(house.system.ingest, "_delete_rows", nothing)
    await house.system.documents.delete("default", deleted.id)
    await house.work_as_workers_do()
    monkeypatch.undo()
    await house.sql(f"DELETE FROM documents WHERE id = '{unknown.id}'")
    age(await house.folder())
    found = await house.findings()
    assert sorted(kind for kind, _ in found) == sorted(
        [Kind.STALE_CHUNKS] * 2 + [Kind.UNKNOWN_CHUNKS] * 2 + [Kind.ORPHAN_BLOB]
    )
    assert (await house.mended()).findings == []
    assert await house.system.vectors.contents((await house.collections())[0]) == {}


async def test_what_a_failed_content_left_behind_goes(house: AuditedHouse, monkeypatch: Any) -> None:
    from ragline.errors import EngineRejected

    async def down(*_: Any, **__: Any) -> None:
        raise EngineRejected("It says no.", next_step="Ask why.", engine="keywords")

    monkeypatch.setattr(house.system.keywords, "upsert", down)
    document = await house.accept("a.txt", "Half of a heron.")
    await house.work_as_workers_do()
    monkeypatch.undo()
    assert (await house.look(document)).state is State.FAILED
    assert await house.findings() == [(Kind.STALE_CHUNKS, "a.txt")]
    assert (await house.mended()).findings == []
    assert (await house.look(document)).state is State.FAILED


async def test_a_row_that_stands_in_between_with_nothing_due_is_driven_on(house: AuditedHouse) -> None:
    document = await house.indexed()
    await house.sql(f"UPDATE documents SET state = 'chunked' WHERE id = '{document.id}'")
    assert await house.findings() == [(Kind.LIMBO, "a.txt")]
    assert (await house.mended()).findings == []


async def test_bytes_that_are_gone_are_told_and_cannot_be_mended(house: AuditedHouse) -> None:
    document = await house.indexed()
    (original,) = (await house.folder()).rglob("original")
    original.unlink()
    report = await house.system.audit.look()
    assert [one.kind for one in report.findings] == [Kind.MISSING_BYTES]
    assert "Upload the document again" in report.findings[0].next_step
    assert [one.done for one in await house.system.mending.mend(report.findings)] == [""]
    assert (await house.look(document)).live is not None


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("groups", [frozenset(), frozenset({"staff"})], ids=["unchanged", "other readers"])
async def test_bytes_that_are_gone_or_torn_are_there_again_once_they_are_uploaded_again(
    house: AuditedHouse, torn: bool, groups: frozenset[str]
) -> None:
    document = await house.indexed()
    (original,) = (await house.folder()).rglob("original")
    original.write_bytes(b"Her") if torn else original.unlink()
    assert await house.findings() == [(Kind.MISSING_BYTES, "a.txt")]
    again = await house.accept("a.txt", "Herons wade.", groups=groups)
    assert (again.blob, again.content) == (document.blob, document.content)
    await house.work_as_workers_do()
    assert await house.findings() == []
    assert [path.read_bytes() for path in (await house.folder()).rglob("original")] == [b"Herons wade."]


async def test_bytes_of_a_file_in_an_archive_are_there_again_once_the_archive_is_parsed_again(
    house: AuditedHouse,
) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.txt", "Herons wade.")
    parent = await house.accept("a.zip", out.getvalue())
    await house.work_as_workers_do()
    (original,) = (path for path in (await house.folder()).rglob("original") if parent.id not in path.parts)
    original.unlink()
    (finding,) = (await house.system.audit.look()).findings
    assert (finding.kind, finding.uri) == (Kind.MISSING_BYTES, "a.zip!/a.txt")
    assert f"documents retry {parent.id}" in finding.next_step
    await house.system.documents.retry("default", parent.id)
    await house.work_as_workers_do()
    assert await house.findings() == []
    assert original.read_bytes() == b"Herons wade."


async def test_chunks_that_are_gone_from_the_blobs_are_made_again(house: AuditedHouse) -> None:
    await house.indexed()
    next((await house.folder()).rglob("chunks-*")).unlink()
    assert await house.findings() == [(Kind.MISSING_BLOB, "a.txt")]
    assert (await house.mended()).findings == []


async def test_blobs_without_owner_are_orphans_once_they_are_old(house: AuditedHouse) -> None:
    document = await house.indexed()
    namespace = await house.system.namespaces.get("default")
    await house.system.contents.put_original(namespace, document.id, "feedfeed", b"an upload that was killed")
    await house.system.contents.put_original(namespace, "0" * 24, "feedfeed", b"another")
    assert document.blob
    folder = await house.folder()
    (folder / document.id / document.blob / ".chunks-9.1234").write_bytes(b"half")
    assert await house.findings() == []  # young: they may be uploads under way
    age(folder)
    assert [kind for kind, _ in await house.findings()] == [Kind.ORPHAN_BLOB] * 3
    assert await house.system.mending.collect() == 3
    assert await house.findings() == []
    left = {path.name for path in folder.rglob("*") if path.is_file()}
    assert left == {"original", "chunks-1", f"vectors-1-{house.system.embedder.space.id}"}


async def test_what_is_kept_for_a_backup_is_in_it_and_no_orphan(house: AuditedHouse, tmp_path: Path) -> None:
    system, before = house.system, await house.indexed()
    file = tmp_path / "one.tar"
    with file.open("wb") as out:
        pieces = written(system.database, system.blobs, system.clock)
        out.write(await anext(pieces))
        after = await house.indexed(text="Herons fly.")
        age(await house.folder())
        report = await system.audit.look()
        assert (report.findings, await system.mending.collect()) == ([], 0)
        assert (await house.folder() / before.id / str(before.blob) / "original").exists()
        async for piece in pieces:
            out.write(piece)
    check(file)
    with tarfile.open(file) as tar:
        owners = {name.split("/")[3] for name in tar.getnames() if name.endswith("/original")}
    assert owners == {before.blob}
    await system.blobs.aclose()
    assert [path.name for path in (await house.folder() / before.id).iterdir()] == [after.blob]


async def test_an_orphan_that_got_an_owner_is_not_deleted(house: AuditedHouse) -> None:
    document = await house.indexed()
    namespace = await house.system.namespaces.get("default")
    await house.system.contents.put_original(namespace, document.id, "feedfeed", b"x" * document.size)
    age(await house.folder())
    report = await house.system.audit.look()
    await house.sql(f"UPDATE documents SET blob = 'feedfeed' WHERE id = '{document.id}'")
    (mended,) = await house.system.mending.mend(report.findings)
    assert mended.done == "gone meanwhile"
    assert (await house.folder() / document.id / "feedfeed" / "original").exists()


async def test_a_blob_dated_in_the_future_is_young(house: AuditedHouse) -> None:
    document = await house.indexed()
    namespace = await house.system.namespaces.get("default")
    await house.system.contents.put_original(namespace, document.id, "feedfeed", b"written before the clock went back")
    age(await house.folder(), by_s=-86_400.0)
    assert await house.findings() == []


async def test_work_beyond_its_deadline_is_found_and_its_lease_ended(house: AuditedHouse) -> None:
    document = await house.accept("a.txt", "Herons wait.")
    (held,) = await house.system.claims.claim(most=1, lease_s=86_400.0)
    assert await house.findings() == []
    await house.sql("UPDATE history SET at = at - 18000")
    report = await house.system.audit.look()
    assert [one.kind for one in report.findings] == [Kind.OVERDUE]
    assert "a worker holds it" in report.findings[0].detail
    await house.system.mending.mend(report.findings)
    (again,) = await house.system.claims.claim(most=1, lease_s=60.0)
    assert (again.id, again.attempt) == (document.id, 2)
    assert not await house.system.claims.mark_chunked(held, chunks=1, title="t", took_s=0.0)
    events = [entry.event for entry in await house.system.documents.history(document.id)]
    assert events[-2:] == ["driven again", "begun again"]


async def test_a_collection_that_is_gone_is_built_anew_from_the_blobs(house: AuditedHouse) -> None:
    for n in range(3):
        await house.indexed(f"{n}.txt", f"Chapter {n}.")
    vectors, _ = await house.collections()
    await house.system.vectors.drop(vectors)
    report = await house.system.audit.look()
    assert [one.kind for one in report.findings] == [Kind.MISSING_COLLECTION]
    assert (await house.mended()).findings == []
    assert len(await house.system.vectors.contents((await house.collections())[0])) == 3


async def test_collections_and_folders_that_no_epoch_names(house: AuditedHouse) -> None:
    await house.system.vectors.create("left-over", dim=4, fields={})
    stranger = house.blobs / "somebody-12345678" / ("0" * 24) / "b1"
    stranger.mkdir(parents=True)
    (stranger / "original").write_bytes(b"after a restore these may be somebody's")
    report = await house.system.audit.look()
    assert {one.kind for one in report.findings} == {Kind.UNKNOWN_COLLECTION, Kind.UNKNOWN_FOLDER}
    done = {one.finding.kind: one.done for one in await house.system.mending.mend(report.findings)}
    assert done == {Kind.UNKNOWN_COLLECTION: "dropped", Kind.UNKNOWN_FOLDER: ""}
    assert (stranger / "original").exists()
    assert "left-over" not in await house.system.vectors.collections()
    (stranger / "original").unlink()
    for folder in (stranger, *list(stranger.parents)[:2]):
        folder.rmdir()


async def test_retired_collections_that_stay_are_found(house: AuditedHouse) -> None:
    await house.indexed()
    await house.system.epochs.begin("default")
    await house.system.epochs.fill("default")
    assert await house.findings() == []
    await house.sql("UPDATE epochs SET drop_after = 1 WHERE drop_after IS NOT NULL")
    assert await house.findings() == [(Kind.RETIRED_COLLECTION, None)]
    assert (await house.mended()).findings == []


async def test_an_epoch_that_is_cut_over_to_during_the_look_is_looked_at_anew(
    house: AuditedHouse, monkeypatch: Any
) -> None:
    for n in range(3):
        await house.indexed(f"{n}.txt", f"Chapter {n}.")
    contents, began = house.system.contents.kept, False

    async def cut_over(*args: Any) -> Any:
        nonlocal began
        if not began:
            began = True
            await house.system.epochs.begin("default")
            await house.system.epochs.fill("default")
            await house.sql("UPDATE epochs SET drop_after = 1 WHERE drop_after IS NOT NULL")
            await house.system.epochs.drop_retired()
        return await contents(*args)

    monkeypatch.setattr(house.system.contents, "kept", cut_over)
    report = await house.system.audit.look()
    assert (report.findings, report.documents, report.chunks) == ([], 3, 3)


async def test_a_worker_that_wakes_up_after_its_tombstone_was_purged_leaves_no_rows(house: AuditedHouse) -> None:
    document = await house.accept("a.txt", "Nobody shall read of wolverines.")
    (late,) = await house.system.claims.claim(most=1, lease_s=60.0)
    namespace = await house.system.namespaces.get("default")
    content = await house.system.ingest.parse(namespace, late)
    vectors = await house.system.ingest.embed(namespace, late, content)
    await house.system.stores.write(namespace.epoch, _rows(late, content, namespace), vectors, namespace.epoch.space)
    await house.sql(f"DELETE FROM documents WHERE id = '{document.id}'")
    await house.system.ingest_worker._one(replace(late, state=State.CHUNKED))
    assert await house.findings() == []
    assert await house.system.vectors.contents(namespace.epoch.vectors) == {}


def _rows(document: Document, content: Any, namespace: Any) -> Any:
    from ragline.ingest import records

    return records(document, content, document.content, document.title, namespace.epoch)


async def test_an_archive_has_no_words_of_its_own_and_what_lies_in_it_is_judged_by_itself(house: AuditedHouse) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.txt", "Herons wade.")
    parent = await house.accept("a.zip", out.getvalue())
    await house.work_as_workers_do()
    found = await house.look(parent)
    assert (found.state, found.chunks, found.members) == (State.INDEXED, 0, 1)
    assert await house.findings() == []

    await house.accept("a.zip", b"PK\x03\x04 torn")  # fails, and the older content goes on serving
    await house.work_as_workers_do()
    assert (await house.look(parent)).state is State.FAILED
    assert await house.findings() == []


def _zipped(**files: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"{name}.txt", text)
    return out.getvalue()


async def _standing(house: AuditedHouse) -> dict[str, Document]:
    page = await house.system.documents.page("default", after="", most=100, state=None)
    return {one.uri: one for one in page}


@pytest.mark.parametrize("left", [0, 1])
async def test_an_archive_whose_files_were_deleted_by_themselves_lacks_no_chunks(
    house: AuditedHouse, left: int
) -> None:
    parent = await house.accept("a.zip", _zipped(a="Herons wade.", b="Storks stand."))
    await house.work_as_workers_do()
    for uri in ("a.zip!/b.txt", "a.zip!/a.txt")[: 2 - left]:
        await house.system.documents.delete("default", (await _standing(house))[uri].id)
    await house.work_as_workers_do()
    assert await house.findings() == []

    await house.accept("a.zip", b"PK\x03\x04 torn")
    await house.work_as_workers_do()
    found = await house.look(parent)
    assert (found.state, found.live, found.members) == (State.FAILED, parent.content, left)
    assert await house.findings() == []

    await house.accept("a.zip", _zipped(c="Cranes dance."))
    await house.work_as_workers_do()
    assert set(await _standing(house)) == {"a.zip", "a.zip!/c.txt"}
    assert await house.findings() == []


async def test_words_that_the_stores_have_lost_are_found_though_a_newer_version_failed(house: AuditedHouse) -> None:
    mail = EmailMessage()
    mail["Subject"], mail["From"] = "Herons", "a@example.org"
    mail.set_content("Herons wade.")
    mail.add_attachment("Storks stand.", filename="b.txt")
    parent = await house.accept("a.eml", mail.as_bytes())
    await house.work_as_workers_do()
    await house.accept("a.eml", b"PK\x03\x04 torn")
    await house.work_as_workers_do()
    found = await house.look(parent)
    assert (found.state, found.live, found.members) == (State.FAILED, parent.content, 1)
    assert await house.findings() == []

    vectors, keywords = await house.collections()
    for engine, collection in ((house.system.vectors, vectors), (house.system.keywords, keywords)):
        await engine.delete(collection, {parent.id: parent.content + 1})
    report = await house.system.audit.look()
    assert [(one.kind, one.uri) for one in report.findings] == [(Kind.MISSING_CHUNKS, "a.eml")] * 2
    assert {one.detail for one in report.findings} == {f"0 of 1 chunks of the live content {parent.content}."}


def _nested() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.txt", "Herons wade.")
        archive.writestr("inner.zip", _zipped(c="Cranes dance."))
    return out.getvalue()


async def _orphaned(house: AuditedHouse, archive: bytes, how: str) -> Document:
    """An archive that is gone, and what lay in it is not. Returns it."""
    parent = await house.accept("a.zip", archive)
    await house.work_as_workers_do()
    if how == "unknown":
        await house.sql(f"DELETE FROM documents WHERE id = '{parent.id}'")
    else:
        await house.sql(f"UPDATE documents SET members = 0 WHERE id = '{parent.id}'")  # so that nothing goes with it
        await house.system.documents.delete("default", parent.id)
        await house.work_as_workers_do()
    return parent


ORPHANS = [(Kind.ORPHAN_MEMBER, "a.zip!/a.txt"), (Kind.ORPHAN_MEMBER, "a.zip!/inner.zip")]
"""What lies deeper goes with them."""


@pytest.mark.parametrize("how", ["deleted", "unknown"])
async def test_files_whose_archive_is_gone_are_found_and_go_too(house: AuditedHouse, how: str) -> None:
    await _orphaned(house, _nested(), how)
    assert sorted(await house.findings()) == ORPHANS
    assert sorted(await house.found("herons cranes")) == ["Cranes dance.", "Herons wade."]
    assert (await house.mended()).findings == []
    assert await _standing(house) == {}
    assert await house.found("herons cranes") == []
    assert await house.held() == {}


async def test_a_file_whose_archive_is_gone_is_found_while_it_is_due(house: AuditedHouse) -> None:
    parent = await house.accept("a.zip", _zipped(a="Herons wade."))
    (claimed,) = await house.claim()
    await house.system.ingest.process(claimed)
    await house.sql(f"DELETE FROM documents WHERE id = '{parent.id}'")
    report = await house.system.audit.look()
    assert ([(one.kind, one.uri) for one in report.findings], report.due) == ([ORPHANS[0]], 1)
    assert (await house.mended()).findings == []
    assert await house.held() == {}


async def test_files_whose_archive_came_back_before_they_were_mended_stay(house: AuditedHouse) -> None:
    parent = await _orphaned(house, _nested(), "deleted")
    report = await house.system.audit.look()
    again = _zipped(a="Herons wade.")
    await house.accept("a.zip", again)
    assert [one.done for one in await house.system.mending.mend(report.findings)] == ["gone meanwhile"] * 2
    await house.work_as_workers_do()
    assert set(await _standing(house)) == {"a.zip", "a.zip!/a.txt"}
    assert (await house.look(parent)).members == 1
    assert await house.findings() == []


@pytest.mark.parametrize("how", ["deleted", "unknown"])
async def test_a_file_whose_archive_is_gone_can_be_deleted_by_hand_and_comes_back_with_it(
    house: AuditedHouse, how: str
) -> None:
    archive = _nested()
    await _orphaned(house, archive, how)
    for uri in ("a.zip!/a.txt", "a.zip!/inner.zip"):
        await house.system.documents.delete("default", (await _standing(house))[uri].id)
    await house.work_as_workers_do()
    assert (await _standing(house), await house.findings()) == ({}, [])
    await house.accept("a.zip", archive)
    await house.work_as_workers_do()
    assert set(await _standing(house)) == {
        "a.zip",
        "a.zip!/a.txt",
        "a.zip!/inner.zip",
        "a.zip!/inner.zip!/c.txt",
    }
