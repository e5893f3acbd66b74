"""`ragline work` as processes: killed at every step between the log and the stores, and stopped in order."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ragline.build import build
from ragline.settings import Settings
from ragline.types import Document, State
from tests.cli.conftest import ragline, start
from tests.engines.kafka import Kafka
from tests.house import House

POINTS = (
    "claims.mark_chunked.after", "log.append.before", "log.append.after", "log.append.before:2", "log.append.after:2",
    "contents.put_vectors.after", "vectors.upsert.after", "claims.mark_live.before", "claims.mark_live.after",
    "claims.mark_swept.before",
)  # fmt: skip
"""The last step of `parse`, both sides of each append, both sides of what `index` writes before it commits."""

ENDS = 3
"""Kills before one process comes to its end: a document that was there at five is blamed for them."""

WITHIN_S = 120.0

TEXT = " ".join(f"Heron number {n} wades through the shallow water and waits for a fish." for n in range(30))


def _configured(folder: Path, log: str, failpoint: str = "") -> None:
    values = {"log": log, "failpoint": failpoint}
    (folder / "ragline.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))


@contextmanager
def _working(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """All roles in one process, on the embedded engines in `folder`; its URL."""
    process = start("work", "parse", "embed", "index", "--port", "0", "--json", cwd=folder)
    assert process.stdout
    try:
        line = process.stdout.readline()
        if not line:
            raise AssertionError(process.communicate(timeout=60)[1])
        yield json.loads(line)["url"], process
    finally:
        process.terminate()
        process.communicate(timeout=120)


def _idle(url: str) -> bool:
    """Nothing is due, and nothing of the log is left undone."""
    told: dict[str, Any] = {}
    for line in httpx.get(f"{url}/metrics", timeout=60.0).text.splitlines():
        name, _, value = line.rpartition(" ")
        told[name] = value
    lags = [value for name, value in told.items() if name.startswith("consumer_lag{")]
    return len(lags) == 4 and {*lags, told["documents_waiting"]} == {"0.0"}


def _until_idle(url: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not _idle(url):
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def _change(folder: Path, log: str, turn: int) -> list[Document]:
    """Two documents come, one of the last turn changes; returns what is there now."""
    system = await build(Settings(data_dir=folder / ".ragline", log=log))
    try:
        house = House(system)
        for n in range(2):
            await house.accept(f"{turn}-{n}.txt", f"Turn {turn}, document {n}. {TEXT}")
        if turn:
            await house.accept(f"{turn - 1}-0.txt", f"Turn {turn - 1}, document 0, changed. {TEXT}")
        return await system.documents.page("default", after="", most=500, state=None)
    finally:
        await system.aclose()


@pytest.mark.timeout(900)
async def test_killed_at_any_step_nothing_is_lost_or_doubled(kafka: Kafka, tmp_path: Path) -> None:
    log = kafka.url(session_s=2)
    _configured(tmp_path, log)
    assert ragline("namespaces", "list", "--json", cwd=tmp_path).code != 0, "nobody has made the folder"
    (tmp_path / ".ragline").mkdir()
    documents: list[Document] = []
    for turn, point in enumerate(POINTS):
        documents = await _change(tmp_path, log, turn)
        _configured(tmp_path, log, point)
        with _working(tmp_path) as (_, process):
            assert process.wait(timeout=WITHIN_S) == -signal.SIGKILL, point
        if turn % ENDS == ENDS - 1 or point is POINTS[-1]:
            _configured(tmp_path, log)
            with _working(tmp_path) as (url, process):
                _until_idle(url)
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=120) == 0
    system = await build(Settings(data_dir=tmp_path / ".ragline"))
    try:
        rows = await system.documents.page("default", after="", most=500, state=None)
        assert {one.id for one in rows} == {one.id for one in documents}
        assert len(rows) == 2 * len(POINTS)
        assert {(one.state, one.live == one.content) for one in rows} == {(State.INDEXED, True)}
        assert await House(system).held() == {(one.id, one.content): one.chunks for one in rows}
        findings = (await system.audit.look()).findings
        assert [one for one in findings if one.kind != "orphan blob"] == []
    finally:
        await system.aclose()


def test_work_needs_a_log_and_shared_engines(tmp_path: Path) -> None:
    without = ragline("work", "embed", cwd=tmp_path)
    assert without.code == 2
    assert "log: it is not set" in without.err
    _configured(tmp_path, "kafka://127.0.0.1:9")
    alone = ragline("work", "embed", cwd=tmp_path)
    assert alone.code == 2
    assert "shares registry, vectors, keywords, blobs, jobs with processes of other roles" in alone.err
    assert "run all roles in one process: `ragline work`" in alone.err
