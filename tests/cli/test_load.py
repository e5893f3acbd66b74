"""`ragline load` as a user runs it: figures, exit codes, the page, and Ctrl-C."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from .conftest import Shell, ragline, start

QUICK = ("--rate", "40", "--for", "1")


@pytest.fixture(scope="module", autouse=True)
def filled(shell: Shell) -> None:
    for n, text in enumerate(["Shipping to Berlin takes three days.", "Returns are free within thirty days."]):
        shell("ingest", "-", "--uri", f"rule-{n}.txt", stdin=text.encode())


def test_figures_for_people_and_for_scripts(shell: Shell, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    out = shell(
        "load", *QUICK, "--write-share", "0.2", "--answers", "0.2", "--slo-p95-ms", "60000", "--html", str(page)
    ).out
    header, *rows = (line.split("\t") for line in out.splitlines())
    assert header[:4] == ["ms", "due", "failed", "p50"]
    assert [row[0] for row in rows[:3]] == ["search", "answer", "write"]
    assert "Kept what was promised." in out
    assert page.read_text().count("<svg") == 2
    said = shell("load", *QUICK, "--json").json
    assert said["all"]["due"] == said["all"]["answered"] == said["kinds"]["search"]["due"] > 10
    assert said["missed"] == []
    assert [one["name"] for one in shell("namespaces", "list", "--json").json["namespaces"]] == ["default"]


def test_a_missed_promise_is_code_1(shell: Shell) -> None:
    assert "Missed p95: 95 % of the searches in 0.1 ms" in shell("load", *QUICK, "--slo-p95-ms", "0.1", code=1).out
    said = shell("load", *QUICK, "--slo-p95-ms", "0.1", "--json", code=1).json
    assert said["missed"][0].startswith("p95: ")


def test_what_could_not_run_is_code_2(shell: Shell, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    assert "answered 404" in shell("load", "-n", "nowhere", code=2).err
    assert "holds no query" in shell("load", "--queries", str(empty), code=2).err
    assert "no folder" in shell("load", "--html", str(tmp_path / "no" / "r.html"), code=2).err
    shell("load", "--write-share", "0.6", "--answers", "0.6", code=2)
    away = ragline("load", "--url", "http://127.0.0.1:9", "--json", cwd=tmp_path)
    assert (away.code, away.out) == (2, "")
    assert "does not answer" in json.loads(away.err)["detail"]
    nobody = ragline("load", "--data-dir", "nothing", cwd=tmp_path)
    assert nobody.code == 2
    assert "ragline up" in nobody.err


def test_queries_of_a_file(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_text('{"_id": "1", "text": "Berlin"}\n{"question": "returns?"}\nplain words\n')
    assert shell("load", *QUICK, "--queries", str(file), "--zipf", "0", "--json").json["facts"]["queries"] == 3


def test_ctrl_c_shows_what_was_seen_and_cleans_up(shell: Shell) -> None:
    where = ("--url", shell.url, "--data-dir", str(shell.data_dir))
    process = start("load", "--for", "3600", "--rate", "40", "--write-share", "0.3", "--json", *where, cwd=shell.folder)
    try:
        while len(shell("namespaces", "list", "--json").json["namespaces"]) < 2:
            assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, err
    said = json.loads(out)
    assert said["ran_s"] < 3600
    assert said["left_behind"] is None
    assert [one["name"] for one in shell("namespaces", "list", "--json").json["namespaces"]] == ["default"]
