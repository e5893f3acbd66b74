"""A full disk: what cannot be kept is refused with the next step, what was accepted is indexed once there is room again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ragline.build import build
from ragline.errors import EngineError
from ragline.settings import Settings
from ragline.system import System
from ragline.types import SearchRequest, State, Upload

SIZE_MB = 48


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of SIZE_MB; skipped where this user may not mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(folder)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this user may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
async def system(small: Path) -> AsyncIterator[System]:
    (small / "data").mkdir()
    system = await build(Settings(data_dir=small / "data"))
    yield system
    await system.aclose()


class Ballast:
    """Takes all the room that there is, again and again: what is freed meanwhile is taken too."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fill(self) -> None:
        with self._path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def drop(self) -> None:
        self._path.unlink()


async def _accept(system: System, uri: str, text: str) -> str:
    namespace = await system.namespaces.get("default")
    return (await system.ingest.accept(namespace, Upload(uri, text.encode()))).document.id


async def _until_settled(system: System) -> None:
    async with asyncio.timeout(120.0):
        while await system.documents.waiting():
            await asyncio.sleep(0.02)


async def test_nothing_that_was_accepted_is_lost_on_a_full_disk(small: Path, system: System) -> None:
    ballast, accepted, refusals = Ballast(small / "ballast"), [], []
    working = asyncio.create_task(system.ingest_worker.run())
    try:
        accepted.append(await _accept(system, "before.txt", "Herons wade before the flood."))
        await _until_settled(system)
        accepted += [await _accept(system, f"{n}.txt", f"Heron number {n} wades.") for n in range(20)]
        ballast.fill()
        for n in range(40):
            try:
                accepted.append(await _accept(system, f"late-{n}.txt", f"Heron {n} comes late. " * 2_000))
            except EngineError as error:
                refusals.append(error)
            ballast.fill()
        assert refusals
        assert all("space" in error.next_step for error in refusals), {error.next_step for error in refusals}
        request = SearchRequest("herons wade before the flood", "default", frozenset())
        found = (await system.search.search(request)).passages
        assert found[0].hit.uri == "before.txt", "a full disk stops no reader"
        ballast.drop()
        accepted.append(await _accept(system, "after.txt", "Herons wade after the flood."))
        await _until_settled(system)
    finally:
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working
    for id in accepted:
        document = await system.documents.look(id)
        assert document is not None
        assert document.state is State.INDEXED, document.reason
    assert (await system.audit.look()).findings == []
