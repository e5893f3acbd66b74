from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import tantivy

from ragline.errors import EngineError, EngineRejected, EngineUnavailable
from ragline.keywords import tantivy as adapter
from ragline.keywords.folding import fold
from ragline.keywords.tantivy import TantivyKeywordIndex
from ragline.keywords.tantivy_collection import MAX_TERMS, MAX_TIED, Collection
from ragline.priority import NICENESS
from ragline.protocols import KeywordIndex
from ragline.testing.corpus import FIELDS, chunk_ids, record, texts, varied
from ragline.testing.keywords import KeywordIndexContract
from ragline.types import FieldType, Scope
from tests.killing import killed_after

EVERYBODY = Scope()


class TestContract(KeywordIndexContract):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Callable[[], KeywordIndex]:
        return lambda: TantivyKeywordIndex(tmp_path / "keywords")


@pytest.fixture
async def index(tmp_path: Path) -> TantivyKeywordIndex:
    return TantivyKeywordIndex(tmp_path)


def _threads() -> dict[int, str]:
    """This process's, by id and name."""
    found = {}
    for path in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            found[int(path.name)] = (path / "comm").read_text().strip()
    return found


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux alone")
async def test_its_own_threads_run_below_the_searches(index: TantivyKeywordIndex) -> None:
    """Merges too: they are begun by the thread that writes."""
    before = _threads()
    await index.create("c", fields={})
    await index.upsert("c", [record("a", "common")])
    names = {thread: name for thread, name in _threads().items() if thread not in before}
    tantivys = [thread for thread, name in names.items() if name.startswith(("thrd-tantivy", "merge", "segment"))]
    normal = os.getpriority(os.PRIO_PROCESS, 0)
    assert len(tantivys) >= 2, names
    assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in tantivys} == {min(19, normal + NICENESS)}
    await index.aclose()


# ── crashes ──────────────────────────────────────────────────────────────────────────────────────────────────────────

WRITER = """
import asyncio, sys
from pathlib import Path
from ragline.keywords.tantivy import TantivyKeywordIndex
from ragline.testing.corpus import record

async def main(folder, start):
    index = TantivyKeywordIndex(Path(folder))
    await index.create("c", fields={})
    for number in range(start, start + 10_000):
        await index.upsert("c", [record(f"d{number}", f"common word{number}", ordinal=n) for n in range(3)])
        print(number, flush=True)
        if number % 3 == 2:
            await index.delete("c", {f"d{number}": 2})
            print(-number, flush=True)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def test_what_was_acknowledged_survives_sigkill(tmp_path: Path) -> None:
    chance = random.Random(11)
    held: set[int] = set()
    gone: set[int] = set()
    for start in range(100_000, 600_000, 100_000):
        acknowledged = killed_after(chance.randint(1, 12), WRITER, tmp_path, start)
        held |= {number for number in acknowledged if number > 0}
        gone |= {-number for number in acknowledged if number < 0}
        index = TantivyKeywordIndex(tmp_path)
        try:
            books = await index.contents("c")
            for number in held - gone:
                deleting = number == max(held) and number % 3 == 2  # killed between the delete and its word
                assert books.get((f"d{number}", 1), 3 if deleting else 0) == 3
            gone |= {number for number in held if (f"d{number}", 1) not in books}  # and must stay so
            assert set(books.values()) <= {3}
            assert not any((f"d{number}", 1) in books for number in gone)
            (number,) = chance.sample(sorted(n for n in held if n % 3 != 2), 1)
            hits = await index.search("c", f"word{number}", top_k=9, scope=EVERYBODY)
            assert {hit.chunk.document for hit in hits} == {f"d{number}"}
            await index.upsert("c", [record(f"after{start}", "common", ordinal=n) for n in range(3)])
        finally:
            await index.aclose()


async def test_what_a_killed_create_or_drop_left_is_swept(tmp_path: Path, index: TantivyKeywordIndex) -> None:
    for left in (".new-1", ".dropped-2"):
        (tmp_path / left).mkdir()
    assert await index.collections() == []
    await index.create("c", fields={})
    assert names_in(tmp_path) == ["c"]
    await index.aclose()


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _truncate(folder: Path) -> None:
    for path in folder.glob("*.idx"):
        path.write_bytes(path.read_bytes()[:10])


def _empty_meta(folder: Path) -> None:
    (folder / "meta.json").write_text('{"segments":', "utf-8")


def _lose_a_file(folder: Path) -> None:
    next(folder.glob("*.store")).unlink()


def _lose_meta(folder: Path) -> None:
    (folder / "meta.json").unlink()


def _lose_sidecar(folder: Path) -> None:
    (folder / "ragline.json").unlink()


def _garble_sidecar(folder: Path) -> None:
    (folder / "ragline.json").write_bytes(b"\xff\x00")


@pytest.mark.parametrize(
    "damage",
    [_truncate, _empty_meta, _lose_a_file, _lose_meta, _lose_sidecar, _garble_sidecar],
    ids=lambda f: f.__name__,
)
async def test_a_damaged_index_says_how_to_build_it_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    index = TantivyKeywordIndex(tmp_path)
    await index.create("c", fields={})
    await index.upsert("c", [record("a", "common")])
    await index.aclose()
    damage(tmp_path / "c")
    again = TantivyKeywordIndex(tmp_path)
    with pytest.raises(EngineRejected) as refused:
        await again.search("c", "common", top_k=1, scope=EVERYBODY)
    assert "ragline reindex" in refused.value.next_step
    assert "c" in refused.value.message
    await again.drop("c")
    await again.create("c", fields={})
    assert await again.contents("c") == {}
    await again.aclose()


FULL = """
import asyncio, resource, signal, sys
from pathlib import Path
from ragline.errors import EngineUnavailable
from ragline.keywords.tantivy import TantivyKeywordIndex
from ragline.testing.corpus import record

async def main(folder):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    index = TantivyKeywordIndex(Path(folder))
    await index.create("c", fields={})
    await index.upsert("c", [record("a", "common")])
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    many = [record("b", f"common word{n}", ordinal=n) for n in range(500)]
    errors = []  # kept, with the frames they hold: a writer still open in one of them would hold the lock
    for _ in range(2):
        try:
            await index.upsert("c", many)
        except EngineUnavailable as error:
            errors.append(error)
            print(error.retryable)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(sorted((await index.contents("c")).values()))
    await index.upsert("c", many)
    print(sorted((await index.contents("c")).values()))
    await index.aclose()

asyncio.run(main(sys.argv[1]))
"""


def test_a_write_the_disk_refuses_is_an_error_until_it_takes_it(tmp_path: Path) -> None:
    """Tantivy itself calls the commit after a failed one done, without its rows."""
    told = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert told.stdout.split("\n")[:4] == ["True", "True", "[1]", "[1, 500]"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENOMEM])
async def test_what_the_system_lacks_may_be_retried(
    index: TantivyKeywordIndex, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    await _fails_with(index, monkeypatch, OSError(number, os.strerror(number)), EngineUnavailable)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
async def test_what_the_system_forbids_is_not(
    index: TantivyKeywordIndex, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    await _fails_with(index, monkeypatch, OSError(number, os.strerror(number)), EngineRejected)


async def test_an_error_nobody_foresaw_is_translated_too(
    index: TantivyKeywordIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _fails_with(index, monkeypatch, ValueError("something new"), EngineRejected)


async def test_a_panic_over_a_damaged_file_is_translated_too(
    index: TantivyKeywordIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    def panic(held: Collection, *_: object) -> None:
        held._view.searcher.search(tantivy.Query.all_query(), 0)  # one of the things Tantivy panics at

    await index.create("c", fields={})
    monkeypatch.setattr(Collection, "search", panic)
    with pytest.raises(EngineRejected, match="damaged"):
        await index.search("c", "common", top_k=1, scope=EVERYBODY)
    await index.aclose()


async def _fails_with(
    index: TantivyKeywordIndex, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[EngineError]
) -> None:
    def fail(*_: object) -> None:
        raise error

    await index.create("c", fields={})
    monkeypatch.setattr(Collection, "upsert", fail)
    with pytest.raises(kind) as translated:
        await index.upsert("c", [record("a", "common")])
    assert type(translated.value) is kind
    assert translated.value.engine == adapter.ENGINE
    await index.aclose()


async def test_a_second_writer_is_refused(tmp_path: Path, index: TantivyKeywordIndex) -> None:
    await index.create("c", fields={})
    await index.upsert("c", [record("a", "common")])
    second = TantivyKeywordIndex(tmp_path)
    with pytest.raises(EngineUnavailable, match="Another process"):
        await second.upsert("c", [record("b", "common")])
    await index.aclose()
    await second.upsert("c", [record("b", "common")])
    await second.aclose()


async def test_a_text_that_is_not_unicode_is_refused_whole(index: TantivyKeywordIndex) -> None:
    await index.create("c", fields={})
    with pytest.raises(EngineRejected, match="not valid Unicode"):
        await index.upsert("c", [record("a", "common"), record("b", "half a \ud800 pair")])
    assert await index.contents("c") == {}
    await index.aclose()


async def test_other_fields_than_it_was_made_with_are_refused(index: TantivyKeywordIndex) -> None:
    await index.create("c", fields={"year": FieldType.INTEGER})
    with pytest.raises(EngineRejected, match="other fields"):
        await index.create("c", fields={})
    with pytest.raises(EngineRejected, match="not declared"):
        await index.upsert("c", [record("a", "common", fields={"colour": "red"})])
    assert await index.contents("c") == {}
    await index.aclose()


# ── what is this adapter's own ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "größe 1", "C", "c", "%2E", "a" * 70])
async def test_a_collection_may_have_any_name(tmp_path: Path, name: str) -> None:
    index = TantivyKeywordIndex(tmp_path / "keywords")
    await index.create(name, fields={})
    await index.upsert(name, [record("a", "common")])
    assert await index.collections() == [name]
    assert names_in(tmp_path) == ["keywords"]
    await index.aclose()


async def test_more_collections_than_open_writers(index: TantivyKeywordIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "MAX_OPEN_WRITERS", 2)
    names = [f"c{number}" for number in range(5)]
    for name in names:
        await index.create(name, fields={})
    for batch in range(3):
        await asyncio.gather(*(index.upsert(name, [record(f"d{batch}", "common")]) for name in names))
    assert [len(await index.contents(name)) for name in names] == [3] * 5
    await index.aclose()


async def test_groups_are_kept_whichever_way_they_are_asked(index: TantivyKeywordIndex) -> None:
    """Few restricted chunks are left out, many are let in: both forms, and none, see the same."""
    await index.create("c", fields=FIELDS)
    for restricted in (0, 2, 30):
        rows = [record(f"d{n}", "common", groups={"staff"} if n < restricted else ()) for n in range(20 + restricted)]
        await index.upsert("c", rows)
        for groups, count in (
            (frozenset[str](), 20),
            (frozenset({"other"}), 20),
            (frozenset({"staff"}), 20 + restricted),
        ):
            hits = await index.search("c", "common", top_k=99, scope=Scope(groups))
            assert len(hits) == count, (restricted, groups)
    await index.aclose()


async def test_ties_beyond_the_first_fetch_still_go_by_chunk_id(index: TantivyKeywordIndex) -> None:
    await index.create("c", fields={})
    rows = [record(f"d{n}", "common") for n in range(300)]
    await index.upsert("c", rows[150:])
    await index.upsert("c", rows[:150])
    hits = await index.search("c", "common", top_k=5, scope=EVERYBODY)
    assert chunk_ids(hits) == sorted(one.chunk.id for one in rows)[:5]
    assert len(rows) < MAX_TIED
    await index.aclose()


async def test_of_too_many_words_the_rarest_are_searched(index: TantivyKeywordIndex) -> None:
    await index.create("c", fields={})
    frequent = " ".join(f"frequent{n}" for n in range(MAX_TERMS + 20))
    await index.upsert("c", [record("rare", "needle"), *(record(f"d{n}", frequent) for n in range(5))])
    hits = await index.search("c", f"{frequent} needle", top_k=9, scope=EVERYBODY)
    assert hits[0].chunk.document != "rare"
    assert "needle" in texts(hits)
    await index.aclose()


async def test_a_search_text_that_does_not_end_with_the_text_is_kept_too(index: TantivyKeywordIndex) -> None:
    await index.create("c", fields={})
    (one,) = [record("a", "apples")]
    odd = type(one)(one.chunk, one.uri, one.title, one.groups, one.fields, "apples, then pears")
    await index.upsert("c", [odd])
    await index.update_payload("c", "a", title="New", groups=frozenset(), fields={})
    assert texts(await index.search("c", "pears", top_k=9, scope=EVERYBODY)) == ["apples"]
    await index.aclose()


async def test_what_the_data_folder_says_is_readable(tmp_path: Path, index: TantivyKeywordIndex) -> None:
    await index.create("c", fields=FIELDS)
    assert json.loads((tmp_path / "c" / "ragline.json").read_text("utf-8"))["fields"]["year"] == "integer"
    await index.upsert("c", varied())
    await index.aclose()


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("plain ASCII-text", "plain ASCII-text"),
        ("ﬁne ①", "fine 1"),
        ("e\u0301", "é"),
        ("مُحَمَّد", "محمد"),
        ("أحمد", "احمد"),
        ("東京都", " 東 京 都 東京 京都 "),
        ("in 東京 now", "in  東 京 東京  now"),
        ("猫", " 猫 "),
        ("が", " が "),
        ("\ud800x", "?x"),
    ],
)
def test_folding_by_hand(text: str, folded: str) -> None:
    assert fold(text) == folded
