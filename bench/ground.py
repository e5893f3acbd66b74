"""A running system over a data folder that is kept between benchmarks, and its collections."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from ragline.build import build
from ragline.cli.records import read_records
from ragline.datafolder import DataFolder
from ragline.errors import NotFound
from ragline.settings import CacheSettings, Settings
from ragline.system import System
from ragline.types import Namespace, NamespaceSettings, Upload

ACCEPTED_AT_ONCE = 200
"""Uploads in flight: enough for one commit to serve many."""

LOOK_S = 0.2


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[System]:
    """A whole system in this process, its workers at work, on the embedded engines in `folder`."""
    held = DataFolder(folder)
    held.take(token="")
    try:
        system = await build(Settings(data_dir=folder, log_level="warning", cache=CacheSettings(url="off")))
        working = asyncio.create_task(system.work())
        try:
            yield system
        finally:
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working
            await system.aclose()
    finally:
        held.release()


def records(corpus: Path) -> list[Upload]:
    """The lines of a BEIR `corpus.jsonl`, each a document of its own, byte for byte as `ragline evaluate` sends them."""
    with corpus.open("rb") as lines:
        items = list(read_records(lines, corpus.name, {}, taken=set(), troubled=lambda trouble: None))
    return [Upload(item.uri, item.data or b"", title=item.title or None, media_type=item.media_type,
                   metadata=item.metadata) for item in items]  # fmt: skip


def plain_texts(corpus: Path, *, most: int | None = None) -> list[Upload]:
    """The same as plain text files, for what parsing and chunking cost."""
    found = []
    for line in corpus.read_text("utf-8").splitlines()[:most]:
        record = json.loads(line)
        found.append(Upload(f"{record['_id']}.txt", record["text"].encode(), title=record.get("title") or None))
    return [upload for upload in found if upload.data.strip()]


async def ingest(system: System, namespace: str, uploads: Sequence[Upload]) -> Namespace:
    """Make the namespace if need be, and return once nothing is in work any more; unchanged uploads cost a look."""
    try:
        found = await system.namespaces.get(namespace)
    except NotFound:
        found = await system.epochs.create_namespace(namespace, NamespaceSettings())
    for start in range(0, len(uploads), ACCEPTED_AT_ONCE):
        part = uploads[start : start + ACCEPTED_AT_ONCE]
        await asyncio.gather(*(system.ingest.accept(found, upload) for upload in part))
    while await system.documents.waiting():
        await asyncio.sleep(LOOK_S)
    return await system.namespaces.get(namespace)
