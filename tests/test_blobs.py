"""Blobs: whole or not at all, the same on a folder and on any fsspec file system."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import pytest

from ragline.blobs import KeepingBlobs, open_blobs
from ragline.errors import ConfigurationError, EngineUnavailable, NotFound
from ragline.object_blobs import FsspecBlobs
from ragline.protocols import Blobs
from tests.engines.s3 import S3


@pytest.fixture(params=["folder", "memory", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    if request.param == "s3":
        s3: S3 = request.getfixturevalue("s3")
        return open_blobs(f"s3://{s3.bucket()}/house")
    return open_blobs(str(tmp_path) if request.param == "folder" else f"memory://{tmp_path}")


async def test_what_was_put_is_got_listed_and_deleted(blobs: Blobs) -> None:
    await blobs.put("n/d/1/original", b"one")
    await blobs.put("n/d/1/chunks-1", b"two", durable=False)
    await blobs.put("n/d/2/original", b"")
    assert await blobs.get("n/d/1/original") == b"one"
    assert await blobs.paths("n/d") == ["n/d/1/chunks-1", "n/d/1/original", "n/d/2/original"]
    await blobs.delete("n/d/1")
    assert await blobs.paths("n/d") == ["n/d/2/original"]
    await blobs.delete("n/d/1")


async def test_entries_know_their_size_and_age(blobs: Blobs) -> None:
    before = time.time()
    await blobs.put("n/d/1/original", b"one")
    await blobs.put("n/e/1/original", b"")
    entries = await blobs.entries("n")
    assert [(one.path, one.size) for one in entries] == [("n/d/1/original", 3), ("n/e/1/original", 0)]
    assert all(one.modified_at is not None and one.modified_at > before - 60 for one in entries)
    assert await blobs.entries("not") == []
    assert await blobs.folders() == ["n"]


async def test_putting_again_replaces(blobs: Blobs) -> None:
    await blobs.put("a/b", b"one")
    await blobs.put("a/b", b"two")
    assert await blobs.get("a/b") == b"two"
    assert await blobs.paths("a") == ["a/b"]


async def test_what_is_not_there_is_not_found(blobs: Blobs) -> None:
    with pytest.raises(NotFound):
        await blobs.get("not/there")
    assert await blobs.paths("not") == []


async def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    blobs = open_blobs(str(tmp_path))
    await blobs.put("a/b", b"old")
    monkeypatch.setattr("ragline.blobs.os.fsync", full)
    with pytest.raises(EngineUnavailable, match="No space left"):
        await blobs.put("a/b", b"new")
    assert await blobs.get("a/b") == b"old"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="nosuch"):
        open_blobs("nosuch://somewhere")


def test_a_known_scheme_is_served_by_fsspec() -> None:
    assert isinstance(open_blobs("memory://x"), FsspecBlobs)


async def test_nothing_is_deleted_while_it_is_kept(blobs: Blobs) -> None:
    keeping = KeepingBlobs(blobs)
    for path in ("n/d/1", "n/d/2", "n/d/3"):
        await keeping.put(path, b"x")
    async with keeping.keeping():
        await keeping.delete("n/d/1")
        async with keeping.keeping() as kept:
            await keeping.delete("n/d/2")
        assert await kept.paths("") == ["n/d/1", "n/d/2", "n/d/3"], "one that began later may still need them"
        assert await keeping.get("n/d/1") == b"x"
    await keeping.aclose()
    assert await blobs.paths("") == ["n/d/3"]
    await keeping.delete("n/d/3")
    assert await keeping.paths("") == []


async def test_what_is_kept_is_deleted_for_whoever_lists(blobs: Blobs) -> None:
    keeping = KeepingBlobs(blobs)
    for path in ("m/d/1", "n/d/1/original", "n/d/1/chunks-1", "n/d/10/original", "n/e/1/original"):
        await keeping.put(path, b"x")
    async with keeping.keeping() as kept:
        for prefix in ("m", "n/d/1", "n/e/1/original"):
            await keeping.delete(prefix)
        assert await keeping.folders() == ["n"]
        assert await keeping.paths("") == await keeping.paths("n") == ["n/d/10/original"]
        assert [entry.path for entry in await keeping.entries("n")] == ["n/d/10/original"]
        assert (await kept.folders(), len(await kept.paths("")), len(await kept.entries("n"))) == (["m", "n"], 5, 4)
    await keeping.aclose()
    assert await blobs.paths("") == ["n/d/10/original"]


async def test_what_was_kept_is_deleted_once_and_whatever_befalls_one_of_it(blobs: Blobs) -> None:
    keeping, told = KeepingBlobs(blobs), list[str]()
    inner = blobs.delete

    async def delete(prefix: str) -> None:
        told.append(prefix)
        if prefix == "n/2":
            raise EngineUnavailable("It says no.", next_step="Ask why.", engine="blobs")
        await inner(prefix)

    blobs.delete = delete  # type: ignore[method-assign]
    for path in ("n/2", "n/3"):
        await keeping.put(path, b"x")
    async with keeping.keeping():
        for prefix in ("n/1", "n/2", "n/1", "n/3", "n/2"):
            await keeping.delete(prefix)
    await keeping.aclose()
    assert told == ["n/1", "n/2", "n/3"]
    assert await keeping.paths("") == ["n/2"], "left to the audit, which sees it again"


async def test_who_keeps_while_deferred_deletions_run_stops_them(blobs: Blobs) -> None:
    keeping, reached, go_on = KeepingBlobs(blobs), asyncio.Event(), asyncio.Event()
    inner = blobs.delete

    async def delete(prefix: str) -> None:
        reached.set()
        await go_on.wait()
        await inner(prefix)

    blobs.delete = delete  # type: ignore[method-assign]
    for path in ("n/1", "n/2"):
        await keeping.put(path, b"x")
    async with keeping.keeping():
        await keeping.delete("n/1")
        await keeping.delete("n/2")
    await reached.wait()
    async with keeping.keeping() as kept:
        go_on.set()
        await keeping.aclose()
        assert await kept.paths("") == ["n/2"]
        assert await keeping.paths("") == []
    await keeping.aclose()
    assert await kept.paths("") == []


async def test_a_folder_that_another_is_deleting_as_well_goes_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs, remove = open_blobs(str(tmp_path)), shutil.rmtree
    for name in "abc":
        await blobs.put(f"n/{name}", b"x")

    def rival(path: Path) -> None:
        monkeypatch.undo()
        (path / "a").unlink()
        raise FileNotFoundError(2, "No such file or directory", "a")

    monkeypatch.setattr("ragline.blobs.shutil.rmtree", rival)
    await blobs.delete("n")
    assert shutil.rmtree is remove
    assert not (tmp_path / "n").exists()
