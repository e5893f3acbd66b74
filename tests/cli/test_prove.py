"""`ragline prove`: what it refuses to begin. Its experiments: tests/chaos."""

from __future__ import annotations

from pathlib import Path

from .conftest import ragline


def test_what_cannot_be_meant_is_told_before_anything_starts(tmp_path: Path) -> None:
    unknown = ragline("prove", "--local", "--only", "nosuch", cwd=tmp_path)
    assert (unknown.code, unknown.out) == (2, "")
    assert "--list" in unknown.err
    file = tmp_path / "mine.toml"
    file.write_text("title = 1")
    mine = ragline("prove", "--local", "--file", str(file), cwd=tmp_path)
    assert mine.code == 2
    assert "mine.toml" in mine.err
    embedded = ragline("prove", cwd=tmp_path)
    assert embedded.code == 2
    assert "--local" in embedded.err
    assert not (tmp_path / ".ragline").exists()


def test_the_list_names_what_protects_each_rung(tmp_path: Path) -> None:
    listed = ragline("prove", "--list", "--all", cwd=tmp_path).out
    assert "vector_store_black_hole" in listed
    assert "what hangs is left out" in listed
