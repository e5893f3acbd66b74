"""One collection: rows in SQLite, and an inverted-file index in memory that follows them.

    {folder}/dim         written last: the collection exists once it is there
            /rows.db     chunks with their payload and vector; reader groups and filterable fields, one row a value
            /sketch.npz  what the index has learnt, so that a start need not: derived, may be missing or old

IVF rather than a graph: adding a vector costs microseconds instead of a millisecond of the cores that embed. Vectors are
held in half precision, in the rows as well.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ragline.protocols import Vectors
from ragline.types import AnyOf, Chunk, Condition, Groups, Hit, Metadata, Record, Scope
from ragline.vectors.faiss_index import IvfIndex

WIDER: Final = (8, 64)
"""Times top_k that are fetched before a scope is checked, at first and at the second try."""

RARE: Final = 2_000
"""Chunks that meet a condition, up to which all of them are scored: cheaper than a wide search, and exact."""

MOST_TIED: Final = 1000
"""Hits of one score among which the order goes by chunk id; more of them, copies of one text, and any may come."""

READ_AT_ONCE: Final = 10_000
"""Vectors read at a time when the collection is opened."""

FORMAT: Final = 1
"""Of the rows, as SQLite's `user_version`; 0 is what the first version left there, and is the same."""

_SCHEMA = f"""
PRAGMA user_version = {FORMAT};
CREATE TABLE IF NOT EXISTS chunk (
    key INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, document TEXT NOT NULL, content INTEGER NOT NULL,
    ordinal INTEGER NOT NULL, start INTEGER NOT NULL, "end" INTEGER NOT NULL, page INTEGER, headings TEXT NOT NULL,
    uri TEXT NOT NULL, title TEXT NOT NULL, open INTEGER NOT NULL, text TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS chunk_document ON chunk (document, content);
CREATE INDEX IF NOT EXISTS chunk_private ON chunk (open) WHERE open = 0;
CREATE TABLE IF NOT EXISTS vector (key INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS reader (name TEXT NOT NULL, key INTEGER NOT NULL, PRIMARY KEY (name, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS reader_key ON reader (key);
CREATE TABLE IF NOT EXISTS field (
    name TEXT NOT NULL, value NOT NULL, key INTEGER NOT NULL, PRIMARY KEY (name, value, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS field_key ON field (key);
"""

_COLUMNS = 'id, document, content, ordinal, start, "end", page, headings, uri, title, text'


class NewerFormat(Exception):
    """A newer version wrote the collection."""


class Collection:
    """Synchronous; called from the store's threads. Reads run side by side, writes one at a time."""

    def __init__(self, folder: Path, dim: int) -> None:
        self.dim = dim
        self._path = folder / "rows.db"
        self._threads = threading.local()
        self._connections: list[sqlite3.Connection] = []
        (found,) = self._sql().execute("PRAGMA user_version").fetchone()
        if found > FORMAT:
            raise NewerFormat(f"its rows are of format {found}, this version reads {FORMAT}")
        self._index = IvfIndex(self._stored(), dim, folder / "sketch.npz")
        self._private = self._count_private()

    @staticmethod
    def shape(folder: Path) -> int | None:
        """The dimension of the collection in `folder`; None when there is none."""
        try:
            return int((folder / "dim").read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None

    @staticmethod
    def make(folder: Path, dim: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(folder / "rows.db")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(_SCHEMA)
        connection.close()
        half = folder / "dim.half"
        half.write_text(str(dim))
        half.replace(folder / "dim")

    @staticmethod
    def unmake(folder: Path) -> None:
        (folder / "dim").unlink(missing_ok=True)

    def upsert(self, records: Sequence[Record], vectors: Vectors) -> None:
        last = {record.chunk.id: position for position, record in enumerate(records)}
        kept = sorted(last.values())
        half = vectors[kept].astype(np.float16)
        with self._transaction() as sql:
            ids = [records[position].chunk.id for position in kept]
            gone = [key for part in _parts(ids) for (key,) in sql.execute(_keys_of(part), part)]
            self._remove(sql, gone)
            keys = [self._insert(sql, records[position]) for position in kept]
            sql.executemany(
                "INSERT INTO vector VALUES (?, ?)", [(k, v.tobytes()) for k, v in zip(keys, half, strict=True)]
            )
        self._private += sum(bool(records[position].groups) for position in kept)
        self._index.replace(gone, keys, half)
        self._index.tend()

    def update_payload(self, document: str, title: str, groups: Groups, fields: Metadata) -> None:
        with self._transaction() as sql:
            keys = [key for (key,) in sql.execute("SELECT key FROM chunk WHERE document = ?", (document,))]
            sql.execute("UPDATE chunk SET title = ?, open = ? WHERE document = ?", (title, not groups, document))
            for table in ("reader", "field"):
                sql.executemany(f"DELETE FROM {table} WHERE key = ?", [(key,) for key in keys])
            for key in keys:
                _insert_scope(sql, key, groups, fields)
        self._private = self._count_private()

    def delete(self, below: Mapping[str, int]) -> None:
        with self._transaction() as sql:
            gone = [
                key
                for bound in below.items()
                for (key,) in sql.execute("SELECT key FROM chunk WHERE document = ? AND content < ?", bound)
            ]
            self._remove(sql, gone)
        self._index.replace(gone, [], np.zeros((0, self.dim), np.float16))
        self._index.tend()

    def search(self, vector: NDArray[np.float32], top_k: int, scope: Scope) -> list[Hit]:
        """Search, then check the scope; wider when too few pass; exactly, over all that pass, when they are rare."""
        scoped = _Scoped(scope, private=self._private > 0)
        if not scoped.where:
            found = self._index.nearest(vector, top_k + 1)
            if len(found) > top_k and found[top_k - 1][1] == found[top_k][1]:
                found = self._index.nearest(vector, MOST_TIED)
            return self._hits(found, top_k)
        found = self._passing(self._index.nearest(vector, WIDER[0] * top_k), scoped)
        if len(found) >= top_k:
            return self._hits(found, top_k)
        rarest, matches = scoped.rarest(self._sql())
        if matches == RARE:
            found = self._passing(self._index.nearest(vector, WIDER[1] * top_k), scoped)
            if len(found) >= top_k:
                return self._hits(found, top_k)
        keys = [key for (key,) in self._sql().execute(*scoped.all_of(rarest))]
        return self._hits(self._index.nearest_of(keys, vector, MOST_TIED), top_k)

    def search_exactly(self, vector: NDArray[np.float32], top_k: int, scope: Scope) -> list[Hit]:
        scoped = _Scoped(scope, private=self._private > 0)
        if not scoped.where:
            return self._hits(self._index.scan(vector, top_k + 1), top_k)
        keys = [key for (key,) in self._sql().execute(f"SELECT key FROM chunk WHERE {scoped.where}", scoped.values)]
        return self._hits(self._index.nearest_of(keys, vector, top_k + 1), top_k)

    def contents(self) -> dict[tuple[str, int], int]:
        rows = self._sql().execute("SELECT document, content, count(*) FROM chunk GROUP BY document, content")
        return {(document, content): count for document, content, count in rows}

    def tend(self) -> None:
        """Once it is open: learn what was not kept. Like a write, and like one it may take long; searches go on."""
        self._index.tend()

    def keep(self) -> None:
        """What was learnt, for the next start."""
        self._index.keep()

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def _hits(self, found: Sequence[tuple[int, float]], top_k: int) -> list[Hit]:
        """Rows to hits, equal scores by chunk id. A key without a row was deleted a moment ago."""
        if len(found) > top_k:
            found = [one for one in found if one[1] >= found[top_k - 1][1]]
        rows: dict[int, Any] = {}
        for part in _parts([key for key, _ in found]):
            # As one value: the interpreter lock is given up at each row, and under load every time costs a wait for it.
            query = f"SELECT json_group_array(json_array(key, {_COLUMNS})) FROM chunk WHERE key IN ({_marks(part)})"
            (read,) = self._sql().execute(query, part).fetchone()
            rows.update((key, row) for key, *row in json.loads(read))
        hits = [_hit(rows[key], score) for key, score in found if key in rows]
        return sorted(hits, key=lambda hit: (-hit.score, hit.chunk.id))[:top_k]

    def _passing(self, found: Sequence[tuple[int, float]], scoped: _Scoped) -> list[tuple[int, float]]:
        passing: set[int] = set()
        for part in _parts([key for key, _ in found]):
            query = f"SELECT key FROM chunk WHERE key IN ({_marks(part)}) AND {scoped.where}"
            passing.update(key for (key,) in self._sql().execute(query, [*part, *scoped.values]))
        return [one for one in found if one[0] in passing]

    def _stored(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16]]]:
        """All keys and their vectors, in parts."""
        rows = self._sql().execute("SELECT key, vector FROM vector ORDER BY key")
        while part := rows.fetchmany(READ_AT_ONCE):
            vectors = np.frombuffer(b"".join(vector for _, vector in part), np.float16).reshape(-1, self.dim)
            yield np.array([key for key, _ in part], np.int64), vectors

    def _count_private(self) -> int:
        return int(self._sql().execute("SELECT count(*) FROM chunk WHERE open = 0").fetchone()[0])

    def _insert(self, sql: sqlite3.Connection, record: Record) -> int:
        c = record.chunk
        values = (
            c.id, c.document, c.content, c.ordinal, c.start, c.end, c.page, json.dumps(c.headings, ensure_ascii=False),
            record.uri, record.title, c.text, not record.groups,
        )  # fmt: skip
        key = sql.execute(f"INSERT INTO chunk ({_COLUMNS}, open) VALUES ({_marks(values)})", values).lastrowid
        assert key is not None
        _insert_scope(sql, key, record.groups, record.fields)
        return key

    def _remove(self, sql: sqlite3.Connection, keys: Sequence[int]) -> None:
        for table in ("chunk", "vector", "reader", "field"):
            sql.executemany(f"DELETE FROM {table} WHERE key = ?", [(key,) for key in keys])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        sql = self._sql()
        sql.execute("BEGIN IMMEDIATE")
        try:
            yield sql
        except BaseException:
            sql.execute("ROLLBACK")
            raise
        sql.execute("COMMIT")

    def _sql(self) -> sqlite3.Connection:
        """This thread's connection."""
        found: sqlite3.Connection | None = getattr(self._threads, "sql", None)
        if found is None:
            found = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            found.execute("PRAGMA synchronous = FULL")
            found.execute("PRAGMA mmap_size = 1073741824")
            self._threads.sql = found
            self._connections.append(found)
        return found


class _Scoped:
    """A scope as SQL. `where`, with its `values`, checks one row of `chunk`; empty when everything passes.

    The checks are correlated, so that they cost something for the candidates only; a subquery that lists all matches of
    a condition costs 15 times as much when half of the chunks match.
    """

    def __init__(self, scope: Scope, *, private: bool) -> None:
        checks: list[str] = []
        self.values: list[object] = []
        self._drivers: list[tuple[str, list[object]]] = []
        if private:
            readers: list[object] = [*sorted(scope.groups)]
            marks = _marks(readers)
            checks.append(f"(open OR EXISTS (SELECT 1 FROM reader r WHERE r.key = chunk.key AND r.name IN ({marks})))")
            self.values += readers
            everyone = (
                f"SELECT key FROM chunk WHERE open UNION ALL SELECT DISTINCT key FROM reader WHERE name IN ({marks})"
            )
            if not scope.conditions:
                self._drivers.append((everyone, readers))
        for condition in scope.conditions:
            part, given = _field(condition)
            values: list[object] = [condition.field, *given]
            checks.append(f"EXISTS (SELECT 1 FROM field f WHERE f.key = chunk.key AND f.name = ? AND {part})")
            self.values += values
            self._drivers.append((f"SELECT DISTINCT key FROM field WHERE name = ? AND {part}", values))
        self.where = " AND ".join(checks)

    def rarest(self, sql: sqlite3.Connection) -> tuple[int, int]:
        """Which condition the fewest chunks meet, and how many do, counted up to RARE."""
        counts = [
            int(sql.execute(f"SELECT count(*) FROM (SELECT 1 FROM ({query}) LIMIT {RARE})", values).fetchone()[0])
            for query, values in self._drivers
        ]
        return counts.index(min(counts)), min(counts)

    def all_of(self, driver: int) -> tuple[str, list[object]]:
        """Lists every key that passes, beginning with the condition `driver`: CROSS JOIN keeps SQLite to that order."""
        query, values = self._drivers[driver]
        listing = f"SELECT chunk.key FROM ({query}) d CROSS JOIN chunk ON chunk.key = d.key WHERE {self.where}"
        return listing, [*values, *self.values]


def _field(condition: Condition) -> tuple[str, list[object]]:
    if isinstance(condition, AnyOf):
        return f"value IN ({_marks(condition.values)})", list(condition.values)
    bounds = [("value >= ?", condition.gte), ("value <= ?", condition.lte)]
    given = [(part, bound) for part, bound in bounds if bound is not None]
    return " AND ".join(part for part, _ in given) or "1", [bound for _, bound in given]


def _insert_scope(sql: sqlite3.Connection, key: int, groups: Groups, fields: Metadata) -> None:
    sql.executemany("INSERT INTO reader VALUES (?, ?)", [(group, key) for group in groups])
    for name, value in fields.items():
        held = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        sql.executemany("INSERT OR IGNORE INTO field VALUES (?, ?, ?)", [(name, one, key) for one in held])


def _hit(row: Sequence[Any], score: float) -> Hit:
    id, document, content, ordinal, start, end, page, headings, uri, title, text = row
    chunk = Chunk(id, document, content, ordinal, text, start, end, page, _headings(headings))
    score = min(1.0, max(-1.0, score))  # half precision may overstep by its last bit
    return Hit(chunk=chunk, uri=uri, title=title, score=score, scale="cosine")


def _headings(stored: str) -> tuple[str, ...]:
    return tuple(json.loads(stored)) if stored != "[]" else ()


def _keys_of(ids: Sequence[str]) -> str:
    return f"SELECT key FROM chunk WHERE id IN ({_marks(ids)})"


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def _parts(values: Sequence[Any], size: int = 500) -> Iterator[Sequence[Any]]:
    """Pieces that stay below SQLite's limit of variables."""
    return (values[start : start + size] for start in range(0, len(values), size))
