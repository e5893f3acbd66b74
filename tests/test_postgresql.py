"""The whole of Ragline on PostgreSQL: registry and vectors in one database, several processes at work on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ragline.build import build
from ragline.settings import IngestSettings, Settings
from ragline.system import System
from ragline.types import SearchRequest, State, Upload
from tests.engines.postgres import Postgres
from tests.house import House


@pytest.fixture
async def url(postgres: Postgres) -> str:
    return await postgres.database()


def settings(url: str, folder: Path, **ingest: object) -> Settings:
    given = IngestSettings(**ingest)
    return Settings(data_dir=folder, registry=url, vectors=url, blobs=str(folder.parent / "blobs"), ingest=given)


@pytest.fixture
async def system(url: str, tmp_path: Path) -> AsyncIterator[System]:
    system = await build(settings(url, tmp_path / "data"))
    yield system
    await system.aclose()


async def test_documents_come_change_and_go(system: System) -> None:
    house = House(system)
    await house.accept("otter.txt", "Otters swim in cold rivers.")
    secret = await house.accept("badger.txt", "Badgers dig deep setts.", groups=frozenset({"staff"}))
    await house.work()
    assert await house.found("who swims") == ["Otters swim in cold rivers."]
    assert "Badgers dig deep setts." in await house.found("who digs", groups=frozenset({"staff"}))
    await house.accept("otter.txt", "Otters sleep on their backs.")
    await house.work()
    found = await system.search.search(SearchRequest("who sleeps", "default", frozenset()))
    assert [passage.hit.chunk.text for passage in found.passages] == ["Otters sleep on their backs."]
    assert found.degraded == ()
    await system.documents.delete("default", secret.id)
    await house.work()
    assert await house.found("who digs", groups=frozenset({"staff"})) == ["Otters sleep on their backs."]


async def test_a_reindex_builds_beside_and_cuts_over(system: System) -> None:
    house = House(system)
    for n in range(5):
        await house.accept(f"{n}.txt", f"Herons stand still, part {n}.")
    await house.work()
    before = (await system.namespaces.get("default")).epoch
    await system.epochs.begin("default")
    await system.epochs.fill("default")
    after = (await system.namespaces.get("default")).epoch
    assert after.label != before.label
    assert len(await house.found("herons")) == 5


WORKER = """
import asyncio, sys
from pathlib import Path
from ragline.build import build
from ragline.settings import IngestSettings, Settings

async def main(url, folder):
    ingest = IngestSettings(lease_s=2.0, tombstone_retention_s=60.0, concurrency=4)
    data = Path(folder)
    system = await build(Settings(data_dir=data, registry=url, vectors=url, blobs=str(data.parent / "blobs"), ingest=ingest))
    for namespace in await system.namespaces.all():
        await system.keywords.create(namespace.epoch.keywords, fields={})
    print("ready", flush=True)
    try:
        await system.work()
    finally:
        await system.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


@contextlib.contextmanager
def _worker(url: str, folder: Path, log: Path):  # type: ignore[no-untyped-def]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, url, str(folder)], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        assert process.stdout
        if process.stdout.readline().strip() != "ready":
            pytest.fail(f"the worker did not start: {log.read_text()[-2000:]}", pytrace=False)
        yield process
    finally:
        process.kill()
        process.communicate()


async def test_two_processes_share_the_work_and_one_that_is_killed_leaves_nothing_behind(
    system: System, url: str, tmp_path: Path
) -> None:
    """Each worker has a folder of its own for its keyword index, which is embedded: what is looked at here is what they
    share, the registry and the vectors."""
    namespace = await system.namespaces.get("default")
    with (
        _worker(url, tmp_path / "one", tmp_path / "one.log") as one,
        _worker(url, tmp_path / "two", tmp_path / "two.log"),
    ):
        for n in range(120):
            text = f"Record {n} tells of herons in part {n}. " * 8
            await system.ingest.accept(namespace, Upload(f"{n}.txt", text.encode()))
            if n == 60:
                os.kill(one.pid, signal.SIGKILL)
        async with asyncio.timeout(240):
            while await system.documents.waiting():
                await asyncio.sleep(0.05)
    rows = await system.documents.page("default", after="", most=500, state=None)
    assert Counter(row.state for row in rows) == {State.INDEXED: 120}
    assert all(row.live == row.content for row in rows)
    held = await system.vectors.contents(namespace.epoch.vectors)
    assert held == {(row.id, row.content): row.chunks for row in rows}
