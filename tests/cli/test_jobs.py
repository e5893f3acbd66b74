"""`ragline jobs` and `ragline ask --async`, as a user types them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import ragline, up

QUESTION = ("How", "many", "days", "to", "return", "an", "unopened", "item?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With a document, and a server that works on jobs."""
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "returns.md").write_text("# Returns\n\nCustomers may return an unopened item within 30 days.")
    with up(folder):
        assert ragline("ingest", "returns.md", cwd=folder).code == 0
        yield folder


def test_asked_now_read_later(folder: Path) -> None:
    asked = ragline("ask", "--async", "--deadline", "300", *QUESTION, cwd=folder)
    assert asked.code == 0, asked.err
    id = asked.out.strip()
    watched = ragline("jobs", "watch", id, cwd=folder)
    assert watched.code == 0, watched.err
    assert "30 days" in watched.out
    assert "returns.md" in watched.out
    for word in ("queued", "retrieving", "passages: 1", "generating"):
        assert word in watched.err
    shown = ragline("jobs", "show", id, cwd=folder)
    assert "state" in shown.out
    assert "done" in shown.out
    assert "30 days" in shown.out
    listed = ragline("jobs", "list", "--state", "done", cwd=folder)
    assert id in listed.out
    again = ragline("jobs", "retry", id, cwd=folder)
    assert (again.code, "only a failed one" in again.err) == (1, True)


def test_for_scripts(folder: Path) -> None:
    key = ("--idempotency-key", "mine")
    first = ragline("ask", "--async", *key, *QUESTION, "--json", cwd=folder).json
    again = ragline("ask", "--async", *key, *QUESTION, "--json", cwd=folder).json
    assert first["job_id"] == again["job_id"]
    watched = ragline("jobs", "watch", first["job_id"], "--json", cwd=folder)
    names = [line for line in watched.out.splitlines() if '"event": "done"' in line]
    assert len(names) == 1
    cancelled = ragline("jobs", "cancel", first["job_id"], "--json", cwd=folder).json
    assert cancelled["state"] == "done"  # it had ended: it stays as it is
    assert ragline("jobs", "list", "--json", "--limit", "1", cwd=folder).json["next"]


def test_what_cannot_be(folder: Path) -> None:
    unknown = ragline("jobs", "watch", "0" * 32, cwd=folder)
    assert unknown.code == 1
    assert "does not exist" in unknown.err
    only_later = ragline("ask", "--webhook", "https://example.org", "x", cwd=folder)
    assert only_later.code == 2
    assert "--async" in only_later.err


def test_a_job_of_a_command_that_ended_is_done_by_the_next(tmp_path: Path) -> None:
    """Without a server each command has the workers of its own life."""
    (tmp_path / "returns.md").write_text("# Returns\n\nCustomers may return an unopened item within 30 days.")
    assert ragline("ingest", "returns.md", cwd=tmp_path).code == 0
    asked = ragline("ask", "--async", *QUESTION, cwd=tmp_path)
    assert "ragline up" in asked.err
    watched = ragline("jobs", "watch", asked.out.strip(), cwd=tmp_path)
    assert watched.code == 0, watched.err
    assert "30 days" in watched.out
