"""What `ingest` finds, what it leaves out, and what it says about that."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from ragline.cli.failures import WrongUsage
from ragline.cli.records import read_records
from ragline.cli.sources import Item, Trouble, find


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a.md", "sub/b.txt", "sub/deep/c.md", ".hidden.md", ".git/config", "sub/.cache/x.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def _find(*places: Path | str) -> tuple[list[str], list[Trouble]]:
    troubles: list[Trouble] = []
    return [file.uri for file in find([str(place) for place in places], troubles=troubles)], troubles


def test_a_folder_is_walked_and_hidden_names_are_skipped(tree: Path) -> None:
    assert _find(tree) == (["a.md", "sub/b.txt", "sub/deep/c.md"], [])


def test_a_file_is_known_by_its_name_even_a_hidden_one(tree: Path) -> None:
    assert _find(tree / "sub" / "b.txt", tree / ".hidden.md") == (["b.txt", ".hidden.md"], [])


def test_a_glob_is_relative_to_its_fixed_part(tree: Path) -> None:
    assert _find(f"{tree}/**/*.md")[0] == ["a.md", "sub/deep/c.md"]
    assert _find(f"{tree}/sub/*")[0] == ["b.txt", "deep/c.md"]


def test_loops_of_links_end(tree: Path) -> None:
    (tree / "sub" / "loop").symlink_to(tree)
    (tree / "sub" / "self").symlink_to("self")
    uris, troubles = _find(tree)
    assert uris == ["a.md", "sub/b.txt", "sub/deep/c.md"]
    assert [trouble.uri for trouble in troubles] == ["sub/self"]


def test_what_cannot_be_read_is_reported_and_the_rest_goes_on(tree: Path) -> None:
    (tree / "gone.md").symlink_to(tree / "nowhere")
    os.mkfifo(tree / "pipe.md")
    uris, troubles = _find(tree)
    assert uris == ["a.md", "sub/b.txt", "sub/deep/c.md"]
    assert [(t.uri, t.reason) for t in troubles] == [
        ("gone.md", "cannot be read: No such file or directory"),
        ("pipe.md", "cannot be read: not a regular file; pipe it in with `-` and --uri"),
    ]


def test_two_files_of_one_name_do_not_overwrite_each_other(tree: Path) -> None:
    (tree / "sub" / "a.md").write_text("another")
    uris, troubles = _find(tree / "a.md", tree / "sub" / "a.md", tree / "a.md")
    assert uris == ["a.md"]
    assert "would be the same document" in troubles[0].reason


def test_a_name_that_is_no_utf8_gets_a_uri_that_is(tree: Path) -> None:
    Path(os.fsdecode(os.fsencode(tree) + b"/caf\xe9.md")).write_text("x")
    assert "caf\ufffd.md" in _find(tree)[0]


@pytest.mark.parametrize("place", ["nowhere", "no*where", "a.md/b"])
def test_a_place_that_is_not_there_stops_before_anything_is_read(tree: Path, place: str) -> None:
    with pytest.raises(WrongUsage, match=r"does not exist|No file matches"):
        _find(tree, tree / place)


# ── records ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _read(text: str | bytes, **metadata: object) -> tuple[list[Item], list[Trouble]]:
    troubles: list[Trouble] = []
    lines = io.BytesIO(text if isinstance(text, bytes) else text.encode())
    return list(read_records(lines, "r.jsonl", metadata, taken=set(), troubled=troubles.append)), troubles


def test_a_line_is_a_document_and_its_other_keys_are_metadata() -> None:
    line = {
        "_id": "7",
        "title": "T",
        "text": "Body",
        "year": 2020,
        "tags": ["a"],
        "gone": None,
        "metadata": {"lang": "en"},
    }
    (item,), troubles = _read(json.dumps(line), source="mine")
    assert not troubles
    assert (item.uri, item.title) == ("7", "T")
    assert item.data == b'{"_id": "7", "title": "T", "text": "Body"}'
    assert item.metadata == {"year": 2020, "tags": ["a"], "lang": "en", "source": "mine"}


def test_bad_lines_are_told_by_number_and_the_others_taken() -> None:
    good = '{"_id": "%d", "text": "x"}'
    lines = [good % 1, "nonsense", '["no object"]', '{"text": "no id"}', '{"_id": "2", "text": 5}', "", good % 1,
             '{"_id": "3", "text": "x", "nested": {"a": {"b": 1}}}', good % 4]  # fmt: skip
    items, troubles = _read("\n".join(lines))
    assert [item.uri for item in items] == ["1", "4"]
    assert [trouble.uri for trouble in troubles] == [f"r.jsonl:{n}" for n in (2, 3, 4, 5, 7, 8)]
    assert all(trouble.reason.startswith("bad line: ") for trouble in troubles)


def test_lines_that_are_no_text_and_ids_that_are_numbers() -> None:
    items, troubles = _read(b'\xef\xbb\xbf{"_id": 1, "text": "\\ud800 x"}\n\xff\xfe\n' + b"[" * 5000 + b"\n")
    assert [item.uri for item in items] == ["1"]
    assert [trouble.uri for trouble in troubles] == ["r.jsonl:2", "r.jsonl:3"]
