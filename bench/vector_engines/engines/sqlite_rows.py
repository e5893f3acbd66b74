"""Rows in SQLite for the engines that store vectors only: what FAISS and usearch need to be a store."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bench.vector_engines.engine import Hit, Row


class Sidecar:
    """SQLite under an index that stores vectors only: rows are the truth, the index lives in memory and follows."""

    def open(self, folder: Path, dim: int) -> None:
        self.folder, self.dim, self.threads = folder, dim, threading.local()
        self.sql.executescript(
            """PRAGMA journal_mode = WAL;
            CREATE TABLE IF NOT EXISTS chunk (key INTEGER PRIMARY KEY AUTOINCREMENT, chunk_id TEXT UNIQUE,
                document TEXT, content INTEGER, shelf TEXT, everyone INTEGER, text TEXT);
            CREATE INDEX IF NOT EXISTS chunk_document ON chunk (document, content);
            CREATE INDEX IF NOT EXISTS chunk_shelf ON chunk (shelf, everyone);
            CREATE TABLE IF NOT EXISTS vector (key INTEGER PRIMARY KEY, vector BLOB);
            CREATE TABLE IF NOT EXISTS reader (name TEXT, key INTEGER, PRIMARY KEY (name, key)) WITHOUT ROWID;
            CREATE INDEX IF NOT EXISTS reader_key ON reader (key);
            CREATE TABLE IF NOT EXISTS learnt (name TEXT PRIMARY KEY, value BLOB);"""
        )
        self.load()

    @property
    def sql(self) -> sqlite3.Connection:
        found: sqlite3.Connection | None = getattr(self.threads, "sql", None)
        if found is None:
            found = self.threads.sql = sqlite3.connect(self.folder / "chunks.db", isolation_level=None)
            found.execute("PRAGMA synchronous = FULL")
        return found

    def stored(self, above: int = 0) -> tuple[np.ndarray, np.ndarray]:
        rows = self.sql.execute("SELECT key, vector FROM vector WHERE key > ? ORDER BY key", (above,)).fetchall()
        vectors = np.frombuffer(b"".join(vector for _, vector in rows), np.float32).reshape(-1, self.dim)
        return np.array([key for key, _ in rows], np.int64), vectors

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        with self.sql as sql:
            sql.execute("BEGIN IMMEDIATE")
            yield sql

    def upsert(self, rows: Sequence[Row]) -> None:
        ids, keys = [row.chunk_id for row in rows], []
        with self.transaction() as sql:
            gone = [k for (k,) in sql.execute(f"SELECT key FROM chunk WHERE chunk_id IN ({marks(ids)})", ids)]
            self._drop(sql, gone)
            for r in rows:
                values = (r.chunk_id, r.document, r.content, r.shelf, not r.groups, r.text)
                keys.append(sql.execute("INSERT INTO chunk VALUES (NULL,?,?,?,?,?,?)", values).lastrowid)
                sql.execute("INSERT INTO vector VALUES (?, ?)", (keys[-1], r.vector.tobytes()))
                sql.executemany("INSERT INTO reader VALUES (?, ?)", [(group, keys[-1]) for group in r.groups])
        self.remove(gone)
        self.add(np.array(keys, np.int64), np.array([row.vector for row in rows]))

    def _drop(self, sql: sqlite3.Connection, keys: Sequence[int]) -> None:
        for table in ("chunk", "vector", "reader"):
            sql.execute(f"DELETE FROM {table} WHERE key IN ({marks(keys)})", keys)

    def search(
        self, vector: np.ndarray, top_k: int, groups: Sequence[str] | None = None, shelf: str | None = None
    ) -> list[Hit]:
        """Search wide, then check; if the filter leaves too few, it is selective: list what passes and score all of it."""
        where, values = ("shelf = ?", [shelf]) if shelf is not None else ("+1", [])
        mine = f"key IN (SELECT key FROM reader WHERE name IN ({marks(groups or ())}))"
        if groups is None and shelf is None:
            return self._payload(self.nearest(vector, top_k), "1", [])
        passes, all_values = (
            (f"+{where}", values) if groups is None else (f"+{where} AND (everyone OR {mine})", [*values, *groups])
        )
        hits = self._payload(self.nearest(vector, 8 * top_k), passes, all_values)[:top_k]
        if len(hits) == top_k:
            return hits
        # Two branches instead of OR: each is answered from an index (a + keeps SQLite from the wrong one).
        branches = [where] if groups is None else [f"{where} AND everyone = 1", f"+{where} AND {mine}"]
        query = " UNION ALL ".join(f"SELECT key FROM chunk WHERE {branch}" for branch in branches)
        keys = [key for (key,) in self.sql.execute(query, values if groups is None else [*values, *values, *groups])]
        return self._payload(self.nearest_of(keys, vector, top_k), passes, all_values)

    def _payload(self, found: Sequence[tuple[int, float]], passes: str, values: Sequence[object]) -> list[Hit]:
        keys = [key for key, _ in found]
        query = f"SELECT key, chunk_id, text FROM chunk WHERE key IN ({marks(keys)}) AND {passes}"
        rows = {key: (chunk_id, text) for key, chunk_id, text in self.sql.execute(query, [*keys, *values])}
        return [(rows[key][0], score, rows[key][1]) for key, score in found if key in rows]

    def delete(self, document: str, below: int) -> None:
        with self.transaction() as sql:
            gone = [
                k for (k,) in sql.execute("SELECT key FROM chunk WHERE document = ? AND content < ?", (document, below))
            ]
            self._drop(sql, gone)
        self.remove(gone)

    def regroup(self, document: str, groups: Sequence[str]) -> None:
        with self.transaction() as sql:
            keys = [k for (k,) in sql.execute("SELECT key FROM chunk WHERE document = ?", (document,))]
            sql.execute("UPDATE chunk SET everyone = ? WHERE document = ?", (not groups, document))
            sql.execute(f"DELETE FROM reader WHERE key IN ({marks(keys)})", keys)
            sql.executemany("INSERT INTO reader VALUES (?, ?)", [(group, key) for key in keys for group in groups])

    def count(self, document: str | None = None) -> int:
        where, values = ("WHERE document = ?", (document,)) if document else ("", ())
        return int(self.sql.execute(f"SELECT count(*) FROM chunk {where}", values).fetchone()[0])

    def optimise(self) -> None: ...
    def close(self) -> None: ...

    # the index: what an engine of this kind brings
    def load(self) -> None: ...
    def add(self, keys: np.ndarray, vectors: np.ndarray) -> None: ...
    def remove(self, keys: Sequence[int]) -> None: ...
    def nearest(self, vector: np.ndarray, top_k: int) -> list[tuple[int, float]]:
        raise NotImplementedError

    def nearest_of(self, keys: Sequence[int], vector: np.ndarray, top_k: int) -> list[tuple[int, float]]:
        raise NotImplementedError


def marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))
