"""Compare embedded vector engines on what Ragline asks of its default one.

Why: the choice in docs/adr/0002 rests on these figures, and anyone may want to take them again on their machine.

    pip install numpy psutil qdrant-edge-py lancedb zvec usearch faiss-cpu
    python bench/vector_engines.py --data FOLDER [--rows 100000] [--engines zvec,lancedb] [--json OUT]

FOLDER holds `vectors.npy` (float32 [n, dim], unit length, n >= rows + 500: the last 500 of a fixed shuffle are the
queries) and `sentences.jsonl` (one `{"document": str, "text": str}` per vector). Random vectors will not do: they are
harder for a graph index than any text.

Every engine does the same work behind `Engine`. FAISS and usearch store vectors only, so they get the sidecar one would
have to write: SQLite holds payload, groups and vectors and is all that must survive a crash; the index lives in memory.
Each phase runs in a process of its own, so that memory, opening time and kills belong to one engine.
cpu_ms is what the whole process spent on one call, over all its threads: on a machine that others use it is the figure
to compare. Units: _ms milliseconds, _mb 2^20 bytes, _s seconds; ratios are against the same engine at rest in the same process.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from uuid import NAMESPACE_OID, uuid5

import numpy as np

BATCH = 100
"""Rows in one upsert: what an embedder hands over at once."""
QUERIES = 500
GROUPS = 2_000
GROUPS_PER_CHUNK = 4
"""Half of the chunks are private, each readable by 4 of 2,000 groups: one group reads 0.1 % of all chunks."""
PACE = 500
"""Rows a second that a local embedder delivers: the rate of the "paced" writer."""
PHASE_LIMIT_S = 900
GRAPH_LINKS, BUILD_EF, SEARCH_EF = 16, 200, 128
"""One setting for every graph index."""

Hit = tuple[str, float, str]
"""chunk_id, score, text"""


@dataclass(frozen=True, slots=True)
class Row:
    chunk_id: str
    vector: np.ndarray
    document: str
    content: int
    shelf: str
    groups: tuple[str, ...]
    text: str


class Engine(Protocol):
    """What is asked of an engine. `upsert`, `delete` and `regroup` have survived a SIGKILL when they return."""

    package: str

    def open(self, folder: Path, dim: int) -> None: ...
    def upsert(self, rows: Sequence[Row]) -> None: ...
    def search(
        self, vector: np.ndarray, top_k: int, groups: Sequence[str] | None = None, shelf: str | None = None
    ) -> list[Hit]:
        """`groups`: only chunks without groups, or sharing one; None asks for all. `shelf`: equality."""

    def delete(self, document: str, below: int) -> None:
        """Delete the document's chunks with content < below."""

    def regroup(self, document: str, groups: Sequence[str]) -> None: ...
    def count(self, document: str | None = None) -> int: ...
    def optimise(self) -> None: ...
    def close(self) -> None: ...


def vendor(module: str) -> Any:
    """Imported when its engine runs, so that one may be missing; untyped, as not all of them ship types."""
    return importlib.import_module(module)


class Qdrant:
    package = "qdrant-edge-py"

    def open(self, folder: Path, dim: int) -> None:
        self.q = q = vendor("qdrant_edge")
        config = q.EdgeConfig(
            vectors=q.EdgeVectorParams(size=dim, distance=q.Distance.Dot),
            hnsw_config=q.HnswIndexConfig(m=GRAPH_LINKS, ef_construct=BUILD_EF, full_scan_threshold=1_000),
            optimizers=q.EdgeOptimizersConfig(default_segment_number=1),
            wal_enabled=False,  # it is not replayed by load(): flush() alone makes a write durable
        )
        if (folder / "edge_config.json").exists():
            self.shard = q.EdgeShard.load(str(folder))
            return
        self.shard = q.EdgeShard.create(str(folder), config)
        for field, kind in {
            "document": "Keyword",
            "content": "Integer",
            "shelf": "Keyword",
            "groups": "Keyword",
        }.items():
            self.shard.update(q.UpdateOperation.create_field_index(field, getattr(q.PayloadSchemaType, kind)))
        self.shard.flush()

    def _is(self, field: str, value: str) -> Any:
        return self.q.FieldCondition(field, match=self.q.MatchValue(value))

    def _update(self, operation: Any) -> None:
        self.shard.update(operation)
        self.shard.flush()

    def upsert(self, rows: Sequence[Row]) -> None:
        points = [
            self.q.Point(
                uuid5(NAMESPACE_OID, row.chunk_id),
                row.vector.tolist(),
                {
                    "chunk_id": row.chunk_id,
                    "document": row.document,
                    "content": row.content,
                    "shelf": row.shelf,
                    "groups": list(row.groups),
                    "text": row.text,
                },
            )
            for row in rows
        ]
        self._update(self.q.UpdateOperation.upsert_points(points))

    def search(
        self, vector: np.ndarray, top_k: int, groups: Sequence[str] | None = None, shelf: str | None = None
    ) -> list[Hit]:
        q, must = self.q, []
        if shelf is not None:
            must.append(self._is("shelf", shelf))
        if groups is not None:
            mine = q.FieldCondition("groups", match=q.MatchAny(list(groups)))
            must.append(q.Filter(should=[q.IsEmptyCondition("groups"), mine]))
        hits = self.shard.query(
            q.QueryRequest(
                limit=top_k,
                query=q.Query.Nearest(vector.tolist()),
                filter=q.Filter(must=must) if must else None,
                with_payload=True,
                params=q.SearchParams(hnsw_ef=SEARCH_EF),
            )
        )
        return [(hit.payload["chunk_id"], hit.score, hit.payload["text"]) for hit in hits]

    def delete(self, document: str, below: int) -> None:
        old = self.q.FieldCondition("content", range=self.q.RangeFloat(lt=below))
        self._update(
            self.q.UpdateOperation.delete_points_by_filter(self.q.Filter(must=[self._is("document", document), old]))
        )

    def regroup(self, document: str, groups: Sequence[str]) -> None:
        of_document = self.q.Filter(must=[self._is("document", document)])
        self._update(self.q.UpdateOperation.set_payload_by_filter(of_document, {"groups": list(groups)}))

    def count(self, document: str | None = None) -> int:
        only = self.q.Filter(must=[self._is("document", document)]) if document else None
        return int(self.shard.count(self.q.CountRequest(exact=True, filter=only)))

    def optimise(self) -> None:
        self.shard.optimize()
        self.shard.flush()

    def close(self) -> None:
        self.shard.close()


def quoted(text: str, *, quote: str = "''") -> str:
    """A string literal of the engines that take filters as text."""
    return "'" + text.replace("'", quote) + "'"


class Lance:
    package = "lancedb"

    def open(self, folder: Path, dim: int) -> None:
        lancedb, self.pa, self.dim = vendor("lancedb"), vendor("pyarrow"), dim
        pa = self.pa
        text, strings = pa.string(), pa.list_(pa.string())
        self.schema = pa.schema(
            [
                ("chunk_id", text),
                ("vector", pa.list_(pa.float32(), dim)),
                ("document", text),
                ("content", pa.int64()),
                ("shelf", text),
                ("groups", strings),
                ("text", text),
            ]
        )
        database = lancedb.connect(str(folder))
        if "chunks" in database.list_tables().tables:
            self.table = database.open_table("chunks")
            return
        self.table = database.create_table("chunks", schema=self.schema)

    def upsert(self, rows: Sequence[Row]) -> None:
        columns = {name: [getattr(row, name) for row in rows] for name in self.schema.names if name != "vector"}
        columns["groups"] = [list(groups) for groups in columns["groups"]]
        flat = self.pa.array(np.concatenate([row.vector for row in rows]), self.pa.float32())
        columns["vector"] = self.pa.FixedSizeListArray.from_arrays(flat, self.dim)
        data = self.pa.table(columns, schema=self.schema)
        self.table.merge_insert("chunk_id").when_matched_update_all().when_not_matched_insert_all().execute(data)

    def search(
        self, vector: np.ndarray, top_k: int, groups: Sequence[str] | None = None, shelf: str | None = None
    ) -> list[Hit]:
        where = []
        if shelf is not None:
            where.append(f"shelf = {quoted(shelf)}")
        if groups is not None:
            mine = ", ".join(map(quoted, groups))
            where.append(
                f"(array_length(groups) IS NULL OR array_length(groups) = 0 OR array_has_any(groups, [{mine}]))"
            )
        query = self.table.search(vector).distance_type("dot").limit(top_k).ef(SEARCH_EF).nprobes(20).refine_factor(2)
        if where:
            query = query.where(" AND ".join(where), prefilter=True)
        found = query.select(["chunk_id", "text", "_distance"]).to_arrow()
        return [(hit["chunk_id"], 1 - hit["_distance"], hit["text"]) for hit in found.to_pylist()]

    def delete(self, document: str, below: int) -> None:
        self.table.delete(f"document = {quoted(document)} AND content < {below}")

    def regroup(self, document: str, groups: Sequence[str]) -> None:
        listed = ", ".join(map(quoted, groups))
        self.table.update(where=f"document = {quoted(document)}", values_sql={"groups": f"[{listed}]"})

    def count(self, document: str | None = None) -> int:
        return int(self.table.count_rows(f"document = {quoted(document)}" if document else None))

    def optimise(self) -> None:
        from datetime import timedelta

        if not self.table.list_indices():
            self.table.create_index(
                metric="dot",
                vector_column_name="vector",
                index_type="IVF_HNSW_SQ",
                m=GRAPH_LINKS,
                ef_construction=BUILD_EF,
            )
            for column, kind in {
                "chunk_id": "BTREE",
                "document": "BTREE",
                "shelf": "BITMAP",
                "groups": "LABEL_LIST",
            }.items():
                self.table.create_scalar_index(column, index_type=kind)
        self.table.optimize(cleanup_older_than=timedelta(seconds=60))

    def close(self) -> None: ...


class Zvec:
    package = "zvec"

    def open(self, folder: Path, dim: int) -> None:
        self.z = z = vendor("zvec")
        with contextlib.suppress(RuntimeError):
            z.init(log_level=z.LogLevel.FATAL)
        if (folder / "chunks").exists():
            self.chunks = z.open(str(folder / "chunks"), z.CollectionOption(read_only=False, enable_mmap=True))
            return
        graph = z.HnswIndexParam(metric_type=z.MetricType.IP, m=GRAPH_LINKS, ef_construction=BUILD_EF)
        indexed = z.InvertIndexParam()
        schema = z.CollectionSchema(
            "chunks",
            fields=[
                z.FieldSchema("chunk_id", z.DataType.STRING),
                z.FieldSchema("document", z.DataType.STRING, index_param=indexed),
                z.FieldSchema(
                    "content", z.DataType.INT64, index_param=z.InvertIndexParam(enable_range_optimization=True)
                ),
                z.FieldSchema("shelf", z.DataType.STRING, index_param=indexed),
                z.FieldSchema("groups", z.DataType.ARRAY_STRING, index_param=indexed),
                z.FieldSchema("text", z.DataType.STRING),
            ],
            vectors=[z.VectorSchema("vector", z.DataType.VECTOR_FP32, dim, index_param=graph)],
        )
        self.chunks = z.create_and_open(
            str(folder / "chunks"), schema, z.CollectionOption(read_only=False, enable_mmap=True)
        )

    def upsert(self, rows: Sequence[Row]) -> None:
        docs = [
            self.z.Doc(
                row.chunk_id,
                vectors={"vector": row.vector},
                fields={
                    "chunk_id": row.chunk_id,
                    "document": row.document,
                    "content": row.content,
                    "shelf": row.shelf,
                    "groups": list(row.groups) or [EVERYONE],
                    "text": row.text,
                },
            )
            for row in rows
        ]
        self._check(self.chunks.upsert(docs))

    def _text(self, text: str) -> str:
        return quoted(text, quote="\\'")

    def _check(self, statuses: Sequence[Any]) -> None:
        if refused := [status.message() for status in statuses if not status.ok()]:
            raise RuntimeError(refused[0])

    def search(
        self, vector: np.ndarray, top_k: int, groups: Sequence[str] | None = None, shelf: str | None = None
    ) -> list[Hit]:
        where = []
        if shelf is not None:
            where.append(f"shelf = {self._text(shelf)}")
        if groups is not None:
            where.append(f"groups CONTAIN_ANY ({', '.join(map(self._text, [*groups, EVERYONE]))})")
        found = self.chunks.query(
            self.z.Query("vector", vector=vector, param=self.z.HnswQueryParam(ef=SEARCH_EF)),
            topk=top_k,
            filter=" AND ".join(where) or None,
            output_fields=["text"],
        )
        return [(hit.id, hit.score, hit.field("text")) for hit in found]

    def delete(self, document: str, below: int) -> None:
        self.chunks.delete_by_filter(f"document = {self._text(document)} AND content < {below}")

    def _ids(self, document: str) -> list[str]:
        return [
            hit.id
            for hit in self.chunks.query(
                topk=1024, filter=f"document = {self._text(document)}", output_fields=["document"]
            )
        ]

    def regroup(self, document: str, groups: Sequence[str]) -> None:
        self._check(
            self.chunks.update(
                [self.z.Doc(i, fields={"groups": list(groups) or [EVERYONE]}) for i in self._ids(document)]
            )
        )

    def count(self, document: str | None = None) -> int:
        return len(self._ids(document)) if document else self.chunks.stats.doc_count

    def optimise(self) -> None:
        self.chunks.optimize()

    def close(self) -> None:
        self.chunks.flush()
        del self.chunks


EVERYONE = "*"
"""Stored as the only group of a chunk without groups, where an engine cannot index an empty list."""


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


class Usearch(Sidecar):
    """HNSW. Building it takes minutes, so it is saved on `close` and caught up from SQLite on `open`."""

    package = "usearch"

    def load(self) -> None:
        self.index = vendor("usearch.index").Index(
            ndim=self.dim,
            metric="ip",
            dtype="f16",
            connectivity=GRAPH_LINKS,
            expansion_add=BUILD_EF,
            expansion_search=SEARCH_EF,
        )
        last, saved = 0, self.folder / "index"
        if saved.exists():
            self.index.load(str(saved))
            last = int((self.folder / "last_key").read_text())
        live = {key for (key,) in self.sql.execute("SELECT key FROM chunk")}
        self.remove([int(key) for key in self.index.keys if key not in live])
        keys, vectors = self.stored(above=last)
        if len(keys):
            self.index.add(keys, vectors)

    def optimise(self) -> None:
        (last,) = self.sql.execute("SELECT coalesce(max(key), 0) FROM chunk").fetchone()
        (self.folder / "index").unlink(missing_ok=True)
        (self.folder / "last_key").write_text(str(last))
        self.index.save(str(self.folder / "index.new"))
        (self.folder / "index.new").replace(self.folder / "index")

    def close(self) -> None:
        self.optimise()

    def add(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        self.index.add(keys, vectors, threads=1)

    def remove(self, keys: Sequence[int]) -> None:
        if len(keys):
            self.index.remove(np.array(keys, np.uint64))

    def nearest(self, vector: np.ndarray, top_k: int) -> list[tuple[int, float]]:
        found = self.index.search(vector, top_k, threads=1)
        pairs = zip(found.keys.tolist(), found.distances.tolist(), strict=True)
        return [(key, 1 - far) for key, far in pairs if key < 2**63]  # beside add() it may return unset keys

    def nearest_of(self, keys: Sequence[int], vector: np.ndarray, top_k: int) -> list[tuple[int, float]]:
        got = self.index.get(np.array(keys, np.uint64), dtype="f32") if keys else []
        known = [(key, row) for key, row in zip(keys, got, strict=True) if row is not None]  # None: added a moment ago
        return best([key for key, _ in known], np.array([row for _, row in known]) @ vector, top_k) if known else []


class ReadWriteLock:
    """Many readers or one writer; a waiting writer goes first."""

    def __init__(self) -> None:
        self.changed, self.readers, self.writers = threading.Condition(), 0, 0
        self.writing = threading.Lock()

    @contextlib.contextmanager
    def read(self) -> Iterator[None]:
        with self.changed:
            self.changed.wait_for(lambda: not self.writers)
            self.readers += 1
        try:
            yield
        finally:
            with self.changed:
                self.readers -= 1
                self.changed.notify_all()

    @contextlib.contextmanager
    def write(self) -> Iterator[None]:
        with self.changed:
            self.writers += 1
            self.changed.wait_for(lambda: not self.readers)
        try:
            with self.writing:
                yield
        finally:
            with self.changed:
                self.writers -= 1
                self.changed.notify_all()


class Faiss(Sidecar):
    """IVF over half-precision vectors. It is filled from SQLite at each start: only what its lists learnt is kept."""

    package = "faiss-cpu"
    lists, probes = 256, 64

    def load(self) -> None:
        self.faiss, self.lock = vendor("faiss"), ReadWriteLock()
        self.faiss.omp_set_num_threads(1)
        kept = self.sql.execute("SELECT value FROM learnt WHERE name = 'centroids'").fetchone()
        centroids = (
            np.frombuffer(kept[0], np.float32).reshape(-1, self.dim) if kept else np.zeros((1, self.dim), np.float32)
        )
        self.index = self._filled(centroids, *self.stored())

    def _filled(self, centroids: np.ndarray, keys: np.ndarray, vectors: np.ndarray) -> Any:
        f = self.faiss
        quantiser = f.IndexFlatIP(self.dim)
        quantiser.add(centroids)
        half = f.ScalarQuantizer.QT_fp16
        index = f.IndexIVFScalarQuantizer(quantiser, self.dim, len(centroids), half, f.METRIC_INNER_PRODUCT, False)
        index.train(centroids)  # learns nothing: the centroids are there, and half precision has no parameters
        index.set_direct_map_type(f.DirectMap.Hashtable)
        if len(keys):
            index.add_with_ids(vectors, keys)
        return index

    def _learnt(self, vectors: np.ndarray) -> np.ndarray:
        """Few vectors: one list, an exact scan."""
        if len(vectors) < 64 * self.lists:
            return np.zeros((1, self.dim), np.float32)
        kmeans = self.faiss.Kmeans(self.dim, self.lists, niter=10, spherical=True, max_points_per_centroid=64, seed=1)
        kmeans.train(vectors)
        return np.array(kmeans.centroids)

    def optimise(self) -> None:
        """Learn the lists again, beside the old ones; what was written meanwhile is caught up under the lock."""
        keys, vectors = self.stored()
        centroids = self._learnt(vectors)
        fresh = self._filled(centroids, keys, vectors)
        self.sql.execute("INSERT OR REPLACE INTO learnt VALUES ('centroids', ?)", (centroids.tobytes(),))
        with self.lock.write():
            late, late_vectors = self.stored(above=int(keys[-1]) if len(keys) else 0)
            if len(late):
                fresh.add_with_ids(late_vectors, late)
            live = {key for (key,) in self.sql.execute("SELECT key FROM chunk")}
            self._forget(fresh, [key for key in keys.tolist() if key not in live])
            self.index = fresh

    def _forget(self, index: Any, keys: Sequence[int]) -> None:
        if len(keys):
            index.remove_ids(np.array(keys, np.int64))

    def add(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        with self.lock.write():
            self._forget(self.index, keys.tolist())  # `optimise` may have read them already
            self.index.add_with_ids(vectors, keys)

    def remove(self, keys: Sequence[int]) -> None:
        with self.lock.write():
            self._forget(self.index, keys)

    def nearest(self, vector: np.ndarray, top_k: int) -> list[tuple[int, float]]:
        with self.lock.read():
            scores, keys = self.index.search(
                vector[None], top_k, params=self.faiss.SearchParametersIVF(nprobe=self.probes)
            )
        return [(int(key), float(score)) for key, score in zip(keys[0], scores[0], strict=True) if key >= 0]

    def nearest_of(self, keys: Sequence[int], vector: np.ndarray, top_k: int) -> list[tuple[int, float]]:
        if not keys:
            return []
        wanted = np.array(keys, np.int64)
        every = self.faiss.SearchParametersIVF(nprobe=self.index.nlist, sel=self.faiss.IDSelectorBatch(wanted))
        with self.lock.read():
            scores, found = self.index.search(vector[None], top_k, params=every)
        return [(int(key), float(score)) for key, score in zip(found[0], scores[0], strict=True) if key >= 0]


def best(keys: Sequence[int], scores: np.ndarray, top_k: int) -> list[tuple[int, float]]:
    order = np.argsort(-scores)[:top_k]
    return [(int(keys[place]), float(scores[place])) for place in order]


ENGINES: dict[str, Callable[[], Engine]] = {
    "zvec": Zvec,
    "qdrant": Qdrant,
    "lancedb": Lance,
    "usearch": Usearch,
    "faiss": Faiss,
}


# --- data -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Data:
    rows: list[Row]
    queries: np.ndarray


def read_data(folder: Path, rows: int) -> Data:
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    if len(vectors) < rows + QUERIES:
        raise SystemExit(
            f"{folder} holds {len(vectors)} vectors, {rows + QUERIES} are needed (rows + {QUERIES} queries)"
        )
    order = np.random.default_rng(7).permutation(len(vectors))
    corpus, asked = np.sort(order[:rows]), order[-QUERIES:]
    with (folder / "sentences.jsonl").open() as lines:
        sentences = [json.loads(line) for line in lines]
    chance, result = random.Random(7), []
    taken = np.ascontiguousarray(vectors[corpus], np.float32)
    for n, place in enumerate(corpus):
        private = chance.random() < 0.5
        groups = tuple(f"group-{g}" for g in chance.sample(range(GROUPS), GROUPS_PER_CHUNK)) if private else ()
        sentence, shelf = sentences[place], "private" if private else "public"
        result.append(Row(f"chunk-{n}", taken[n], sentence["document"], 1, shelf, groups, sentence["text"]))
    return Data(result, np.ascontiguousarray(vectors[asked], np.float32))


# --- measuring ------------------------------------------------------------------------------------------------------


def timed(call: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call(*given)
    return (time.perf_counter() - start) * 1e3, result


def percentiles(times_ms: Sequence[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(times_ms, [50, 95, 99]) if len(times_ms) else (np.nan,) * 3
    return {"p50_ms": round(p50, 2), "p95_ms": round(p95, 2), "p99_ms": round(p99, 2), "n": len(times_ms)}


def memory_mb() -> int:
    return round(int(vendor("psutil").Process().memory_full_info().uss) / 2**20)


def folder_mb(folder: Path) -> int:
    files = [file.stat() for file in folder.rglob("*") if file.is_file()]
    return round(sum(stat.st_blocks * 512 for stat in files) / 2**20)


@contextlib.contextmanager
def in_background(work: Callable[[threading.Event], None]) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def heartbeat(into: dict[str, Any], name: str) -> Iterator[None]:
    """Longest time another Python thread (an event loop, say) could not run: who holds the GIL shows here."""
    beats: list[float] = []

    def beat(stop: threading.Event) -> None:
        while not stop.is_set():
            beats.append(time.perf_counter())
            time.sleep(0.002)

    with in_background(beat):
        yield
        beats.append(time.perf_counter())
    into[name] = round(max(np.diff(beats)) * 1e3, 1)


def recall(found: Sequence[Sequence[Hit]], truth: Sequence[set[str]]) -> float:
    pairs = [(hits, true) for hits, true in zip(found, truth, strict=True) if true]
    return round(float(np.mean([len({hit[0] for hit in hits} & true) / len(true) for hits, true in pairs])), 4)


# --- phases: each is run in a process of its own ----------------------------------------------------------------------


def phase_build(engine: Engine, folder: Path, data: Data) -> dict[str, Any]:
    before, times = memory_mb(), list[float]()
    result: dict[str, Any] = {}
    engine.open(folder, data.queries.shape[1])
    start, spent = time.perf_counter(), time.process_time()
    for at in range(0, len(data.rows), BATCH):
        times.append(timed(engine.upsert, data.rows[at : at + BATCH])[0])
    result["insert_rows_per_s"] = round(len(data.rows) / (time.perf_counter() - start))
    result["insert_batch"] = percentiles(times)
    result["insert_cpu_ms_per_row"] = round((time.process_time() - spent) * 1e3 / len(data.rows), 3)
    result["search_before_optimise"] = percentiles([timed(engine.search, q, 10)[0] for q in data.queries[:50]])
    spent = time.process_time()
    with heartbeat(result, "optimise_stall_ms"):
        took, _ = timed(engine.optimise)
    result["optimise_cpu_s"] = round(time.process_time() - spent, 1)
    result |= {"optimise_s": round(took / 1e3, 1), "memory_mb": memory_mb() - before}
    engine.close()
    return result | {"disk_mb": folder_mb(folder)}


def phase_serve(engine: Engine, folder: Path, data: Data) -> dict[str, Any]:
    before, chance = memory_mb(), random.Random(1)
    spent = time.process_time()
    opened, _ = timed(engine.open, folder, data.queries.shape[1])
    spent = time.process_time() - spent
    first, _ = timed(engine.search, data.queries[0], 10)
    result: dict[str, Any] = {
        "open_with_import_ms": round(opened),
        "open_cpu_ms": round(spent * 1e3),
        "first_search_ms": round(first, 1),
    }
    matrix, ids = np.array([row.vector for row in data.rows]), np.array([row.chunk_id for row in data.rows])
    asked = [f"group-{chance.randrange(GROUPS)}" for _ in data.queries]
    private = np.array([bool(row.groups) for row in data.rows])
    members: dict[str, list[int]] = {}
    for place, row in enumerate(data.rows):
        for group in row.groups:
            members.setdefault(group, []).append(place)
    truth: dict[str, list[set[str]]] = {"open": [], "group": [], "group_or_everyone": []}
    for scores, group in zip(data.queries @ matrix.T, asked, strict=True):
        mine = np.zeros(len(ids), bool)
        mine[members.get(group, [])] = True
        for name, allowed in {"open": None, "group": mine, "group_or_everyone": mine | ~private}.items():
            kept = scores if allowed is None else np.where(allowed, scores, -9)
            top = np.argpartition(-kept, 10)[:10]
            truth[name].append({ids[t] for t in top if kept[t] > -9})
    del matrix

    def measure(name: str, search: Callable[[int], list[Hit]], true: list[set[str]] | None = None) -> None:
        for n in range(50):
            search(n)
        spent = time.process_time()
        times, found = zip(*(timed(search, n) for n in range(QUERIES)), strict=True)
        spent = (time.process_time() - spent) * 1e3 / QUERIES
        result[name] = (
            percentiles(times) | {"cpu_ms": round(spent, 2)} | ({"recall_at_10": recall(found, true)} if true else {})
        )

    measure("top_10", lambda n: engine.search(data.queries[n], 10), truth["open"])
    measure("top_50", lambda n: engine.search(data.queries[n], 50))
    measure("one_group", lambda n: engine.search(data.queries[n], 10, [asked[n]], "private"), truth["group"])
    measure(
        "one_group_or_everyone", lambda n: engine.search(data.queries[n], 10, [asked[n]]), truth["group_or_everyone"]
    )

    times: list[float] = []

    def caller(_: threading.Event) -> None:
        times.extend(timed(engine.search, q, 10)[0] for q in data.queries)

    with heartbeat(result, "search_stall_ms"):
        start = time.perf_counter()
        with in_background(caller):
            caller(threading.Event())
        took = time.perf_counter() - start
    result["two_callers"] = percentiles(times) | {
        "per_s": round(2 * QUERIES / took),
        "per_s_alone": round(1e3 / result["top_10"]["p50_ms"]),
    }
    result["memory_mb"] = memory_mb() - before
    names = sorted({row.document for row in data.rows})
    chance.shuffle(names)
    documents = [name for name in names[:600] if engine.count(name)][:60]
    expected = {name: sum(row.document == name for row in data.rows) for name in documents}
    result["regroup"] = percentiles([timed(engine.regroup, d, ["group-new"])[0] for d in documents[:30]])
    seen = {h[0] for h in engine.search(data.queries[0], 50, ["group-new"], None)}
    result["delete"] = percentiles([timed(engine.delete, d, 2)[0] for d in documents[30:]])
    result["right_after_changes"] = (
        all(engine.count(name) == expected[name] for name in documents[:30])
        and not any(engine.count(name) for name in documents[30:])
        and bool(seen)
    )
    engine.close()
    return result


def phase_write(engine: Engine, folder: Path, data: Data, seconds: float = 12) -> dict[str, Any]:
    """Searches at rest, beside a writer at `PACE`, beside one flat out, and beside `optimise`."""
    engine.open(folder, data.queries.shape[1])
    result: dict[str, Any] = {}
    written, unseen, counter = [0], [0], iter(range(10**9))

    def write(stop: threading.Event, pace: float | None) -> None:
        start, done = time.perf_counter(), 0
        while not stop.is_set():
            batch = [data.rows[next(counter) * 7 % len(data.rows)] for _ in range(BATCH)]
            fresh = [Row(f"new-{r.chunk_id}", r.vector, "new", 1, "new", (), r.text) for r in batch]
            engine.upsert(fresh)
            done += BATCH
            if done % (10 * BATCH) == 0:
                unseen[0] += fresh[0].chunk_id not in {hit[0] for hit in engine.search(fresh[0].vector, 10)}
            if pace:
                stop.wait(max(0, start + done / pace - time.perf_counter()))
        written[0] = round(done / (time.perf_counter() - start))

    def read(until: Callable[[float], bool]) -> dict[str, float]:
        start, times = time.perf_counter(), list[float]()
        while not times or not until(time.perf_counter() - start):
            times.append(timed(engine.search, data.queries[len(times) % QUERIES], 10)[0])
        return percentiles(times) | {"max_ms": round(max(times), 1)}

    def for_a_while(elapsed: float) -> bool:
        return elapsed > seconds

    read(lambda elapsed: elapsed > 2)
    result["at_rest"] = read(for_a_while)
    for name, pace in {"paced": PACE, "flat_out": None}.items():
        with heartbeat(result, f"{name}_stall_ms"), in_background(partial(write, pace=pace)):
            result[name] = read(for_a_while)
        result[name] |= {"written_per_s": written[0], "not_yet_visible": unseen[0]}
    result["after"] = read(for_a_while)
    finished = threading.Event()

    def optimise(_: threading.Event) -> None:
        engine.optimise()
        finished.set()

    with heartbeat(result, "optimise_stall_ms"), in_background(optimise):
        result["while_optimising"] = read(lambda _: finished.is_set())
    for name in ("paced", "flat_out", "while_optimising"):
        for p in ("p50", "p95"):
            result[name][f"{p}_ratio"] = round(result[name][f"{p}_ms"] / result["at_rest"][f"{p}_ms"], 2)
    engine.close()
    return result


def phase_kill_writer(engine: Engine, folder: Path, data: Data) -> dict[str, Any]:
    """Upsert, delete and optimise until killed; print what was acknowledged. Document k holds batch k."""
    engine.open(folder, data.queries.shape[1])
    first = int(os.environ["FIRST_BATCH"])
    for batch in range(first, 10**9):
        rows = [data.rows[(batch * BATCH + n) % len(data.rows)] for n in range(BATCH)]
        engine.upsert(
            [Row(f"{batch}-{n}", r.vector, f"batch-{batch}", 1, "x", ("a",), r.text) for n, r in enumerate(rows)]
        )
        print("upserted", batch, flush=True)
        if batch % 7 == 3:
            engine.delete(f"batch-{batch - 1}", 2)
            print("deleted", batch - 1, flush=True)
        if batch % 20 == 19:
            engine.optimise()
    return {}


def phase_kill_check(engine: Engine, folder: Path, data: Data) -> dict[str, Any]:
    acknowledged = json.loads(os.environ["ACKNOWLEDGED"])
    opened, _ = timed(engine.open, folder, data.queries.shape[1])
    lost = [
        b
        for b in acknowledged["upserted"]
        if b not in acknowledged["maybe_deleted"] and engine.count(f"batch-{b}") != BATCH
    ]
    back = [b for b in acknowledged["deleted"] if engine.count(f"batch-{b}")]
    broken = 0
    for batch in acknowledged["upserted"][-200:]:
        if batch not in acknowledged["maybe_deleted"]:
            row = data.rows[batch * BATCH % len(data.rows)]
            broken += not any(score > 0.999 for _, score, _ in engine.search(row.vector, 10, ["a"]))
    engine.close()
    return {"open_ms": round(opened), "lost_batches": len(lost), "undeleted": len(back), "unfindable": broken}


PHASES: dict[str, Callable[[Engine, Path, Data], dict[str, Any]]] = {
    "build": phase_build,
    "serve": phase_serve,
    "write": phase_write,
    "kill_writer": phase_kill_writer,
    "kill_check": phase_kill_check,
}


# --- the parent -------------------------------------------------------------------------------------------------------


def command(name: str, phase: str, folder: Path, options: argparse.Namespace) -> list[str]:
    rows = options.rows if not phase.startswith("kill") else min(options.rows, 10_000)
    return [
        sys.executable,
        __file__,
        "--data",
        str(options.data),
        "--rows",
        str(rows),
        "--phase",
        f"{name}:{phase}:{folder}",
    ]


def run_phase(name: str, phase: str, folder: Path, options: argparse.Namespace, **environment: str) -> dict[str, Any]:
    try:
        done = subprocess.run(
            command(name, phase, folder, options),
            capture_output=True, text=True, env=os.environ | environment, timeout=PHASE_LIMIT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {PHASE_LIMIT_S} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return (
        json.loads(lines[-1])
        if done.returncode == 0 and lines
        else {"failed": done.stderr[-600:], "rc": done.returncode}
    )


def kills(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """SIGKILL a writer at a random moment, open, compare with what it had acknowledged; again on the same files."""
    upserted: list[int] = []
    deleted: list[int] = []
    total = {"kills": 0, "open_failed": 0, "lost_batches": 0, "undeleted": 0, "unfindable": 0, "open_ms_max": 0}
    chance = random.Random(3)
    for _ in range(options.kills):
        first = str(max(upserted, default=-1) + 2)
        writer = subprocess.Popen(
            command(name, "kill_writer", folder, options),
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | {"FIRST_BATCH": first},
        )  # fmt: skip
        killer = threading.Timer(0.1 + 3 * chance.random(), writer.send_signal, [signal.SIGKILL])
        for line in writer.stdout or ():
            if not killer.ident:
                killer.start()  # at the first acknowledgement: every kill finds work in flight
            word, _, batch = line.strip().partition(" ")
            if batch.isdigit():
                (upserted if word == "upserted" else deleted).append(int(batch))
        writer.wait()
        total["kills"] += 1
        maybe = deleted + [b - 1 for b in upserted if b % 7 == 3]
        state = {"upserted": upserted, "deleted": deleted, "maybe_deleted": maybe}
        seen = run_phase(name, "kill_check", folder, options, ACKNOWLEDGED=json.dumps(state))
        if "failed" in seen:
            total["open_failed"] += 1
            total["first_failure"] = total.get("first_failure") or seen["failed"]
            shutil.rmtree(folder)
            folder.mkdir()
            upserted, deleted = [], []
            continue
        for key in ("lost_batches", "undeleted", "unfindable"):
            total[key] += seen[key]
        total["open_ms_max"] = max(total["open_ms_max"], seen["open_ms"])
    return total | {"acknowledged_batches": len(upserted)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--only", default="build,serve,write,kills", help="phases to run")
    parser.add_argument("--work", type=Path, help="folder for the engines' files (default: a temporary one, removed)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--phase", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase:
        name, phase, folder = options.phase.split(":", 2)
        print(
            json.dumps(PHASES[phase](ENGINES[name](), Path(folder), read_data(options.data, options.rows))), flush=True
        )
        return
    work = options.work or Path(tempfile.mkdtemp())
    report: dict[str, Any] = {}
    for name in options.engines.split(","):
        engine = ENGINES[name]()
        report[name] = {"version": importlib.metadata.version(engine.package)}
        folder, doomed = work / name, work / f"{name}-kills"
        for made in (folder, doomed):
            made.mkdir(parents=True, exist_ok=True)
        for phase in options.only.split(","):
            report[name][phase] = (
                kills(name, doomed, options) if phase == "kills" else run_phase(name, phase, folder, options)
            )
            print(name, phase, json.dumps(report[name][phase]), flush=True)
        if options.json:
            options.json.write_text(json.dumps(report, indent=2))
    if not options.work:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
