"""The registry as of one moment, in a file of its own, and the blobs that it names."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ragline.connections.database import Database
from ragline.errors import EngineUnavailable

DOCUMENTS = """
SELECT n.name || '-' || n.uid || '/' || d.id, d.blob, d.live_blob
FROM documents d JOIN namespaces n ON n.name = d.namespace WHERE d.state <> 'deleted'"""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`blobs`: the folders of contents that its documents need, as `contents` lays them out."""

    path: Path
    blobs: frozenset[str]
    namespaces: int
    documents: int


async def take(database: Database, path: Path) -> Snapshot:
    """Copy the registry to `path` by SQLite's own backup: one read transaction, under which others go on writing.

    Raises:  EngineUnavailable.
    """
    await database.snapshot(path)
    return await asyncio.to_thread(_read, path)


def _read(path: Path) -> Snapshot:
    try:
        with closing(sqlite3.connect(path)) as sql:
            rows = sql.execute(DOCUMENTS).fetchall()
            namespaces = cast(int, sql.execute("SELECT count(*) FROM namespaces").fetchone()[0])
            sql.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
    except sqlite3.Error as error:
        raise EngineUnavailable(
            f"The copy of the registry cannot be read: {error}.",
            next_step="Check the free space of the temporary folder (TMPDIR).",
            engine="registry",
        ) from error
    blobs = frozenset(f"{owner}/{blob}" for owner, *both in rows for blob in both if blob)
    return Snapshot(path, blobs, namespaces, len(rows))
