"""Vectors in LanceDB, an embedded store in a folder (docs/engines/lancedb.md): for corpora that do not fit into memory.

A table a collection. A small one is compared whole, exactly; from `INDEX_FROM` chunks on an index of LanceDB's finds candidates,
which are scored by the whole vectors. Every write makes a version of the table; `_tend` merges them from time to time.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import lancedb
import numpy as np
import pyarrow as pa
import structlog
from lancedb.index import HnswSq
from numpy.typing import NDArray

from ragline.errors import ConfigurationError, EngineError, EngineRejected, EngineTimeout, EngineUnavailable
from ragline.protocols import Vectors
from ragline.types import AnyOf, Chunk, Condition, FieldType, Groups, Hit, Metadata, Record, Scalar, Scope

log = structlog.get_logger()

ENGINE = "vectors:lancedb"

INDEX_FROM = 20_000
"""Chunks from which a collection gets an index; below it is compared whole, in some milliseconds."""

RARE = 10_000
"""A scope of at most so many chunks is compared whole, too: an index would look for it in vain among the others."""

TEND_EVERY = 64
"""Writes between two rounds that merge the small files they leave and take new rows into the index."""

TIED = 32
"""Fetched beyond `top_k`, so that equal scores can be put in order; more where that is not the end of them."""

PROBES, REFINE = 32, 4
"""Parts of the index that a search looks into, and candidates per hit that are scored by their whole vector."""

MOST_VALUES = 8
"""Of one field of a chunk: each is compared with a range by itself."""

EVERYONE = "*"

ARROW: Mapping[FieldType, pa.DataType] = {
    FieldType.KEYWORD: pa.string(), FieldType.INTEGER: pa.int64(), FieldType.NUMBER: pa.float64(),
    FieldType.BOOLEAN: pa.bool_(), FieldType.DATE: pa.int64(),
}  # fmt: skip

KEPT_S = 60.0
"""How long an old version of a table stays for searches that read it."""


@dataclass(slots=True)
class _Shelf:
    """An open table. `writes` since it was tended; `lock`: one writer at a time, the others would have to begin anew."""

    table: Any
    schema: pa.Schema
    dim: int
    fields: Mapping[str, FieldType]
    lock: asyncio.Lock
    writes: int = 0
    indexed: bool = False

    columns: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.columns = {name: f"field_{number}" for number, name in enumerate(sorted(self.fields))}


class LanceDBVectorStore:
    """`url`: ``lancedb:FOLDER`` or ``lancedb:///FOLDER``, and ``index_from`` among its words."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        words = dict(parse_qsl(parts.query, keep_blank_values=True))
        self._folder = Path(unquote(parts.path)).expanduser()
        if parts.netloc or not parts.path.strip("/"):
            raise ConfigurationError(
                f"vectors: {parts.netloc or parts.path!r} is no folder.",
                next_step="Write lancedb:FOLDER, or lancedb:///FOLDER from the root.",
            )
        given = words.pop("index_from", str(INDEX_FROM))
        if words or not given.isdecimal():
            raise ConfigurationError(
                f"vectors: {', '.join(words) or f'index_from={given}'} is not known of LanceDB.",
                next_step="Only index_from=CHUNKS is.",
            )
        self._index_from = int(given)
        self._database: Any = None
        self._opening = asyncio.Lock()
        self._shelves: dict[str, _Shelf] = {}
        self._tending: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    async def create(self, collection: str, *, dim: int, fields: Mapping[str, FieldType]) -> None:
        shelf_of = {"dim": dim, "fields": {name: str(kind) for name, kind in fields.items()}}
        columns = [pa.field(f"field_{n}", pa.list_(ARROW[fields[name]])) for n, name in enumerate(sorted(fields))]
        schema = pa.schema(
            [
                pa.field("chunk", pa.string()), pa.field("document", pa.string()), pa.field("content", pa.int64()),
                pa.field("payload", pa.string()), pa.field("title", pa.string()),
                pa.field("readers", pa.list_(pa.string())), *columns,
                pa.field("vector", pa.list_(pa.float32(), dim)),
            ],
            metadata={b"ragline": json.dumps(shelf_of).encode()},
        )  # fmt: skip
        there = _checked(collection) in await self.collections()
        if not there:
            await self._make(collection, schema)
        try:
            shelf = await self._shelf(collection)
        except EngineRejected:
            if not there:
                raise
            # Its folder is there and nothing is in it: another process makes it just now, or was killed while it did.
            await self._make(collection, schema)
            shelf = await self._shelf(collection)
        if shelf.dim != dim:
            raise EngineRejected(
                f"The vector collection {collection} exists with {shelf.dim} dimensions, not {dim}.",
                next_step="Run `ragline reindex NAMESPACE`.",
                engine=ENGINE,
            )

    async def _make(self, collection: str, schema: pa.Schema) -> None:
        async with self._translated(collection):
            database = await self._opened()
            await database.create_table(collection, schema=schema, exist_ok=True)

    async def drop(self, collection: str) -> None:
        self._shelves.pop(collection, None)
        async with self._translated(collection):
            database = await self._opened()
            await database.drop_table(_checked(collection), ignore_missing=True)

    async def collections(self) -> list[str]:
        async with self._translated(""):
            database, found, after = await self._opened(), list[str](), None
            while True:
                page = await database.list_tables(page_token=after)
                found += page.tables
                after = page.page_token
                if not after:
                    return sorted(found)

    async def upsert(self, collection: str, records: Sequence[Record], vectors: Vectors) -> None:
        async with self._on(collection) as shelf:
            if not records:
                return
            _check(shelf, vectors, len(records))
            rows = await asyncio.to_thread(_rows, shelf, records, vectors)
            async with shelf.lock:
                merge = shelf.table.merge_insert("chunk").when_matched_update_all().when_not_matched_insert_all()
                await merge.execute(rows)
        self._wrote(collection, shelf)

    async def update_payload(
        self, collection: str, document: str, *, title: str, groups: Groups, fields: Metadata
    ) -> None:
        async with self._on(collection) as shelf:
            new: dict[str, Any] = {"title": title, "readers": _readers(groups)}
            new |= dict(zip(shelf.columns.values(), _values(shelf, fields), strict=True))
            async with shelf.lock:
                rows = await shelf.table.query().where(f"document = {_quoted(document)}").to_arrow()
                if not rows.num_rows:
                    return
                for name, value in new.items():
                    at = rows.schema.get_field_index(name)
                    rows = rows.set_column(
                        at, rows.schema.field(at), pa.array([value] * rows.num_rows, rows.schema.field(at).type)
                    )
                await shelf.table.merge_insert("chunk").when_matched_update_all().execute(rows)
        self._wrote(collection, shelf)

    async def delete(self, collection: str, below: Mapping[str, int]) -> None:
        async with self._on(collection) as shelf:
            bounds = [f"(document = {_quoted(one)} AND content < {content})" for one, content in below.items()]
            for at in range(0, len(bounds), 200):
                async with shelf.lock:
                    await shelf.table.delete(" OR ".join(bounds[at : at + 200]))
        self._wrote(collection, shelf)

    async def search(self, collection: str, vector: NDArray[np.float32], *, top_k: int, scope: Scope) -> list[Hit]:
        async with self._on(collection) as shelf:
            _check(shelf, vector[None, :], 1)
            where, wanted = _where(shelf, scope), top_k + TIED
            exact = not shelf.indexed or await shelf.table.count_rows(where) <= RARE
            while True:
                query = shelf.table.query().nearest_to(vector).distance_type("cosine").where(where).limit(wanted)
                query = query.bypass_vector_index() if exact else query.nprobes(PROBES).refine_factor(REFINE)
                found = await query.select(["chunk", "content", "payload", "title", "_distance"]).to_arrow()
                rows = found.to_pylist()
                if len(rows) < wanted or rows[-1]["_distance"] > rows[top_k - 1]["_distance"]:
                    break
                wanted *= 8
        return sorted(map(_hit, rows), key=lambda hit: (-hit.score, hit.chunk.id))[:top_k]

    async def contents(self, collection: str) -> dict[tuple[str, int], int]:
        async with self._on(collection) as shelf:
            rows = await shelf.table.query().select(["document", "content"]).to_arrow()
        books = await asyncio.to_thread(
            lambda: rows.group_by(["document", "content"]).aggregate([([], "count_all")]).to_pylist()
        )
        return {(row["document"], row["content"]): row["count_all"] for row in books}

    async def aclose(self) -> None:
        self._closed = True
        tending = list(self._tending.values())
        for task in tending:
            task.cancel()
        await asyncio.gather(*tending, return_exceptions=True)
        self._shelves.clear()
        database, self._database = self._database, None
        if database is not None:
            database.close()

    # ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _wrote(self, collection: str, shelf: _Shelf) -> None:
        shelf.writes += 1
        if shelf.writes >= TEND_EVERY and not self._closed and collection not in self._tending:
            shelf.writes = 0
            task = self._tending[collection] = asyncio.create_task(self.tend(collection), name=collection)
            task.add_done_callback(self._tended)

    def _tended(self, task: asyncio.Task[None]) -> None:
        self._tending.pop(task.get_name(), None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("collection not tended, it is tried again", collection=task.get_name(), error=str(error))

    async def tend(self, collection: str) -> None:
        """Merge small files, drop old versions, and have an index where the collection is large. Searches go on; writes wait
        for the merging, not for the first index, which takes minutes."""
        async with self._on(collection) as shelf:
            if not shelf.indexed and await shelf.table.count_rows() >= self._index_from:
                await shelf.table.create_index("vector", config=HnswSq(distance_type="cosine"))
                shelf.indexed = True
            async with shelf.lock:
                await shelf.table.optimize(cleanup_older_than=timedelta(seconds=KEPT_S))

    @asynccontextmanager
    async def _on(self, collection: str) -> AsyncIterator[_Shelf]:
        """Raises EngineRejected: there is no collection of that name."""
        shelf = self._shelves.get(collection) or await self._shelf(collection)
        async with self._translated(collection):
            if self._closed:
                raise _closed()
            yield shelf

    async def _shelf(self, collection: str) -> _Shelf:
        async with self._translated(collection):
            database = await self._opened()
            table = await database.open_table(_checked(collection))
            schema = await table.schema()
            made = json.loads(schema.metadata[b"ragline"])
            fields = {name: FieldType(kind) for name, kind in made["fields"].items()}
            indexed = bool(await table.list_indices())
            shelf = _Shelf(table, schema, made["dim"], fields, asyncio.Lock(), indexed=indexed)
        known = self._shelves.get(collection)
        if known is None or known.schema != schema:  # else it is the same, with the lock that its writers hold
            known = self._shelves[collection] = shelf
        return known

    async def _opened(self) -> Any:
        async with self._opening:
            if self._closed:
                raise _closed()
            if self._database is None:
                # Each call reads the newest version: another process may have written it.
                interval = timedelta(0)
                self._database = await lancedb.connect_async(str(self._folder), read_consistency_interval=interval)
            return self._database

    @asynccontextmanager
    async def _translated(self, collection: str) -> AsyncIterator[None]:
        try:
            yield
        except EngineError:
            raise
        except Exception as error:
            told = failure(error, collection)
            if isinstance(told, EngineRejected):
                self._shelves.pop(collection, None)
            raise told from error


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _rows(shelf: _Shelf, records: Sequence[Record], vectors: Vectors) -> pa.Table:
    """The last of those with one id."""
    last = {record.chunk.id: at for at, record in enumerate(records)}
    if len(last) < len(records):
        records, vectors = [records[at] for at in last.values()], vectors[list(last.values())]
    chunks = [record.chunk for record in records]
    readers = {groups: _readers(groups) for groups in {record.groups for record in records}}
    columns: dict[str, Any] = {
        "chunk": list(last), "document": [one.document for one in chunks], "content": [one.content for one in chunks],
        "payload": list(map(_payload, records)), "title": [record.title for record in records],
        "readers": [readers[record.groups] for record in records],
    }  # fmt: skip
    # By the column, and with lists that rows share: a list a row and a field makes Python collect its garbage all the time.
    for record in records:
        _check_declared(shelf, record.fields)
    for name, column in shelf.columns.items():
        columns[column] = [_held(shelf, name, record.fields.get(name, ())) for record in records]
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, shelf.dim)
    return pa.table(columns, schema=shelf.schema)


def _payload(record: Record) -> str:
    one = record.chunk
    return json.dumps([one.document, one.ordinal, one.text, one.start, one.end, one.page, one.headings, record.uri])


def _hit(row: Mapping[str, Any]) -> Hit:
    document, ordinal, text, start, end, page, headings, uri = json.loads(row["payload"])
    chunk = Chunk(row["chunk"], document, row["content"], ordinal, text, start, end, page, tuple(headings))
    return Hit(chunk, uri, row["title"], min(1.0, max(-1.0, 1.0 - row["_distance"])), "cosine")


def _readers(groups: Groups) -> list[str]:
    return [f"group:{group}" for group in sorted(groups)] or [EVERYONE]


def _values(shelf: _Shelf, fields: Metadata) -> list[Sequence[Scalar]]:
    _check_declared(shelf, fields)
    return [_held(shelf, name, fields.get(name, ())) for name in shelf.columns]


def _check_declared(shelf: _Shelf, fields: Metadata) -> None:
    if not fields.keys() <= shelf.fields.keys():
        raise EngineRejected(
            f"The field {min(fields.keys() - shelf.fields.keys())!r} is not declared in this collection.",
            next_step="Run `ragline reindex NAMESPACE`: its fields were declared after it was made.",
            engine=ENGINE,
        )


def _held(shelf: _Shelf, name: str, value: Scalar | Sequence[Scalar]) -> Sequence[Scalar]:
    values: Sequence[Scalar] = [value] if isinstance(value, str | int | float) else value
    if len(values) > MOST_VALUES and shelf.fields[name] is not FieldType.KEYWORD:
        raise EngineRejected(
            f"The field {name!r} has {len(values)} values; LanceDB compares at most {MOST_VALUES} with a range.",
            next_step="Give the document fewer of them.",
            engine=ENGINE,
        )
    return values


def _check(shelf: _Shelf, vectors: Vectors, rows: int) -> None:
    if vectors.shape != (rows, shelf.dim):
        raise EngineRejected(
            f"Vectors of shape {vectors.shape} do not fit a collection of {shelf.dim} dimensions.",
            next_step="Check the embedder; after a change of it run `ragline reindex NAMESPACE`.",
            engine=ENGINE,
        )
    if not np.isfinite(vectors).all():
        raise EngineRejected(
            "A vector holds NaN or an infinite number.", next_step="Check the embedder.", engine=ENGINE
        )


# ── scopes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _where(shelf: _Shelf, scope: Scope) -> str:
    readers = ", ".join(map(_quoted, [EVERYONE, *(f"group:{group}" for group in sorted(scope.groups))]))
    clauses = [f"array_has_any(readers, [{readers}])"]
    clauses += [_clause(shelf, condition) for condition in scope.conditions]
    return " AND ".join(clauses)


def _clause(shelf: _Shelf, condition: Condition) -> str:
    kind, column = shelf.fields[condition.field], shelf.columns[condition.field]
    if isinstance(condition, AnyOf):
        return f"array_has_any({column}, [{', '.join(_literal(one, kind) for one in condition.values)}])"
    bounds = [(">=", condition.gte), ("<=", condition.lte)]
    given = [(sign, bound) for sign, bound in bounds if bound is not None]
    if not given:
        return f"array_length({column}) > 0"
    each = (
        " AND ".join(f"{column}[{at}] {sign} {_bound(bound)}" for sign, bound in given)
        for at in range(1, MOST_VALUES + 1)
    )
    return "(" + " OR ".join(f"({one})" for one in each) + ")"


def _literal(value: Scalar, kind: FieldType) -> str:
    match kind:
        case FieldType.KEYWORD:
            return _quoted(str(value))
        case FieldType.BOOLEAN:
            return str(bool(value)).lower()
        case FieldType.NUMBER:
            return f"CAST({float(value)!r} AS DOUBLE)"
    return f"CAST({value} AS BIGINT)"


def _bound(value: int | float) -> str:
    return repr(value)


def _quoted(text: str) -> str:
    """As an SQL literal: of all characters only the quote means something in it."""
    return "'" + text.replace("'", "''") + "'"


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────

REINDEX = "Run `ragline reindex NAMESPACE`: it is made anew from the blobs."

TABLE: tuple[tuple[str, type[EngineError], str, str], ...] = (
    (r"connection is closed", EngineUnavailable, "The vector store is closed", "Send the request again."),
    (
        r"commit conflict|too many concurrent|concurrent (commit|update)|retryable",
        EngineUnavailable, "Another process wrote to the collection at the same time", "It is tried again.",
    ),
    (
        r"no space left|quota exceeded|storage full|os error (28|122)\b",
        EngineUnavailable, "The disk is full", "Make room on it.",
    ),
    (
        r"permission denied|read-only file system|os error (13|30)\b",
        EngineUnavailable, "The folder does not let itself be read or written", "Give Ragline's user the rights to it.",
    ),
    (
        r"not a directory|unable to create|failed to connect to namespace|unabletowalkdir",
        EngineUnavailable, "The folder cannot be used", "Correct the folder in `vectors`, or what stands in its place.",
    ),
    (r"timed? ?out", EngineTimeout, "It did not answer in time", "It is tried again."),
    (
        r"was not found|not found: .*/_versions|table .* does not exist",
        EngineRejected, "There is no vector collection {collection}", REINDEX,
    ),
    (
        r"not found: |corrupt|invalid (magic|range)|failed to (read|fill whole buffer)|unexpected eof|size is too small|protobuf",
        EngineRejected, "The vector collection {collection} is damaged", REINDEX,
    ),
    (
        r"no vector column found|dimension",
        EngineRejected, "A vector does not fit the collection {collection}", "Run `ragline reindex NAMESPACE`.",
    ),
    (
        r"schema error|invalid input|not supported|invalid user input",
        EngineRejected, "LanceDB refuses the call on {collection}",
        "This is a defect of the adapter: report it with the version of lancedb.",
    ),
)  # fmt: skip
"""What the words of an error say: LanceDB raises ValueError, RuntimeError and OSError for everything. The first row that fits."""


def failure(error: Exception, collection: str) -> EngineError:
    words = str(error)
    for pattern, kind, message, next_step in TABLE:
        if re.search(pattern, words, re.IGNORECASE):
            return kind(f"{message.format(collection=collection)}.", next_step=next_step, engine=ENGINE)
    return EngineError(
        f"LanceDB failed ({type(error).__name__}).", next_step="Look at the folder and its disk.", engine=ENGINE
    )


def _closed() -> EngineUnavailable:
    return EngineUnavailable("The vector store is closed.", next_step="Send the request again.", engine=ENGINE)


def _checked(collection: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,200}", collection):
        raise EngineRejected(
            f"{collection!r} cannot be the name of a table in LanceDB.", next_step="Use letters, digits, - and _.",
            engine=ENGINE,
        )  # fmt: skip
    return collection
