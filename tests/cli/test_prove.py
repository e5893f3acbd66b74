"""`ragline prove`: what it refuses to begin, and how it ends. Its experiments: tests/chaos."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.chaos.processes import alive, proof

from .conftest import environment, ragline


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
    unwatched = ragline("prove", "--local", "--alerts", "nowhere", cwd=tmp_path)
    assert unwatched.code == 2
    assert "there are no rule files" in unwatched.err
    assert "Starting" not in unwatched.err
    assert not (tmp_path / ".ragline").exists()


def test_the_list_names_what_protects_each_rung(tmp_path: Path) -> None:
    listed = ragline("prove", "--list", "--all", cwd=tmp_path).out
    assert "vector_store_black_hole" in listed
    assert "what hangs is left out" in listed


def test_experiments_are_written_for_a_cluster_and_nothing_is_run(tmp_path: Path) -> None:
    folder = tmp_path / "chaos"
    written = ragline("prove", "--render", "chaos-mesh", str(folder), "--select", "vectors=app=milvus", cwd=tmp_path)
    assert written.code == 0
    assert "left out: overload" in written.err
    assert 'app: "milvus"' in (folder / "vector_store_black_hole.yaml").read_text()
    shown = ragline("prove", "--render", "gremlin", "--only", "clock_skew", cwd=tmp_path)
    assert json.loads(shown.out)["command"]["type"] == "time_travel"
    for words in (["--select", "nosuch=a=b", "--render", "gremlin"], ["--render", "nosuch"], [str(folder)]):
        assert ragline("prove", *words, cwd=tmp_path).code == 2
    assert not (tmp_path / ".ragline").exists()


@pytest.mark.timeout(600)
def test_killed_it_takes_its_process_along_and_the_next_removes_its_folder(tmp_path: Path) -> None:
    where = environment(TMPDIR=str(tmp_path))
    words = ("--local", "--only", "vector_store_black_hole", "--rate", "5")
    with proof(*words, folder=tmp_path, environment=where) as killed:
        killed.until("vectors fails inside the process")
        children = killed.children()
        assert children
        killed.process.kill()
        while any(map(alive, children)):
            time.sleep(0.05)
    (left,) = tmp_path.glob("ragline-prove-*")
    with proof(*words, folder=tmp_path, environment=where) as stopped:
        stopped.until("vectors fails inside the process")
        children = stopped.children()
        assert not left.exists()
        os.killpg(stopped.process.pid, signal.SIGINT)
        assert stopped.ended() == 130, stopped.said
    assert children
    assert not any(map(alive, children))
    assert list(tmp_path.glob("ragline-prove-*")) == []
