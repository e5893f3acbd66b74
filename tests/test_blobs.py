"""Blobs: whole or not at all, the same on a folder and on any fsspec file system."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from ragline.blobs import FsspecBlobs, KeepingBlobs, open_blobs
from ragline.errors import ConfigurationError, EngineUnavailable, NotFound
from ragline.protocols import Blobs


@pytest.fixture(params=["folder", "fsspec"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    return open_blobs(str(tmp_path)) if request.param == "folder" else open_blobs(f"memory://{tmp_path}")


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
        async with keeping.keeping():
            await keeping.delete("n/d/2")
        assert await keeping.paths("") == ["n/d/1", "n/d/2", "n/d/3"], "one that began later may still need them"
    while await keeping.paths("") != ["n/d/3"]:  # made up for beside whoever kept them
        await asyncio.sleep(0)
    await keeping.delete("n/d/3")
    assert await keeping.paths("") == []
