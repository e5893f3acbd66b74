"""The ingest worker: stopped, it gives back what it holds, whatever it was doing at that moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ragline.build import build
from ragline.settings import IngestSettings, Settings
from ragline.system import System
from ragline.types import NamespaceSettings, Upload


@pytest.fixture
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    system = await build(Settings(data_dir=tmp_path_factory.mktemp("data")))
    namespace = await system.namespaces.get("default")
    for n in range(3):
        await system.ingest.accept(namespace, Upload(f"{n}.txt", f"Text number {n}.".encode()))
    yield system
    await system.aclose()


async def _stopped(system: System, reached: asyncio.Event, go_on: asyncio.Event) -> int:
    """Cancel the worker once `reached`; returns how many documents another worker can have at once."""
    working = asyncio.create_task(system.ingest_worker.run())
    await reached.wait()
    working.cancel()
    go_on.set()
    with contextlib.suppress(asyncio.CancelledError):
        await working
    return len(await system.claims.claim(most=10, lease_s=60.0))


async def test_a_worker_stopped_at_work_gives_its_documents_back(system: System, monkeypatch: Any) -> None:
    reached, never = asyncio.Event(), asyncio.Event()

    async def stuck(*_: Any, **__: Any) -> Any:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(system.ingest, "parse", stuck)
    assert await _stopped(system, reached, never) == 3


async def test_a_worker_stopped_while_it_claims_gives_back_what_the_claim_brings(
    system: System, monkeypatch: Any
) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()
    claim = system.claims.claim

    async def slow(**words: Any) -> Any:
        reached.set()
        await go_on.wait()
        monkeypatch.undo()
        return await claim(**words)

    monkeypatch.setattr(system.claims, "claim", slow)
    assert await _stopped(system, reached, go_on) == 3


async def test_a_namespace_that_cannot_be_filled_holds_up_no_other(system: System, monkeypatch: Any) -> None:
    for name in ("a-broken", "whole"):
        await system.epochs.create_namespace(name, NamespaceSettings())
        await system.epochs.begin(name)
    real, filled = system.epochs.fill, []

    async def fill(name: str) -> None:
        if name == "a-broken":
            raise ZeroDivisionError
        await real(name)
        filled.append(name)

    monkeypatch.setattr(system.epochs, "fill", fill)
    await system.housekeeper._fill_all()
    assert filled == ["whole"]


async def test_the_housekeeper_collects_orphans_and_purges_tombstones_by_itself(tmp_path: Path) -> None:
    often = IngestSettings(upkeep_s=0.05, orphan_grace_s=0.001, tombstone_retention_s=0.001, lease_s=0.001)
    system = await build(Settings(data_dir=tmp_path, ingest=often))
    try:
        namespace = await system.namespaces.get("default")
        gone = (await system.ingest.accept(namespace, Upload("a.txt", b"Herons wade."))).document
        await system.documents.delete("default", gone.id)
        (sweeping,) = await system.claims.claim(most=1, lease_s=3600.0)
        await system.ingest.process(sweeping)
        await system.contents.put_original(namespace, "0" * 24, "feedfeed", b"an upload that was killed")
        keeping = asyncio.create_task(system.housekeeper.run())
        async with asyncio.timeout(60.0):
            while await system.contents.kept(namespace) or await system.documents.look(gone.id):
                await asyncio.sleep(0.01)
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping
    finally:
        await system.aclose()
