"""Commands that wait for an archive wait for what lies inside it, and say what failed of that."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from .conftest import Result, Shell, ragline
from .test_sync import rest


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """In a folder of its own; some files are good, one is broken."""
    file = tmp_path / "library" / "a.zip"
    file.parent.mkdir()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("broken.pdf", b"%PDF-1.4 broken")
        for n in range(20):
            out.writestr(f"{n:02}.txt", f"Otter {n} swims. " * 400)
    return file


@pytest.fixture(params=["folder", "server"])
def run(request: pytest.FixtureRequest, shell: Shell, tmp_path: Path) -> Callable[..., Result]:
    """A command that ends with 1, on a folder that it takes for itself, or against a server."""
    if request.param == "server":
        return partial(shell, code=1)

    def alone(*arguments: str) -> Result:
        done = ragline(*arguments, "--data-dir", str(tmp_path / "data"), cwd=tmp_path)
        assert done.code == 1, (done.out, done.err)
        return done

    return alone


def uris(failed: list[dict[str, Any]]) -> list[str]:
    return [one["uri"].rpartition("/")[2] for one in failed]


@pytest.mark.parametrize("how", ["once", "sync"])
def test_ingest_and_reindex_end_with_the_last_file_inside(run: Callable[..., Result], archive: Path, how: str) -> None:
    name = f"archived-{how}"
    place = [str(archive)] if how == "once" else ["--sync", str(archive.parent)]
    done = run("ingest", *place, "-n", name, "--json").json
    assert done["documents"] == {"indexed": 21, "failed": 1}
    assert (done["indexed"], done["inside"], uris(done["failed"])) == (1, 20, ["broken.pdf"])
    assert done["failed"][0]["reason"].startswith("damaged")
    if how == "sync":
        rest(archive.parent)
        run("ingest", *place, "-n", name)
        again = run("ingest", *place, "-n", name, "--json").json  # not even read, but what fails inside is named
        assert (again["indexed"], again["unchanged"], uris(again["failed"])) == (0, 1, ["broken.pdf"])
    done = run("reindex", "--reparse", "-n", name, "--json").json
    assert uris(done["failed"]) == ["broken.pdf"]


def test_retry_of_an_archive_waits_for_what_is_inside(shell: Shell, archive: Path) -> None:
    said = shell("ingest", str(archive), "-n", "again", code=1)
    assert said.out.startswith("Indexed 1 of 1 document, and 20 of 21 inside, in ")
    assert "a.zip!/broken.pdf\tdamaged: " in said.out
    assert "Their whole story" in said.err
    retried = shell("documents", "retry", "a.zip", "-n", "again", code=1).out
    assert retried.startswith("1 of 1 indexed.\n")
    assert "a.zip!/broken.pdf" in retried
    assert shell("namespaces", "show", "again", "--json").json["documents"] == {"indexed": 21, "failed": 1}


def test_a_deletion_says_how_much_lay_inside(shell: Shell, archive: Path) -> None:
    shell("namespaces", "create", "going", "--field", "year=integer")
    shell("ingest", str(archive), "-n", "going", "--metadata", '{"year": 2}', code=1)
    delete = partial(shell, "documents", "delete", "-n", "going")
    assert delete("--filter", '{"year": 2}', "--dry-run").out == (
        "22 documents (21 of them inside others) would be deleted.\n"
    )
    assert delete("a.zip!/00.txt").out == "1 deleted.\n"
    assert delete("--filter", '{"year": 2}', "--yes").out == "21 documents (20 of them inside others) deleted.\n"
    shell("ingest", str(archive), "-n", "going", code=1)
    assert delete("a.zip").out == "1 deleted, and 21 inside.\n"
