"""A backup taken under load, a service made from it, and files that are none."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import signal
import sqlite3
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ragline import backup
from ragline.backup import END, FORMAT, MANIFEST, check
from ragline.build import build
from ragline.contents import SHORT
from ragline.errors import InvalidRequest
from ragline.settings import Settings
from ragline.types import State
from tests.house import House

from .conftest import Result, Shell, environment, ragline, up
from .test_sync import rest, until

QUESTIONS = ["vault number 3", "the lighthouse of red stone", "which locker opens at noon", "tide table"]


def fill(shell: Shell, folder: Path, count: int = 24) -> None:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:02}.md").write_text(
            f"# Vault {number}\n\nThe vault number {number} opens at noon. The lighthouse of red stone guards it.\n"
        )
    (folder / "empty.md").write_text("")
    shell("ingest", str(folder), "-n", "vaults", code=1)


def answers(ask: Callable[..., Result], namespace: str = "vaults") -> list[list[str]]:
    """The documents that each question finds, by each leg: scores may differ in their last bits, places may not."""
    found = []
    for question in QUESTIONS:
        for leg in ("keyword", "dense"):
            shown = ask("search", question, "-n", namespace, "--leg", leg, "--top-k", "5", "--json").json
            found.append([f"{one['uri']} {one['text']}" for one in shown["passages"]])
    return found


@contextmanager
def restored(folder: Path, file: Path) -> Iterator[Shell]:
    """A service from `file`."""
    done = ragline("restore", str(file), "--data-dir", str(folder), cwd=folder.parent)
    assert done.code == 0, done.err
    with up(folder.parent, "--data-dir", str(folder)) as about:
        yield Shell(about, folder.parent)


async def books(folder: Path) -> dict[str, Any]:
    """Registry and both stores of a restored folder must agree, chunk by chunk, once what was due is done: a server that ended
    may have been at a sweep."""
    system = await build(Settings(data_dir=folder))
    try:
        await House(system).work()
        told: dict[str, Any] = {}
        for namespace in await system.namespaces.all():
            page = await system.documents.page(namespace.name, after="", most=10_000, state=None)
            live = {(one.id, one.live): one.chunks for one in page if one.live is not None and one.live == one.content}
            held = await system.vectors.contents(namespace.epoch.vectors)
            assert {key: held.get(key) for key in live} == live
            assert await system.keywords.contents(namespace.epoch.keywords) == held
            told[namespace.name] = page
        return told
    finally:
        await system.aclose()


@pytest.fixture(scope="module")
def library(shell: Shell) -> Path:
    folder = shell.folder / "vaults"
    fill(shell, folder)
    return folder


def test_a_restored_service_answers_as_before(shell: Shell, library: Path, tmp_path: Path) -> None:
    shell("namespaces", "create", "other")
    told = shell("backup", str(tmp_path), "--json").json
    file = Path(told["file"])
    assert file.parent == tmp_path
    assert (file.stat().st_size, file.stat().st_mode & 0o777) == (told["bytes"], 0o600)
    before = answers(shell)
    assert sum(map(len, before)) > 20
    with restored(tmp_path / "new", file) as again:
        assert answers(again) == before
        for name in ("vaults", "other"):
            one, two = (ask("namespaces", "show", name, "--json").json for ask in (shell, again))
            assert one == two
        assert again("documents", "why", "empty.md", "-n", "vaults", "--json").json["state"] == "failed"
        done = again("ingest", "-", "--uri", "after.md", "-n", "vaults", "--json", stdin=b"Written afterwards.").json
        assert done["indexed"] == 1
    assert asyncio.run(books(tmp_path / "new"))


def test_a_backup_under_load_loses_nothing_that_was_accepted_before(shell: Shell, tmp_path: Path) -> None:
    """Documents are added, replaced and deleted all the while; what stood before the backup began stands in it."""
    source = tmp_path / "stand"
    source.mkdir()
    for number in range(16):
        (source / f"stays-{number:02}.md").write_text(f"The stone number {number} stays.\n" * 20)
        (source / f"turns-{number:02}.md").write_text(f"The wheel number {number} turns, version 0.\n" * 20)
    shell("ingest", str(source), "-n", "load")
    stop, failures = threading.Event(), []

    def write() -> None:
        version = 0
        try:
            while not stop.is_set():
                version += 1
                for number in range(16):
                    (source / f"turns-{number:02}.md").write_text(
                        f"The wheel {number} turns, version {version}.\n" * 20
                    )
                    (source / f"added-{version}-{number:02}.md").write_text(
                        f"Added {number} in round {version}.\n" * 20
                    )
                done = ragline("ingest", str(source), "-n", "load", "--no-wait", "--url", shell.url, cwd=tmp_path)
                assert done.code == 0, done.err
                done = ragline(
                    "documents", "delete", f"added-{version}-00.md", "-n", "load", "--url", shell.url, cwd=tmp_path
                )
                assert done.code == 0, done.err
        except AssertionError as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        files = []
        for number in range(2):
            shell("ingest", "-", "--uri", f"mark-{number}.md", "-n", "load", "--no-wait", stdin=b"A mark in the sand.")
            files.append(tmp_path / f"{number}.tar")
            shell("backup", str(files[-1]))
    finally:
        stop.set()
        writer.join()
    assert failures == []
    stood = {f"{kind}-{n:02}.md" for kind in ("stays", "turns") for n in range(16)}
    for number, file in enumerate(files):
        held = check(file).documents
        assert held >= len(stood) + number + 1
    folder = tmp_path / "restored"
    with restored(folder, files[-1]) as there:
        settled(there, "load")
        listed = there("documents", "list", "-n", "load", "--limit", "9000", "--json").json["documents"]
        assert stood | {"mark-0.md", "mark-1.md"} <= {one["uri"] for one in listed}
        assert [one["uri"] for one in listed if one["state"] != "indexed"] == []
    pages = asyncio.run(books(folder))["load"]
    assert all(one.live == one.content for one in pages if one.state is State.INDEXED)


def settled(shell: Shell, namespace: str) -> None:
    def done() -> bool:
        counts = shell("namespaces", "show", namespace, "--json").json["documents"]
        return not counts.get("received") and not counts.get("chunked")

    until(done)


def test_a_sync_finds_out_what_a_restored_service_lacks(shell: Shell, tmp_path: Path) -> None:
    """Nothing outside the service remembers what was synced, so nothing is out of step with one from a backup."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(8):
        (source / f"{number}.md").write_text(f"The lantern number {number} is lit.")
    rest(source)
    shell("ingest", "--sync", str(source), "-n", "lanterns")
    shell("backup", str(tmp_path / "b.tar"))
    (source / "8.md").write_text("The lantern number 8 is lit.")
    (source / "0.md").write_text("The lantern number 0 went out.")
    rest(source)
    assert shell("ingest", "--sync", str(source), "-n", "lanterns", "--json").json["indexed"] == 2
    with restored(tmp_path / "new", tmp_path / "b.tar") as there:
        done = there("ingest", "--sync", str(source), "-n", "lanterns", "--json").json
        assert (done["indexed"], done["unchanged"], done["deleted"]) == (2, 7, 0)
        found = there("search", "lantern number 0 went out", "-n", "lanterns", "--json").json["passages"]
        assert found[0]["uri"] == "0.md"


KILLED_AT_A_BLOB = """
import os, signal, sys
from ragline.blobs import FolderBlobs
from ragline.cli.main import run

put, left = FolderBlobs._put, int(sys.argv.pop(1))

def killed(target, data, durable):
    global left
    left -= 1
    if left:
        return put(target, data, durable)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_name(f".{target.name}.cafe").write_bytes(data[:-1])  # what is on the disk half way through it
    os.kill(os.getpid(), signal.SIGKILL)

FolderBlobs._put = staticmethod(killed)
run()
"""


def killed_at_a_blob(nth: int, file: Path, folder: Path) -> None:
    command = [sys.executable, "-c", KILLED_AT_A_BLOB, str(nth), "restore", str(file), "--data-dir", str(folder)]
    done = subprocess.run(command, cwd=folder.parent, env=environment(), capture_output=True, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("nth", [1, 40])
def test_one_that_was_killed_among_the_blobs_is_begun_again(
    shell: Shell, library: Path, tmp_path: Path, nth: int
) -> None:
    file, folder = tmp_path / "b.tar", tmp_path / "new"
    shell("backup", str(file))
    killed_at_a_blob(nth, file, folder)
    for command in (("up", "--port", "0"), ("ingest", str(library)), ("reindex",)):  # none may take it for an empty one
        refused = ragline(*command, "--data-dir", str(folder), cwd=tmp_path)
        assert refused.code == 2
        assert "did not come to its end" in refused.err
    killed_at_a_blob(nth + 1, file, folder)
    with restored(folder, file) as again:
        assert answers(again) == answers(shell)
    assert list(folder.rglob("*.cafe")) == []
    done = ragline("restore", str(file), "--data-dir", str(folder), cwd=tmp_path)
    assert done.code == 2
    assert "holds documents already" in done.err
    assert asyncio.run(books(folder))


@pytest.mark.parametrize("point", ["keywords.create.after", "vectors.upsert.after"])
def test_one_that_was_killed_while_the_stores_were_filled_is_begun_again(
    shell: Shell, library: Path, tmp_path: Path, point: str
) -> None:
    file, folder = tmp_path / "b.tar", tmp_path / "new"
    shell("backup", str(file))
    done = ragline("restore", str(file), "--data-dir", str(folder), cwd=tmp_path, RAGLINE_FAILPOINT=point)
    assert done.code == -signal.SIGKILL
    refused = ragline("search", "vault", "-n", "vaults", "--data-dir", str(folder), cwd=tmp_path)
    assert refused.code == 2
    assert "did not come to its end" in refused.err
    with restored(folder, file) as again:
        assert answers(again) == answers(shell)
    assert asyncio.run(books(folder))


def test_one_that_was_cut_short_is_begun_again_by_the_same_file_only(
    shell: Shell, library: Path, saved: Path, tmp_path: Path
) -> None:
    shell("ingest", "-", "--uri", "later.md", "-n", "later", stdin=b"Written afterwards.")
    file, folder = tmp_path / "b.tar", tmp_path / "new"
    shell("backup", str(file))
    done = ragline(
        "restore", str(file), "--data-dir", str(folder), cwd=tmp_path, RAGLINE_FAILPOINT="keywords.create.before"
    )
    assert done.code == -signal.SIGKILL
    held = sorted(folder.rglob("original"))
    other = ragline("restore", str(saved), "--data-dir", str(folder), cwd=tmp_path)
    assert other.code == 2
    assert "part of another backup" in other.err
    assert sorted(folder.rglob("original")) == held
    with restored(folder, file) as again:
        assert again("documents", "show", "later.md", "-n", "later", "--json").json["state"] == "indexed"


def test_a_namespace_of_another_space_is_restored_and_moved_by_a_reindex(tmp_path: Path) -> None:
    """Some of its documents have no vectors of the space that serves: they came after the embedder was changed."""
    old, folder = tmp_path / "old", tmp_path / "new"
    for name in ("moved", "stays"):
        done = ragline(
            "ingest", "-", "--uri", "a.md", "-n", name, "--data-dir", str(old), cwd=tmp_path, stdin=b"Herons wade."
        )
        assert done.code == 0, done.err
    with closing(sqlite3.connect(old / "registry.sqlite")) as sql, sql:
        sql.execute("UPDATE epochs SET space = replace(space, 'int8r1', 'older') WHERE namespace = 'moved'")
    assert ragline("backup", str(tmp_path / "b.tar"), "--data-dir", str(old), cwd=tmp_path).code == 0
    done = ragline("restore", str(tmp_path / "b.tar"), "--data-dir", str(folder), cwd=tmp_path)
    assert done.code == 0, done.err
    assert "not all of its documents are in its stores: run `ragline reindex -n moved`" in done.err
    assert ragline("reindex", "-n", "moved", "--data-dir", str(folder), cwd=tmp_path).code == 0
    assert set(asyncio.run(books(folder))) == {"default", "moved", "stays"}


# ── refused ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def saved(shell: Shell, library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("saved") / "all.tar"
    shell("backup", str(file))
    return file


def test_nothing_is_overwritten(shell: Shell, saved: Path, tmp_path: Path) -> None:
    assert "exists, and is not overwritten" in shell("backup", str(saved), code=2).err
    assert "There is no folder" in shell("backup", str(tmp_path / "no" / "b.tar"), code=2).err
    done = ragline("restore", str(saved), "--data-dir", str(shell.data_dir), cwd=tmp_path)
    assert done.code == 2
    assert "in use" in done.err
    folder = tmp_path / "mine"
    assert ragline("ingest", "-", "--uri", "a.md", "--data-dir", str(folder), cwd=tmp_path, stdin=b"Mine.").code == 0
    done = ragline("restore", str(saved), "--data-dir", str(folder), cwd=tmp_path)
    assert done.code == 2
    assert "holds documents already; a restore overwrites nothing" in done.err
    assert ragline("documents", "show", "a.md", "--data-dir", str(folder), cwd=tmp_path).code == 0


def test_one_that_is_cut_short_anywhere(saved: Path, tmp_path: Path) -> None:
    """In a member, in its header, in the header of a long name: never taken for whole, nor for something else."""
    short = tmp_path / "short.tar"
    data = saved.read_bytes()
    with tarfile.open(saved) as tar:
        later = tar.getmembers()[1:8]
    assert any(one.offset_data - one.offset > 512 for one in later), "one has a long name"
    for size in {at for one in later for at in (one.offset, one.offset + 200, one.offset + 700, one.offset_data - 200)}:
        short.write_bytes(data[:size])
        with pytest.raises(InvalidRequest, match="is cut short"):
            check(short)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_one_that_is_cut_short(saved: Path, tmp_path: Path, share: float) -> None:
    short = tmp_path / "short.tar"
    data = saved.read_bytes()
    short.write_bytes(data[: int((len(data) - 1024) * share)])
    done = ragline("restore", str(short), "--data-dir", str(tmp_path / "new"), cwd=tmp_path)
    assert done.code == 1
    assert "is cut short" in done.err
    assert not (tmp_path / "new").exists(), "nothing was begun"


def test_one_bit_that_flipped(saved: Path, tmp_path: Path) -> None:
    data = bytearray(saved.read_bytes())
    with tarfile.open(saved) as tar:
        originals = [name for name in tar.getnames() if name.endswith("/original")]
        for name in (originals[0], "registry.sqlite"):
            info = tar.getmember(name)
            flipped = bytearray(data)
            flipped[info.offset_data + info.size // 2] ^= 1
            (tmp_path / "bad.tar").write_bytes(flipped)
            with pytest.raises(InvalidRequest, match=f"is damaged: {name} is not what was written"):
                check(tmp_path / "bad.tar")


def made(path: Path, **members: bytes) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_files_that_are_no_backups(tmp_path: Path, saved: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("no tar" * 1000)
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    climbing = made(tmp_path / "c.tar", **{MANIFEST: b"{}", "blobs/../../x": b"x"})
    for file in (
        text,
        empty,
        climbing,
        made(tmp_path / "d.tar", other=b"x"),
        made(tmp_path / "e.tar", **{MANIFEST: b"[]"}),
    ):
        with pytest.raises(InvalidRequest, match="is no Ragline backup"):
            check(file)
    with pytest.raises(InvalidRequest, match="cannot be read: No such file"):
        check(tmp_path / "nowhere")
    manifest = json.loads(next(iter_members(saved, MANIFEST)))
    for newer in ({"format": FORMAT + 1}, {"schema": "9999"}):
        told = json.dumps(manifest | newer | {"ragline": "9.9"}).encode()
        with pytest.raises(InvalidRequest, match=r"was made by Ragline 9\.9, which is newer"):
            check(made(tmp_path / "n.tar", **{MANIFEST: told, END: b"{}"}))


def iter_members(path: Path, name: str) -> Any:
    with tarfile.open(path) as tar:
        file = tar.extractfile(name)
        assert file
        yield file.read()


def test_a_backup_holds_no_more_than_it_must(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "registry.sqlite").write_bytes(next(iter_members(saved, "registry.sqlite")))
    with sqlite3.connect(tmp_path / "registry.sqlite") as sql:
        assert sql.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        blobs = {blob for (blob,) in sql.execute("SELECT blob FROM documents WHERE blob IS NOT NULL")}
    sql.close()
    with tarfile.open(saved) as tar:
        held = {name.split("/")[3] for name in tar.getnames() if name.startswith("blobs/")}
    assert held == blobs


def test_only_admins_of_everything_may_take_one(shell: Shell, tmp_path: Path) -> None:
    made = shell("keys", "create", "scoped", "--role", "admin", "--namespace", "vaults", "--json").json
    try:
        refused = shell("backup", str(tmp_path), key=made["token"], code=1)
        assert "a backup holds them all" in refused.err
        assert list(tmp_path.iterdir()) == []
    finally:
        shell("keys", "revoke", made["id"])


async def test_a_large_blob_is_hashed_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, sha256 = set[threading.Thread](), backup._sha256

    def noted(data: bytes) -> str:
        threads.add(threading.current_thread())
        return sha256(data)

    monkeypatch.setattr(backup, "_sha256", noted)
    data, sums = bytes(SHORT), dict[str, str]()
    file = b"".join([piece async for piece in backup._member("blobs/one", data, sums)])
    assert len(threads) == 1
    assert threading.current_thread() not in threads
    assert sums == {"blobs/one": hashlib.sha256(data).hexdigest()}
    with tarfile.open(fileobj=io.BytesIO(file)) as tar:
        assert [(one.name, one.size) for one in tar] == [("blobs/one", SHORT)]
