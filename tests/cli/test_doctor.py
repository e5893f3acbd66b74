"""`ragline doctor --deep`: the audit, through a server and without one, and what it exits with."""

from __future__ import annotations

import json
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.engines.elasticsearch import Elasticsearch
from tests.engines.played import nowhere
from tests.engines.s3 import S3

from .conftest import Shell, ragline


def _damage(data_dir: Path) -> None:
    next((data_dir / "blobs").rglob("chunks-*")).unlink()


def test_the_audit_goes_through_the_server_that_has_the_folder(shell: Shell) -> None:
    (shell.folder / "a.txt").write_text("Shipping to Berlin takes three days.")
    shell("ingest", str(shell.folder / "a.txt"))
    assert "Registry, stores and blobs agree." in shell("doctor", "--deep").out
    _damage(shell.data_dir)
    found = json.loads(shell("doctor", "--deep", "--json", code=1).out)
    assert [one["kind"] for one in found["audit"]["left"]] == ["missing blob"]
    assert [one["state"] for one in found["findings"] if one["part"] == "audit"] == ["broken"]
    mended = shell("doctor", "--deep", "--mend").out
    assert "made due again: to be parsed" in mended
    assert "Everything found is mended." in mended
    assert "Registry, stores and blobs agree." in shell("doctor", "--deep").out


def test_without_a_server_the_command_mends_by_itself(tmp_path: Path) -> None:
    assert "audit" not in ragline("doctor", "--deep", cwd=tmp_path).out, "there is no folder to audit"
    (tmp_path / "a.txt").write_text("Shipping to Berlin takes three days.")
    assert ragline("ingest", "a.txt", cwd=tmp_path).code == 0
    _damage(tmp_path / ".ragline")
    assert ragline("doctor", "--deep", "--mend", "--json", cwd=tmp_path).json["audit"]["left"] == []
    (original,) = (tmp_path / ".ragline" / "blobs").rglob("original")
    original.unlink()
    lost = ragline("doctor", "--deep", "--mend", cwd=tmp_path)
    assert lost.code == 1
    assert "missing bytes" in lost.out
    assert "next: Upload the document again" in lost.out


def test_a_file_whose_archive_is_gone_is_told_and_deleted(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("b.txt", "Shipping to Berlin takes three days.")
    assert ragline("ingest", "a.zip", cwd=tmp_path).code == 0
    with closing(sqlite3.connect(tmp_path / ".ragline" / "registry.sqlite")) as sql, sql:
        assert sql.execute("DELETE FROM documents WHERE parent IS NULL").rowcount == 1
    told = ragline("doctor", "--deep", cwd=tmp_path)
    assert told.code == 1
    (line,) = (line for line in told.out.splitlines() if line.startswith("orphan member"))
    assert "a.zip!/b.txt" in line
    assert "delete the document" in line
    assert "next: `ragline doctor --deep --mend` does it. To keep it, upload what it lies in again first." in told.out
    mended = ragline("doctor", "--deep", "--mend", cwd=tmp_path)
    assert (mended.code, "Everything found is mended." in mended.out) == (0, True)
    assert ragline("documents", "list", "--json", cwd=tmp_path).json["documents"] == []


def test_mending_needs_the_audit(tmp_path: Path) -> None:
    refused = ragline("doctor", "--mend", cwd=tmp_path)
    assert refused.code == 2
    assert "--deep --mend" in refused.err


def test_a_reranker_and_a_generator_that_are_away_are_named(tmp_path: Path) -> None:
    generators = json.dumps([{"url": f"anthropic+{nowhere()}/v1", "model": "claude"}])
    done = ragline(
        "doctor", "--json", cwd=tmp_path, RAGLINE_RERANKER__URL=f"tei+{nowhere()}", RAGLINE_GENERATORS=generators
    )
    found = {one["part"]: one for one in done.json["findings"]}
    for part in ("reranker", "generator"):
        assert found[part]["state"] == "broken"
        assert found[part]["next_step"]


def test_two_legs_on_one_cluster_are_one_failure_domain_and_no_password_is_shown(
    tmp_path: Path, elasticsearch: Elasticsearch
) -> None:
    (tmp_path / ".ragline").mkdir()
    url = elasticsearch.url(host=f"ragline:s3cret%40@{elasticsearch.host}")
    done = ragline("doctor", "--json", cwd=tmp_path, RAGLINE_VECTORS=url, RAGLINE_KEYWORDS=url)
    assert "s3cret" not in done.out + done.err
    found = {one["part"]: one for one in done.json["findings"]}
    assert (found["vectors"]["state"], found["keywords"]["state"]) == ("ok", "ok")
    assert found["failure domains"]["state"] == "warning"
    assert "one failure domain" in found["failure domains"]["detail"]
    assert done.json["settings"]["vectors"].startswith("elasticsearch://ragline:***@127.0.0.1")
    apart = ragline("doctor", "--json", cwd=tmp_path, RAGLINE_KEYWORDS=url)
    assert "failure domains" not in {one["part"] for one in apart.json["findings"]}


def test_the_blob_store_is_tried_with_every_right_it_needs(tmp_path: Path, s3: S3) -> None:
    (tmp_path / ".ragline").mkdir()
    bucket = s3.bucket()

    def blobs(url: str) -> Any:
        done = ragline("doctor", "--json", cwd=tmp_path, RAGLINE_BLOBS=url)
        return {one["part"]: one for one in done.json["findings"]}["blobs"]

    assert blobs(f"s3://{bucket}/house")["state"] == "ok"
    assert s3.keys(bucket) == [], "the probe is gone"
    mistyped = blobs("s3://mistyped/house")
    assert mistyped["state"] == "broken"
    assert "no such bucket" in mistyped["detail"]


def test_the_jobs_and_the_cache_are_tried(tmp_path: Path) -> None:
    def found(jobs: str = "", cache: str = "") -> Any:
        done = ragline("doctor", "--json", cwd=tmp_path, RAGLINE_JOBS__URL=jobs, RAGLINE_CACHE__URL=cache)
        return {one["part"]: one for one in done.json["findings"]}

    (tmp_path / "a.txt").write_text("Shipping to Berlin takes three days.")
    assert ragline("ingest", "a.txt", cwd=tmp_path).code == 0
    assert found()["jobs"]["detail"] == "0 in retrieval, 0 in generation"
    away = nowhere().replace("http://", "redis://")
    told = found(jobs=away, cache=away)
    assert [(told[part]["state"], bool(told[part]["next_step"])) for part in ("jobs", "cache")] == [
        ("broken", True)
    ] * 2
    (tmp_path / ".ragline" / "jobs.sqlite").write_bytes(b"this is no database, whatever its name says" * 100)
    assert found()["jobs"]["state"] == "broken"
