"""A namespace follows a folder: what is read, what is sent, what is deleted, and what is not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ragline.cli.opening import Opened, open_file, version_of
from ragline.cli.sources import Found, Item, Trouble, open_item
from ragline.cli.sync import Held, compare, following
from ragline.cli.upload import Source

from .conftest import PROGRAM, Shell, environment, start

CEILING_S = 120.0


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + CEILING_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def rest(folder: Path) -> None:
    """Until the last change of every file is old enough for its times to tell the next one."""
    for path in folder.rglob("*"):
        if path.is_file():
            until(lambda path=path: bool(version_of(path.stat(), time.time_ns())))  # type: ignore[misc]


class Tree:
    """A folder, and the namespace that follows it."""

    def __init__(self, shell: Shell, folder: Path, namespace: str) -> None:
        self.shell = shell
        self.folder = folder
        self.namespace = namespace

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def sync(self, *more: str, code: int = 0) -> Any:
        rest(self.folder)
        return self.shell("ingest", "--sync", str(self.folder), "-n", self.namespace, "--json", *more, code=code).json

    def uris(self) -> list[str]:
        listed = self.shell("documents", "list", "-n", self.namespace, "--json").json["documents"]
        return sorted(one["uri"] for one in listed)

    def document(self, uri: str) -> Any:
        return self.shell("documents", "show", uri, "-n", self.namespace, "--json").json


@pytest.fixture
def tree(shell: Shell, tmp_path: Path, request: pytest.FixtureRequest) -> Tree:
    folder = tmp_path / "tree"
    name = request.node.name.split("[")[0][:60].replace("_", "-")
    made = Tree(shell, folder, name)
    for number in range(12):
        made.write(f"notes/{number:02}.md", f"# Note {number}\n\nThe vault number {number} opens at dawn.\n")
    return made


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The uris of the files that are opened."""
    seen: list[str] = []

    def spy(item: Item) -> Opened:
        seen.append(item.uri)
        return real(item)

    real = open_item
    monkeypatch.setattr("ragline.cli.upload.open_item", spy)
    return seen


def test_only_what_differs_is_read_and_what_vanished_is_deleted(tree: Tree, opened: list[str]) -> None:
    first = tree.sync()
    assert (first["indexed"], first["unchanged"], first["deleted"], len(opened)) == (12, 0, 0, 12)
    opened.clear()
    again = tree.sync()
    assert (again["indexed"], again["unchanged"], again["deleted"]) == (0, 12, 0)
    assert opened == [], "unchanged files are not even opened"
    assert again["sequence"] == first["sequence"]

    tree.write("notes/03.md", "The vault number three stays closed.")
    tree.write("notes/new.md", "A new vault.")
    (tree.folder / "notes" / "07.md").unlink()
    third = tree.sync()
    assert (third["indexed"], third["unchanged"], third["deleted"]) == (2, 10, 1)
    assert sorted(opened) == ["notes/03.md", "notes/new.md"]
    assert "notes/07.md" not in tree.uris()
    found = tree.shell("search", "vault number 7 opens", "-n", tree.namespace, "--json").json["passages"]
    assert "notes/07.md" not in [one["uri"] for one in found]


def test_a_file_that_is_touched_or_written_with_its_old_time_is_read_again(tree: Tree, opened: list[str]) -> None:
    tree.sync()
    opened.clear()
    path = tree.folder / "notes" / "05.md"
    known = path.stat()
    path.write_text(path.read_text().replace("dawn", "dusk"))
    os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))  # as `cp -p` and `rsync -t` do
    assert path.stat().st_size == known.st_size
    (tree.folder / "notes" / "06.md").touch()
    done = tree.sync()
    assert sorted(opened) == ["notes/05.md", "notes/06.md"]
    assert (done["indexed"], done["unchanged"]) == (2, 11), "the touched one has the same bytes"
    assert tree.sync()["unchanged"] == 12


def test_a_change_right_after_the_look_is_not_missed(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("one")
    known = path.stat()
    changed = max(known.st_mtime_ns, known.st_ctime_ns)
    assert version_of(known, changed + 5_000_000) == "", "the next write may get the same time"
    assert version_of(known, changed + 500_000_000) != ""
    seconds = {"st_mtime_ns": 1_700_000_000_000_000_000, "st_ctime_ns": 1_700_000_000_000_000_000}
    whole = os.stat_result((*known[:6], 3, 0, 0, 0), seconds)  # a file system that counts seconds
    assert version_of(whole, 1_700_000_001_000_000_000) == ""
    assert version_of(whole, 1_700_000_003_000_000_000) != ""


def test_more_than_a_tenth_is_deleted_only_after_a_yes(tree: Tree) -> None:
    tree.sync()
    tree.write("notes/new.md", "Not taken either.")
    for number in (1, 2):
        (tree.folder / "notes" / f"{number:02}.md").unlink()
    refused = tree.shell("ingest", "--sync", str(tree.folder), "-n", tree.namespace, code=2)
    assert "2 of the 12 documents" in refused.err
    assert "such as notes/0" in refused.err
    assert "Say --yes" in refused.err
    assert len(tree.uris()) == 12, "nothing was changed"
    assert tree.sync("--yes")["deleted"] == 2
    assert len(tree.uris()) == 11


def test_only_what_the_same_source_has_brought_is_deleted(tree: Tree, tmp_path: Path) -> None:
    tree.sync()
    tree.shell("ingest", "-", "--uri", "by-hand.md", "-n", tree.namespace, stdin=b"Brought by hand.")
    other = tmp_path / "other"
    other.mkdir()
    (other / "plan.md").write_text("A plan of the other folder.")
    (other / "notes").mkdir()
    (other / "notes" / "00.md").write_text("Another note of the same name.")
    rest(other)
    done = tree.shell("ingest", "--sync", str(other), "-n", tree.namespace, "--json", code=1).json
    assert (done["indexed"], done["deleted"]) == (1, 0)
    assert [one["uri"] for one in done["failed"]] == ["notes/00.md"]
    assert "which another sync follows" in done["failed"][0]["reason"]
    assert tree.sync()["unchanged"] == 12
    assert {"by-hand.md", "plan.md"} <= set(tree.uris())


def test_what_ingest_brought_becomes_the_syncs_and_what_it_changes_is_put_right(tree: Tree) -> None:
    tree.shell("ingest", str(tree.folder), "-n", tree.namespace)
    assert tree.sync()["unchanged"] == 12, "the same bytes"
    tree.shell("ingest", "-", "--uri", "notes/00.md", "-n", tree.namespace, stdin=b"Overwritten by hand.")
    done = tree.sync()
    assert (done["indexed"], done["unchanged"]) == (1, 11)
    tree.shell("documents", "delete", "notes/01.md", "-n", tree.namespace)
    assert tree.sync()["indexed"] == 1
    assert "notes/01.md" in tree.uris()


def test_other_words_and_other_chunk_sizes_reach_unchanged_files(tree: Tree, opened: list[str]) -> None:
    tree.sync()
    done = tree.sync("--group", "staff")
    assert done["indexed"] == 12
    assert tree.document("notes/00.md")["groups"] == ["staff"]
    assert tree.sync("--group", "staff")["unchanged"] == 12
    opened.clear()
    tree.shell("namespaces", "set", tree.namespace, "--chunk-tokens", "64", "--overlap-tokens", "8")
    assert tree.sync("--group", "staff")["indexed"] == 12
    assert len(opened) == 12


def test_what_failed_is_named_and_not_parsed_again(tree: Tree, opened: list[str]) -> None:
    tree.write("empty.md", "")
    assert [one["uri"] for one in tree.sync(code=1)["failed"]] == ["empty.md"]
    revision = tree.document("empty.md")["revision"]
    opened.clear()
    again = tree.sync(code=1)
    assert [one["uri"] for one in again["failed"]] == ["empty.md"]
    assert opened == []
    assert tree.document("empty.md")["revision"] == revision


def test_a_loop_of_links_is_walked_once(tree: Tree) -> None:
    (tree.folder / "notes" / "loop").symlink_to(tree.folder)
    assert tree.sync()["indexed"] == 12
    assert tree.sync()["unchanged"] == 12


def test_what_cannot_be_read_has_not_vanished() -> None:
    source = Source("s", "w")
    held = [Held(uri, uri, "1-w", "indexed", None, True) for uri in ("a/x.md", "a/b/y.md", "ab/z.md", "gone.md")]
    plan = compare([Found("ab/z.md", 1, "1")], held, [Trouble("a", "cannot be read")], source)
    assert plan.unchanged == 1
    assert [one.uri for one in plan.vanished] == ["gone.md"]
    assert [one.uri for one in plan.unseen] == ["a/x.md", "a/b/y.md"]
    plan = compare([], held, [Trouble(".", "cannot be read")], source)
    assert plan.vanished == []


def test_documents_below_a_folder_that_may_not_be_read_stay(shell: Shell, tmp_path: Path) -> None:
    """Root reads everything, so under it the child gives up what lets it, and the folder is somebody else's."""
    plain = [] if os.geteuid() else ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"]
    if plain and not shutil.which(plain[0]):
        assert not os.environ.get("CI"), "setpriv, of util-linux, is missing"
        pytest.skip("setpriv, of util-linux, is missing")
    folder = tmp_path / "tree"
    for name in ("open", "closed/deep"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.md").write_text(f"The file in {name}.")

    def sync() -> subprocess.CompletedProcess[str]:
        command = [*plain, *PROGRAM, "ingest", "--sync", str(folder), "-n", "closed", "--json"]
        command += ["--data-dir", str(shell.data_dir)]
        return subprocess.run(
            command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=CEILING_S
        )  # fmt: skip

    rest(folder)
    first = sync()
    assert first.returncode == 0, first.stderr
    (folder / "closed").chmod(0o000)
    if plain:
        os.chown(folder / "closed", 65534, 65534)
    try:
        second = sync()
    finally:
        (folder / "closed").chmod(0o755)
    assert second.returncode == 1, second.stderr
    done = json.loads(second.stdout)
    assert (done["unchanged"], done["deleted"]) == (1, 0)
    assert [(one["uri"], one["reason"]) for one in done["failed"]] == [("closed", "cannot be read: Permission denied")]
    listed = shell("documents", "list", "-n", "closed", "--json").json["documents"]
    assert sorted(one["uri"] for one in listed) == ["closed/deep/a.md", "open/a.md"]


# ── files that do not stand still ────────────────────────────────────────────────────────────────────────────────────


def test_a_file_that_grows_is_taken_as_it_was_when_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"first\n")
    rest(tmp_path)
    content, version = open_file(path)
    assert not isinstance(content, bytes)
    with content, path.open("ab") as log:
        log.write(b"second\n")
        log.flush()
        assert content.read() == b"first\n"
        assert version not in ("", version_of(path.stat())), "the next sync reads it again"


def test_a_file_that_shrinks_is_an_error_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"x" * 100)
    content, _ = open_file(path)
    assert not isinstance(content, bytes)
    with content:
        os.truncate(path, 40)
        assert content.read(64) == b"x" * 40
        with pytest.raises(OSError, match="it lost 60 bytes while it was read"):
            content.read(64)


@pytest.mark.parametrize("size", [1 << 10, 9 << 20], ids=["in memory", "streamed"])
def test_an_upload_of_a_file_that_grows_arrives(tree: Tree, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    line = bytes(range(256))  # nothing that a parser or the model would spend time on
    path = tree.folder / "log.bin"
    path.write_bytes((line * (size // len(line) + 1))[:size])
    real = open_item

    def growing(item: Item) -> Opened:
        opened = real(item)
        if item.uri == "log.bin":
            with path.open("ab") as log:
                log.write(line * 4_000)
        return opened

    monkeypatch.setattr("ragline.cli.upload.open_item", growing)
    done = tree.sync("--no-wait")
    assert (done["accepted"], done["failed"]) == (13, [])
    assert tree.document("log.bin")["size"] == size
    monkeypatch.setattr("ragline.cli.upload.open_item", real)
    assert tree.sync("--no-wait")["accepted"] == 1, "what was appended comes with the next sync"
    assert tree.document("log.bin")["size"] == path.stat().st_size
    tree.shell("namespaces", "delete", tree.namespace, "--yes")


# ── interrupted, and going on ────────────────────────────────────────────────────────────────────────────────────────


def test_a_sync_that_was_killed_is_taken_up_where_it_stopped(tree: Tree, opened: list[str]) -> None:
    for number in range(800):
        tree.write(f"many/{number:04}.md", f"The locker number {number}.")
    rest(tree.folder)
    arguments = ["ingest", "--sync", str(tree.folder), "-n", tree.namespace, "--data-dir", str(tree.shell.data_dir)]
    tree.shell("namespaces", "create", tree.namespace)

    def accepted() -> int:
        shown = tree.shell("namespaces", "show", tree.namespace, "--json").json
        return int(sum(shown["documents"].values()))

    with start(*arguments, "--no-wait", cwd=tree.folder.parent) as child:
        until(lambda: accepted() >= 100 or child.poll() is not None)
        child.send_signal(signal.SIGKILL)
    held = accepted()
    assert held >= 100
    done = tree.sync("--no-wait")
    assert sum(done["documents"].values()) == 812
    assert len(opened) <= 812 - held + 192, "what was in flight at most"
    opened.clear()
    assert tree.sync("--no-wait")["unchanged"] == 812
    assert opened == []
    tree.shell("namespaces", "delete", tree.namespace, "--yes")


@pytest.fixture
def watching(tree: Tree) -> Iterator[subprocess.Popen[str]]:
    arguments = ["ingest", "--watch", str(tree.folder), "-n", tree.namespace, "--data-dir", str(tree.shell.data_dir)]
    tree.shell("namespaces", "create", tree.namespace)
    process = start(*arguments, cwd=tree.folder.parent)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=60)


def test_watch_follows_the_folder_until_ctrl_c(tree: Tree, watching: subprocess.Popen[str]) -> None:
    until(lambda: len(tree.uris()) == 12)
    tree.write("notes/later.md", "Written while it watched.")
    until(lambda: "notes/later.md" in tree.uris())
    (tree.folder / "notes" / "03.md").unlink()
    until(lambda: "notes/03.md" not in tree.uris())
    tree.write(".hidden/secret.md", "Never taken.")
    shutil.rmtree(tree.folder / "notes")
    tree.write("only.md", "What is left.")
    until(lambda: "only.md" in tree.uris())
    assert len(tree.uris()) == 13, "all at once is kept: it may be a disk that is gone"
    assert watching.stderr
    while not (line := watching.stderr.readline()).startswith("12 vanished at once: kept"):
        assert line, "it ended without a word"
    watching.send_signal(signal.SIGINT)
    out, err = watching.communicate(timeout=60)
    assert (watching.returncode, err) == (0, "Stopped.\n")
    assert "1 deleted" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--sync", "-"], "follow one folder"),
        (["--sync", "a", "b"], "follow one folder"),
        (["--sync", "notes", "--records"], "follow one folder"),
        (["--sync", "**/*.md"], "A pattern is not followed"),
        (["--sync", "nowhere"], "does not exist"),
        (["--watch", "s3://bucket/x"], "s3:// tells no changes"),
        (["notes", "--yes"], "go with --sync"),
    ],
)
def test_what_cannot_be_followed_is_said(shell: Shell, arguments: list[str], told: str) -> None:
    refused = shell("ingest", *arguments, code=2)
    assert told in refused.err
    assert "next: " in refused.err


def test_the_source_is_the_machine_and_the_folder_or_what_it_is_called(tmp_path: Path) -> None:
    def name(place: str, given: str | None = None) -> str:
        return following(
            place, given, namespace="n", groups=[], metadata={}, yes=False, wait=True
        ).source.name  # fmt: skip

    assert name(str(tmp_path)).endswith(f":{tmp_path.resolve()}")
    assert name(str(tmp_path), "handbook") == "handbook"
    assert name("https://user:secret@host/a.pdf?signature=secret") == "https://host/a.pdf"
