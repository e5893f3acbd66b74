"""Files inside documents: each a document of its own, tied to what it lies in, whatever crashes or comes late."""

from __future__ import annotations

import asyncio
import io
import tarfile
import zipfile
from email.message import EmailMessage
from typing import Any

import pytest

from ragline.errors import Conflict, Reason
from ragline.settings import IngestSettings
from ragline.types import Document, State
from tests.house import House
from tests.reading import at_hand

BOARD, STAFF = frozenset({"board"}), frozenset({"staff"})

CEILING_S = 60.0

MOST_BYTES = 64_000
"""In one outermost archive: more than any test here needs, but for the one that goes beyond."""


class _Crash(BaseException):
    """Like a kill, as far as one process can: nothing catches it."""


def packed(**members: str | bytes) -> bytes:
    """A ZIP; ``__`` in a name stands for its dot."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "."), data)
    return out.getvalue()


@pytest.fixture(scope="module")
def ingest_settings() -> IngestSettings:
    return IngestSettings(max_members=6, max_members_depth=2, max_members_bytes=MOST_BYTES, parse_processes=1)


async def standing(house: House) -> dict[str, Document]:
    """Documents that are not deleted, by uri."""
    page = await house.system.documents.page("default", after="", most=100, state=None)
    return {document.uri: document for document in page}


async def events(house: House, document: Document) -> list[str]:
    return [entry.event for entry in await house.system.documents.history(document.id)]


async def test_each_file_inside_is_a_document_with_the_readers_and_metadata_of_the_whole(house: House) -> None:
    archive = packed(badgers__txt="Badgers dig.", otters__md="# Otters\n\nOtters swim.")
    parent = await house.accept("a.zip", archive, groups=BOARD)
    await house.work()
    found = await standing(house)
    assert {uri: one.state for uri, one in found.items()} == dict.fromkeys(
        ("a.zip", "a.zip!/badgers.txt", "a.zip!/otters.md"), State.INDEXED
    )
    assert (found["a.zip"].members, found["a.zip"].chunks) == (2, 0)
    otters = found["a.zip!/otters.md"]
    assert (otters.parent, otters.depth, otters.groups, otters.title) == (parent.id, 1, BOARD, "Otters")
    assert await house.found("otters", groups=BOARD) == ["Otters\n\nOtters swim.", "Badgers dig."]
    assert await house.found("otters") == []
    assert await house.held() == {(one.id, one.content): 1 for one in found.values() if one.parent}


async def test_a_new_version_deletes_what_vanished_and_keeps_what_did_not_change(house: House) -> None:
    await house.accept("a.zip", packed(badgers__txt="Badgers dig.", otters__txt="Otters swim."))
    await house.work()
    before = await standing(house)
    await house.accept("a.zip", packed(badgers__txt="Badgers dig.", cranes__txt="Cranes dance."))
    await house.work()
    after = await standing(house)
    assert set(after) == {"a.zip", "a.zip!/badgers.txt", "a.zip!/cranes.txt"}
    assert after["a.zip!/badgers.txt"].content == before["a.zip!/badgers.txt"].content
    assert await house.found("swim") == ["Badgers dig.", "Cranes dance."]
    await house.accept("a.zip", "A text now.")
    await house.work()
    assert set(await standing(house)) == {"a.zip"}
    assert len(await house.held()) == 1


async def test_deleting_the_whole_deletes_all_of_it_at_once(house: House) -> None:
    inner = packed(cranes__txt="Cranes dance.")
    parent = await house.accept("a.zip", packed(otters__txt="Otters swim.", inner__zip=inner))
    await house.work()
    assert (await standing(house))["a.zip!/inner.zip!/cranes.txt"].depth == 2
    await house.system.documents.delete("default", parent.id)
    assert await standing(house) == {}
    assert await house.found("otters cranes") == []
    await house.work()
    assert await house.held() == {}
    namespace = await house.system.namespaces.get("default")
    assert await house.system.contents._blobs.paths(f"default-{namespace.uid}") == []


async def test_new_readers_of_the_whole_hold_for_all_of_it_before_any_worker_has_looked(house: House) -> None:
    archive = packed(otters__txt="Otters swim.", inner__zip=packed(cranes__txt="Cranes dance."))
    await house.accept("a.zip", archive, groups=STAFF)
    await house.work()
    assert len(await house.found("otters cranes", groups=STAFF)) == 2
    accepted = await house.accept("a.zip", archive, groups=BOARD)
    assert await house.found("otters cranes", groups=STAFF) == []
    await house.work()
    assert len(await house.found("otters cranes", groups=BOARD)) == 2
    assert accepted.members == 2
    changed = packed(otters__txt="Otters swim well.")
    await house.accept("a.zip", changed, groups=STAFF)  # new bytes too: the old ones serve on, to the new readers only
    assert await house.found("otters cranes", groups=BOARD) == []
    await house.work()
    assert await house.found("otters", groups=STAFF) == ["Otters swim well."]


STEPS = ("put_original", "accept", "keep_only", "put", "mark_chunked", "mark_live")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_crash_around_any_step_loses_nothing_and_doubles_nothing(
    house: House, monkeypatch: Any, step: str, after: bool
) -> None:
    await house.accept("a.zip", packed(otters__txt="Otters swim.", cranes__txt="Cranes dance."))
    await house.work()
    changed = packed(otters__txt="Otters swim well.", herons__txt="Herons wait.", inner__zip=packed(c__txt="C."))
    parent = await house.accept("a.zip", changed)
    system = house.system
    rows = system.ingest._members._registry
    holder = next(one for one in (rows, system.contents, system.claims) if hasattr(one, step))
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
    found = await standing(house)
    assert set(found) == {
        "a.zip",
        *(f"a.zip!/{name}" for name in ("otters.txt", "herons.txt", "inner.zip", "inner.zip!/c.txt")),
    }
    assert all(one.settled == one.revision and one.live == one.content for one in found.values())
    assert (await events(house, found["a.zip!/otters.txt"])).count("updated") == 1
    assert await house.held() == {(one.id, one.content): 1 for one in found.values() if not one.members}
    assert (await house.look(parent)).members == 3


async def test_a_worker_that_was_overtaken_accepts_and_deletes_nothing(house: House, monkeypatch: Any) -> None:
    await house.accept("a.zip", packed(otters__txt="Otters swim."))
    (late,) = await house.claim()
    take = house.system.ingest._members.take

    async def overtaken(*args: Any) -> bool:
        monkeypatch.undo()
        await house.accept("a.zip", packed(cranes__txt="Cranes dance."))
        await house.work()
        return await take(*args)

    monkeypatch.setattr(house.system.ingest._members, "take", overtaken)
    await house.system.ingest.process(late)
    assert set(await standing(house)) == {"a.zip", "a.zip!/cranes.txt"}
    namespace = await house.system.namespaces.get("default")
    kept = {path.split("/")[1] for path in await house.system.contents._blobs.paths(f"default-{namespace.uid}")}
    assert kept == {one.id for one in (await standing(house)).values()}


async def test_a_member_that_failed_is_parsed_again_with_a_new_version_and_not_by_a_repeat(house: House) -> None:
    archive = packed(otters__txt="Otters swim.", broken__pdf=b"%PDF-1.4 broken", gone__txt="Gone.")
    parent = await house.accept("a.zip", archive)
    await house.work_as_workers_do()
    found = await standing(house)
    broken = found["a.zip!/broken.pdf"]
    assert broken.state is State.FAILED
    assert (broken.reason or "").startswith(Reason.DAMAGED)
    await house.system.documents.delete("default", found["a.zip!/gone.txt"].id)
    (await house.system.claims.claim(most=10, lease_s=60.0))
    rows, namespace = house.system.ingest._members, await house.system.namespaces.get("default")
    parsed = await house.system.ingest._parser.parse(at_hand(archive), name="a.zip", media_type=None)
    assert await rows.take(namespace, await house.look(parent), parsed)
    assert (await house.look(broken)).revision == broken.revision
    assert (await house.look(found["a.zip!/gone.txt"])).state is State.DELETED
    await house.system.documents.retry("default", parent.id)
    await house.work_as_workers_do()
    assert (await house.look(broken)).revision > broken.revision


async def test_a_member_deleted_by_itself_stays_away_until_the_bytes_of_the_whole_change(
    house: House, monkeypatch: Any
) -> None:
    archive, system = packed(otters__txt="Otters swim.", inner__zip=packed(cranes__txt="Cranes dance.")), house.system
    parent = await house.accept("a.zip", archive)
    await house.work()
    found, left = await standing(house), {"a.zip", "a.zip!/otters.txt"}
    await system.documents.delete("default", found["a.zip!/inner.zip"].id)
    assert (await house.look(parent)).members == 1
    await house.work()
    await system.upkeep.purge_tombstones(older_than_s=-1.0)
    await system.documents.retry("default", parent.id)
    await house.work()
    assert set(await standing(house)) == left
    monkeypatch.setattr("ragline.registry.acceptance.PARSER_VERSION", 99)
    assert (await house.accept("a.zip", archive)).content > parent.content
    await house.work()
    assert set(await standing(house)) == left
    assert (await house.look(parent)).members == 1
    story = await system.documents.history(parent.id)
    assert "a.zip!/inner.zip: it was deleted by itself" in story[-3].detail
    await house.accept("a.zip", archive + b"\0")
    await house.work()
    assert set(await standing(house)) == set(found)
    await house.accept("a.zip", archive)
    await house.work()
    assert set(await standing(house)) == set(found)  # it was back, so the deletion is over


async def test_an_archive_that_is_deleted_and_uploaded_again_comes_whole(house: House) -> None:
    archive = packed(otters__txt="Otters swim.", inner__zip=packed(cranes__txt="Cranes dance."))
    parent = await house.accept("a.zip", archive)
    await house.work()
    found = await standing(house)
    for uri in ("a.zip!/otters.txt", "a.zip!/inner.zip!/cranes.txt", "a.zip!/inner.zip"):
        await house.system.documents.delete("default", found[uri].id)
    await house.system.documents.delete("default", parent.id)
    await house.work()
    await house.accept("a.zip", archive)
    await house.work()
    assert set(await standing(house)) == set(found)
    await house.system.documents.delete("default", parent.id)
    await house.work()
    await house.system.upkeep.purge_tombstones(older_than_s=-1.0)
    assert (await house.system.documents.counts("default")) == {}


async def test_attachments_of_a_mail_are_documents_and_the_mail_is_one_too(house: House) -> None:
    forwarded = EmailMessage()
    forwarded["Subject"], forwarded["From"] = "About herons", "b@example.org"
    forwarded.set_content("Herons wait.")
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = "Two things", "a@example.org", "c@example.org"
    mail.set_content("See the attachments.")
    mail.add_attachment("name,legs\notter,4\ncrane,2\n", subtype="csv", filename="legs.csv")
    mail.add_attachment(forwarded)
    await house.accept("a.eml", mail.as_bytes())
    await house.work()
    found = await standing(house)
    assert set(found) == {"a.eml", "a.eml!/legs.csv", "a.eml!/About herons.eml"}
    assert (found["a.eml"].chunks, found["a.eml"].title) == (1, "Two things")
    assert "name: crane; legs: 2" in (await house.found("how many legs has a crane"))[0]


async def test_depth_and_count_hold_for_the_outermost_archive_as_a_whole(house: House) -> None:
    deep = packed(a__txt="Deep.")
    for _ in range(3):
        deep = packed(inner__zip=deep, words__txt="Words.")
    await house.accept("deep.zip", deep)
    await house.work_as_workers_do()
    found = await standing(house)
    assert max(one.depth for one in found.values()) == 2
    too_deep = found["deep.zip!/inner.zip!/inner.zip"]
    assert too_deep.state is State.FAILED
    assert "more than 2 deep" in (too_deep.reason or "")
    assert found["deep.zip!/inner.zip!/words.txt"].state is State.INDEXED
    many = packed(**{f"{n}__txt": f"Number {n}." for n in range(3)})
    await house.accept("many.zip", packed(a__zip=many, b__zip=many, c__txt="Number c."))
    await house.work_as_workers_do()
    found = await standing(house)
    states = [found[f"many.zip!/{name}"].state for name in ("a.zip", "b.zip", "c.txt")]
    assert sorted(states) == [State.FAILED, State.INDEXED, State.INDEXED]
    assert found["many.zip!/c.txt"].state is State.INDEXED


async def test_the_bytes_hold_for_the_outermost_archive_as_a_whole(house: House) -> None:
    third = MOST_BYTES // 3 - 2_000  # each archive is counted packed, and what lies in it once more
    words = {name: f"{name} ".encode() * (third // 2) for name in "ab"}
    outer = packed(a__zip=packed(a__txt=words["a"]), b__zip=packed(b__txt=words["b"]))
    assert len(outer) < MOST_BYTES, "the outermost fits by itself, and so does each in it"
    await house.accept("large.zip", outer)
    await house.work_as_workers_do()
    found = await standing(house)
    inner = [found[f"large.zip!/{name}.zip"] for name in "ab"]
    assert sorted(one.state for one in inner) == [State.FAILED, State.INDEXED]
    (refused,) = (one for one in inner if one.state is State.FAILED)
    assert (refused.reason or "").startswith(Reason.TOO_LARGE)
    assert "MiB" in (refused.reason or "")
    assert sum(one.size for one in found.values() if one.root) <= MOST_BYTES
    assert len(found) == 1 + 2 + 1
    namespace = await house.system.namespaces.get("default")
    kept = {path.split("/")[1] for path in await house.system.contents._blobs.paths(f"default-{namespace.uid}")}
    assert kept == {one.id for one in found.values()}, "what was refused leaves no bytes"


async def test_the_count_holds_for_archives_in_one_that_are_parsed_at_once(house: House, monkeypatch: Any) -> None:
    many = packed(**{f"{n}__txt": f"Number {n}." for n in range(3)})
    await house.accept("many.zip", packed(a__zip=many, b__zip=many))
    (outer,) = await house.claim()
    await house.system.ingest.process(outer)
    rows, both = house.system.ingest._members._registry, asyncio.Barrier(2)
    look = rows.elsewhere

    async def together(document: Document) -> tuple[int, int]:
        seen = await look(document)
        await both.wait()  # each has seen that there is room for it
        return seen

    monkeypatch.setattr(rows, "elsewhere", together)
    claimed = await house.claim()
    async with asyncio.timeout(CEILING_S):
        await asyncio.gather(*(house.system.ingest_worker._one(document) for document in claimed))
    monkeypatch.undo()
    await house.work()
    found = await standing(house)
    states = {found[f"many.zip!/{name}"].state for name in ("a.zip", "b.zip")}
    assert states == {State.FAILED, State.INDEXED}
    assert len(found) == 1 + 2 + 3
    namespace = await house.system.namespaces.get("default")
    kept = {path.split("/")[1] for path in await house.system.contents._blobs.paths(f"default-{namespace.uid}")}
    assert kept == {one.id for one in found.values()}


async def test_an_archive_that_cannot_be_read_fails_and_what_served_before_serves_on(house: House) -> None:
    good = packed(otters__txt="Otters swim.")
    await house.accept("a.zip", good)
    await house.work()
    for bad, reason in (
        (good[:40], Reason.DAMAGED),
        (packed(), Reason.EMPTY),
        (packed(a__exe=b"MZ" + bytes(99)), Reason.UNSUPPORTED),
    ):
        document = await house.accept("a.zip", bad)
        await house.work_as_workers_do()
        now = await house.look(document)
        assert (now.state, (now.reason or "").split(":")[0]) == (State.FAILED, reason)
        assert await house.found("otters") == ["Otters swim."]


async def test_names_are_only_names(house: House) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name in ("../../etc/passwd", "/root/.bashrc", "a/./b/../c.txt", "C:\\Users\\x.txt", "same.txt", "same.txt"):
            info = tarfile.TarInfo(name)
            info.size = 5
            archive.addfile(info, io.BytesIO(b"words"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/shadow"
        archive.addfile(link)
    await house.accept("a.tgz", out.getvalue())
    await house.work()
    names = {uri.partition("!/")[2] for uri in await standing(house)} - {""}
    assert names == {"etc/passwd", "root/.bashrc", "a/b/c.txt", "C:/Users/x.txt", "same.txt", "same (2).txt"}


async def test_a_member_and_an_upload_never_overwrite_each_other(house: House) -> None:
    own = await house.accept("a.zip!/otters.txt", "Uploaded by itself.")
    parent = await house.accept("a.zip", packed(otters__txt="Otters swim.", cranes__txt="Cranes dance."))
    await house.work()
    assert (await house.look(own)).parent is None
    story = await house.system.documents.history(parent.id)
    assert any("otters.txt: a document of its own has that uri" in entry.detail for entry in story)
    with pytest.raises(Conflict):
        await house.accept("a.zip!/cranes.txt", "Mine now.")
    assert "Cranes dance." in await house.found("cranes")


async def test_waiting_for_a_document_waits_for_what_is_inside(house: House) -> None:
    parent = await house.accept("a.zip", packed(otters__txt="Otters swim."))
    (claimed,) = await house.claim()
    await house.system.ingest.process(claimed)
    settled = {parent.id: parent.revision}
    assert (await house.look(parent)).settled == parent.revision
    assert not await house.system.documents.settled_all(settled, deadline_s=0.0)
    await house.work()
    assert await house.system.documents.settled_all(settled, deadline_s=0.0)


async def test_reindex_counts_a_document_without_words_as_whole(house: House) -> None:
    await house.accept("a.zip", packed(otters__txt="Otters swim."))
    await house.work()
    await house.system.epochs.begin("default")
    await house.system.epochs.fill("default")
    house.system.snapshots.forget("default")
    assert await house.found("otters") == ["Otters swim."]


async def test_a_name_cannot_look_like_a_file_inside_another(house: House) -> None:
    """Else what lies in `b.zip` and a file that is only called so would be one document, and go together."""
    inner = packed(c__txt="Herons wade.")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("b.zip", inner)
        archive.writestr("b.zip!/c.txt", "Otters swim.")
    await house.accept("a.zip", out.getvalue())
    await house.work()
    texts = {"a.zip!/b.zip!/c.txt": "Herons wade.", "a.zip!/b.zip%21/c.txt": "Otters swim."}
    assert set(await standing(house)) == {"a.zip", "a.zip!/b.zip", *texts}
    assert sorted(await house.found("herons otters")) == sorted(texts.values())
