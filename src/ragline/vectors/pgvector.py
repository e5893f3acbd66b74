"""Vectors in PostgreSQL, by the extension pgvector: for those who run PostgreSQL anyway (docs/engines/postgresql.md).

A table a collection, with an HNSW index. A scope that many chunks are in is searched through the index, which goes on until
enough have passed (`hnsw.iterative_scan`); one that few are in is scanned, exactly: the index would walk through all the others.
Which of the two is for us to say: the planner does not know how many chunks a scope holds, guesses a hundredth, and would read
and sort them all instead of the index, a hundred times as slow.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import numpy as np
import structlog
from numpy.typing import NDArray
from pgvector import HalfVector, Vector
from pgvector.asyncpg import register_vector
from sqlalchemy import URL, make_url

from ragline.connections.postgresql import check_version, failure, settings_of
from ragline.errors import ConfigurationError, EngineError, EngineRejected, EngineUnavailable
from ragline.protocols import Vectors
from ragline.types import AnyOf, Chunk, Condition, FieldType, Groups, Hit, Metadata, Record, Scalar, Scope
from ragline.vectors.fitting import check

log = structlog.get_logger()
ENGINE = "vectors:pgvector"

OLDEST = (0, 8)
"""Of the extension: before it, a search stopped when its first `ef_search` candidates were filtered away."""

RARE = 5_000
"""A scope of at most so many chunks is scanned: some 5 ms, and exact."""

COMMON_S = 60.0
"""For so long a scope that held more than `RARE` chunks is not counted again. If it has become rare meanwhile, the index finds
too few, late, and it is scanned."""

MOST_ROWS = 500
"""In one call: the limit of time of a statement is one for all of them, and an index takes some milliseconds a row."""

MOST_COMMON = 1_000
"""Scopes that are remembered."""

TIED = 4
"""Fetched beyond `top_k`, so that equal scores can be put in order; eight times as many where that is not the end of them. Where
that is not the end either, the server puts the whole scope in order: it compares every chunk in it, and sends `top_k`."""

MOST_SCANNED = 100_000
"""Chunks that one search through the index visits; what is rarer than that among them is scanned anyway."""

RANDOM_PAGE_COST = "1.1"
"""As solid disks and memory have it. With the server's 4, which is a turning disk's, small tables are sorted, not searched."""

CONNECTIONS = 10

CLOSE_S = 5.0
"""For the calls that are under way, and for a server that does not answer, when the store is closed."""

RELEASE_S = 1.0
"""For a connection to come to rest, as the call that was cancelled may still be running on it; then it is cut instead."""

EVERYONE = "*"

MOST_DIM = {"vector": 2_000, "halfvec": 4_000}
"""What an HNSW index takes of each type."""

COLUMNS: Mapping[FieldType, str] = {
    FieldType.KEYWORD: "text[]", FieldType.INTEGER: "bigint[]", FieldType.NUMBER: "double precision[]",
    FieldType.BOOLEAN: "boolean[]", FieldType.DATE: "bigint[]",
}  # fmt: skip

WORDS = {"m": 16, "ef_construction": 64, "ef_search": 100}
"""Of the HNSW index, as pgvector calls them, and what they are when the URL does not say."""

SHELVES = """
CREATE TABLE IF NOT EXISTS ragline_vectors (
    collection text PRIMARY KEY, number bigint GENERATED ALWAYS AS IDENTITY, dim integer NOT NULL, type text NOT NULL,
    fields text NOT NULL
)"""


@dataclass(frozen=True, slots=True)
class _Shelf:
    """Where a collection lies. `columns`: declared field → its column."""

    table: str
    dim: int
    type: str
    fields: Mapping[str, FieldType]

    @property
    def columns(self) -> dict[str, str]:
        return {name: f"field_{number}" for number, name in enumerate(sorted(self.fields))}


class PgvectorVectorStore:
    """`url`: as for the registry, and ``m``, ``ef_construction``, ``ef_search``, ``type`` (vector, halfvec) among its words."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        words = {name: str(value) for name, value in parsed.query.items()}
        try:
            self._hnsw = {name: int(words.pop(name, default)) for name, default in WORDS.items()}
        except ValueError as error:
            raise ConfigurationError(
                f"vectors: {', '.join(WORDS)} are whole numbers ({error}).", next_step="Correct the URL."
            ) from error
        self._type = words.pop("type", "vector")
        if self._type not in MOST_DIM:
            raise ConfigurationError(
                f"vectors: type={self._type} is not known.", next_step=f"Use one of {', '.join(MOST_DIM)}."
            )
        self._url = parsed.set(drivername="postgresql", query=words)
        self._settings = settings_of(self._url)
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()
        self._shelves: dict[str, _Shelf] = {}
        self._common: dict[tuple[str, ...], float] = {}
        """Table and scope → until when it counts as common."""
        self._closed = False

    async def create(self, collection: str, *, dim: int, fields: Mapping[str, FieldType]) -> None:
        if dim > MOST_DIM[self._type]:
            raise EngineRejected(
                f"pgvector indexes at most {MOST_DIM[self._type]} dimensions of type {self._type}; the embedder has {dim}.",
                next_step="Add type=halfvec to the URL, or set a smaller embedder.dim.",
                engine=ENGINE,
            )
        async with self._connection() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(7263746901)")  # one makes it, the others find it
            kinds = json.dumps({name: str(kind) for name, kind in fields.items()})
            await connection.execute(
                "INSERT INTO ragline_vectors (collection, dim, type, fields) VALUES ($1, $2, $3, $4) "
                "ON CONFLICT DO NOTHING",
                collection, dim, self._type, kinds,
            )  # fmt: skip
            shelf = await self._found(connection, collection)
            if shelf.dim != dim:
                raise EngineRejected(
                    f"The vector collection {collection} exists with {shelf.dim} dimensions, not {dim}.",
                    next_step="Run `ragline reindex NAMESPACE`.",
                    engine=ENGINE,
                )
            await connection.execute(self._definition(shelf))
        self._shelves[collection] = shelf

    def _definition(self, shelf: _Shelf) -> str:
        names = shelf.columns
        fields = "".join(f", {names[name]} {COLUMNS[kind]}" for name, kind in sorted(shelf.fields.items()))
        table, hnsw = shelf.table, self._hnsw
        indexed = [name for name, kind in shelf.fields.items() if kind is FieldType.KEYWORD]
        return f"""
            CREATE TABLE IF NOT EXISTS {table} (
                chunk text COLLATE "C" PRIMARY KEY, document text NOT NULL, content bigint NOT NULL, payload text NOT NULL,
                title text NOT NULL, readers text[] NOT NULL, embedding {shelf.type}({shelf.dim}) NOT NULL{fields}
            );
            CREATE INDEX IF NOT EXISTS {table}_document ON {table} (document, content);
            CREATE INDEX IF NOT EXISTS {table}_readers ON {table} USING gin (readers);
            CREATE INDEX IF NOT EXISTS {table}_embedding ON {table} USING hnsw (embedding {shelf.type}_cosine_ops)
                WITH (m = {hnsw["m"]}, ef_construction = {hnsw["ef_construction"]});
            """ + "".join(
            f"CREATE INDEX IF NOT EXISTS {table}_{names[name]} ON {table} USING gin ({names[name]});"
            for name in indexed
        )

    async def drop(self, collection: str) -> None:
        async with self._connection() as connection, connection.transaction():
            row = await connection.fetchrow(
                "DELETE FROM ragline_vectors WHERE collection = $1 RETURNING number", collection
            )
            if row is not None:
                await connection.execute(f"DROP TABLE IF EXISTS {_table(row['number'])}")
        self._shelves.pop(collection, None)

    async def collections(self) -> list[str]:
        async with self._connection() as connection:
            return [row[0] for row in await connection.fetch("SELECT collection FROM ragline_vectors ORDER BY 1")]

    async def upsert(self, collection: str, records: Sequence[Record], vectors: Vectors) -> None:
        if not records:
            return
        async with self._on(collection) as (connection, shelf):
            rows = await asyncio.to_thread(_rows, shelf, records, vectors)
            for start in range(0, len(rows), MOST_ROWS):
                async with connection.transaction():
                    await connection.executemany(_upsert(shelf), rows[start : start + MOST_ROWS])

    async def update_payload(
        self, collection: str, document: str, *, title: str, groups: Groups, fields: Metadata
    ) -> None:
        async with self._on(collection) as (connection, shelf):
            values = [json.dumps(title), _readers(groups), *_values(shelf, fields)]
            names = ["title", "readers", *shelf.columns.values()]
            sets = ", ".join(f"{name} = ${at}" for at, name in enumerate(names, start=2))
            await connection.execute(f"UPDATE {shelf.table} SET {sets} WHERE document = $1", _clean(document), *values)

    async def delete(self, collection: str, below: Mapping[str, int]) -> None:
        async with self._on(collection) as (connection, shelf):
            await connection.execute(
                f"DELETE FROM {shelf.table} held USING unnest($1::text[], $2::bigint[]) AS gone (document, content) "
                "WHERE held.document = gone.document AND held.content < gone.content",
                list(map(_clean, below)), list(below.values()),
            )  # fmt: skip

    async def search(self, collection: str, vector: NDArray[np.float32], *, top_k: int, scope: Scope) -> list[Hit]:
        async with self._on(collection) as (connection, shelf):
            check(vector[None, :], count=1, dim=shelf.dim, engine=ENGINE)
            where, values = _where(shelf, scope)
            asked, common = _Vector(shelf, vector).value, await self._is_common(connection, shelf, where, values)
            indexed, scanned = (query.format(table=shelf.table, where=where) for query in (_INDEXED, _SCANNED))
            found = await self._nearest(connection, indexed, scanned, [*values, asked], top_k=top_k, common=common)
            if found is None:  # more of them have one score than can be fetched
                exact = _EXACT.format(table=shelf.table, where=where)
                found = await connection.fetch(exact, *values, asked, top_k)
        return _hits(found, top_k)

    async def search_exactly(
        self, collection: str, vector: NDArray[np.float32], *, top_k: int, scope: Scope
    ) -> list[Hit]:
        async with self._on(collection) as (connection, shelf):
            where, values = _where(shelf, scope)
            exact = _EXACT.format(table=shelf.table, where=where)
            found = await connection.fetch(exact, *values, _Vector(shelf, vector).value, top_k)
        return _hits(found, top_k)

    async def _nearest(
        self, connection: asyncpg.Connection, indexed: str, scanned: str, given: list[Any], *, top_k: int, common: bool
    ) -> list[asyncpg.Record] | None:
        """The `top_k` nearest and all that have the score of the last of them; None: those are too many."""
        wanted, most = top_k + TIED, 8 * (top_k + TIED)
        while True:
            found: list[asyncpg.Record] = await connection.fetch(indexed if common else scanned, *given, wanted)
            if common and len(found) < wanted:
                common = False  # it has become rare, or lies far from the query: the index gave up on it
                continue
            if not common or len(found) < wanted or found[-1]["distance"] > found[top_k - 1]["distance"]:
                return found  # a scan is in order to the end
            if wanted == most:
                return None
            wanted = most

    async def _is_common(self, connection: asyncpg.Connection, shelf: _Shelf, where: str, values: list[str]) -> bool:
        """Whether the scope holds more than `RARE` chunks, or did lately."""
        scope = (shelf.table, where, *values)
        if self._common.get(scope, 0.0) > time.monotonic():
            return True
        self._common.pop(scope, None)
        count = await connection.fetchval(_IS_RARE.format(table=shelf.table, where=where), *values, RARE + 1)
        if count <= RARE:
            return False
        if len(self._common) >= MOST_COMMON:
            self._common.clear()
        self._common[scope] = time.monotonic() + COMMON_S
        return True

    async def contents(self, collection: str) -> dict[tuple[str, int], int]:
        async with self._on(collection) as (connection, shelf):
            rows = await connection.fetch(f"SELECT document, content, count(*) FROM {shelf.table} GROUP BY 1, 2")
        return {(document, content): count for document, content, count in rows}

    async def aclose(self) -> None:
        self._closed = True
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                async with asyncio.timeout(CLOSE_S):
                    await pool.close()
            except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                log.info("connections were cut", engine=ENGINE, error=type(error).__name__)
                pool.terminate()

    # ── connections ──────────────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def _on(self, collection: str) -> AsyncIterator[tuple[asyncpg.Connection, _Shelf]]:
        """A connection, and where the collection lies. Raises EngineRejected: there is none of that name."""
        async with self._connection() as connection:
            shelf = self._shelves.get(collection)
            if shelf is None:
                shelf = self._shelves[collection] = await self._found(connection, collection)
            try:
                yield connection, shelf
            except asyncpg.UndefinedTableError as error:
                self._shelves.pop(collection, None)
                raise _unknown(collection) from error

    async def _found(self, connection: asyncpg.Connection, collection: str) -> _Shelf:
        row = await connection.fetchrow("SELECT * FROM ragline_vectors WHERE collection = $1", collection)
        if row is None:
            raise _unknown(collection)
        fields = {name: FieldType(kind) for name, kind in json.loads(row["fields"]).items()}
        return _Shelf(_table(row["number"]), row["dim"], row["type"], fields)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        with _translated():
            pool = await self._opened()
            connection = await pool.acquire()
            try:
                yield connection
            finally:
                await _released(pool, connection)

    async def _opened(self) -> asyncpg.Pool:
        async with self._opening:
            if self._closed:
                raise EngineUnavailable(
                    "The vector store is closed.", next_step="Send the request again.", engine=ENGINE
                )
            if self._pool is None:
                await self._prepare()
                # As of the connection's start: the pool resets whatever is set later.
                scan = {
                    "hnsw.iterative_scan": "strict_order", "hnsw.ef_search": str(self._hnsw["ef_search"]),
                    "hnsw.max_scan_tuples": str(MOST_SCANNED), "random_page_cost": RANDOM_PAGE_COST,
                }  # fmt: skip
                self._pool = await asyncpg.create_pool(
                    _dsn(self._url), min_size=0, max_size=CONNECTIONS, init=register_vector, reset=_as_it_is,
                    **{**self._settings, "server_settings": self._settings["server_settings"] | scan},
                )  # fmt: skip
            return self._pool

    async def _prepare(self) -> None:
        """The extension and the table of collections, once a process."""
        connection = await asyncpg.connect(_dsn(self._url), **self._settings)
        try:
            check_version(str(await connection.fetchval("SHOW server_version")))
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock(7263746901)")
                await connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
                version = str(await connection.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'vector'"))
                check_extension(version)
                await connection.execute(SHELVES)
        finally:
            await connection.close()


_IS_RARE = "SELECT count(*) FROM (SELECT 1 FROM {table} WHERE {where} LIMIT $2) AS first"

_SELECT = "SELECT chunk, content, payload, title, embedding <=> $2 AS distance FROM"
_INDEXED = _SELECT + " {table} WHERE CASE WHEN {where} THEN true ELSE false END ORDER BY embedding <=> $2 LIMIT $3"
"""Within CASE no other index than that of the vectors can serve, and the planner expects half of the table to pass."""
_SCANNED = (
    "WITH scoped AS MATERIALIZED (SELECT * FROM {table} WHERE {where}) "
    + _SELECT
    + " scoped ORDER BY embedding <=> $2, chunk LIMIT $3"
)
_EXACT = _SELECT + " {table} WHERE {where} ORDER BY (embedding <=> $2) + 0, chunk LIMIT $3"
"""No index has the order of a sum: all are compared, and the best are kept while they are."""


async def _as_it_is(connection: asyncpg.Connection) -> None:
    """Between two calls nothing needs to be reset, which would cost each of them a turn to the server: none sets anything that
    outlives its transaction, and what a cancelled one leaves open the driver rolls back."""


async def _released(pool: asyncpg.Pool, connection: Any) -> None:
    """What was done on the connection stands, however its end goes: one that does not come to rest is cut, and made anew."""
    try:
        await pool.release(connection, timeout=RELEASE_S)
    except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        log.info("a connection was cut", engine=ENGINE, error=type(error).__name__)


class _Vector:
    """As the driver takes it for the type of the column."""

    def __init__(self, shelf: _Shelf, vector: NDArray[np.float32]) -> None:
        self.value = HalfVector(vector) if shelf.type == "halfvec" else Vector(vector)


def check_extension(version: str) -> None:
    """Raises EngineRejected: too old."""
    if tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < OLDEST:
        raise EngineRejected(
            f"The extension pgvector is {version}; the oldest that is supported is {'.'.join(map(str, OLDEST))}.",
            next_step="Install a newer one, then run ALTER EXTENSION vector UPDATE.",
            engine=ENGINE,
        )


def _rows(shelf: _Shelf, records: Sequence[Record], vectors: Vectors) -> list[tuple[Any, ...]]:
    """One a chunk, the last that was given; in the order of ids, so that two writers of the same wait and do not deadlock."""
    check(vectors, count=len(records), dim=shelf.dim, engine=ENGINE)
    rows = {
        record.chunk.id: (
            record.chunk.id, _clean(record.chunk.document), record.chunk.content, _payload(record),
            json.dumps(record.title), _readers(record.groups), _Vector(shelf, vector).value,
            *_values(shelf, record.fields),
        )
        for record, vector in zip(records, vectors, strict=True)
    }  # fmt: skip
    return [rows[id] for id in sorted(rows)]


def _upsert(shelf: _Shelf) -> str:
    names = ["chunk", "document", "content", "payload", "title", "readers", "embedding", *shelf.columns.values()]
    marks = ", ".join(f"${at}" for at in range(1, len(names) + 1))
    sets = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
    return f"INSERT INTO {shelf.table} ({', '.join(names)}) VALUES ({marks}) ON CONFLICT (chunk) DO UPDATE SET {sets}"


def _payload(record: Record) -> str:
    """JSON, in ASCII: PostgreSQL's own texts hold no NUL."""
    one = record.chunk
    return json.dumps([one.document, one.ordinal, one.text, one.start, one.end, one.page, one.headings, record.uri])


def _hits(rows: Sequence[asyncpg.Record], top_k: int) -> list[Hit]:
    placed = sorted((-min(1.0, max(-1.0, 1.0 - row["distance"])), row["chunk"], at) for at, row in enumerate(rows))[
        :top_k
    ]
    best = [rows[at] for _, _, at in placed]
    texts = json.loads(f"[{','.join([row[name] for row in best for name in ('payload', 'title')])}]")  # each is JSON
    return [
        _hit(less, row, payload, title)
        for (less, _, _), row, payload, title in zip(placed, best, texts[::2], texts[1::2], strict=True)
    ]


def _hit(less: float, row: asyncpg.Record, payload: Sequence[Any], title: str) -> Hit:
    document, ordinal, text, start, end, page, headings, uri = payload
    id, content, _, _, _ = row
    chunk = Chunk(id, document, content, ordinal, text, start, end, page, tuple(headings))
    return Hit(chunk, uri, title, -less, "cosine")


def _readers(groups: Groups) -> list[str]:
    return [f"group:{_clean(group)}" for group in sorted(groups)] or [EVERYONE]


def _values(shelf: _Shelf, fields: Metadata) -> list[list[Scalar] | None]:
    if unknown := fields.keys() - shelf.fields.keys():
        raise EngineRejected(
            f"The field {sorted(unknown)[0]!r} is not declared in this collection.",
            next_step="Run `ragline reindex NAMESPACE`: its fields were declared after it was made.",
            engine=ENGINE,
        )
    return [_held(fields[name], shelf.fields[name]) if name in fields else None for name in shelf.columns]


def _held(value: Scalar | Sequence[Scalar], kind: FieldType) -> list[Scalar]:
    values = [value] if isinstance(value, str | int | float) else list(value)
    if kind is FieldType.KEYWORD:
        return [_clean(str(one)) for one in values]
    return [float(one) for one in values] if kind is FieldType.NUMBER else values


def _clean(text: str) -> str:
    """PostgreSQL's texts hold no NUL, and UTF-8 no half of a character."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _where(shelf: _Shelf, scope: Scope) -> tuple[str, list[str]]:
    """The scope as SQL over one parameter, $1: a JSON list of what it compares with, so that no value becomes SQL."""
    values: list[Any] = [[EVERYONE, *(f"group:{_clean(group)}" for group in sorted(scope.groups))]]
    clauses = [f"readers && {_from(0, 'text[]')}"]
    for condition in scope.conditions:
        clauses.append(_clause(shelf, condition, values))
    return " AND ".join(clauses), [json.dumps(values)]


def _clause(shelf: _Shelf, condition: Condition, values: list[Any]) -> str:
    kind, column = shelf.fields[condition.field], shelf.columns[condition.field]
    if isinstance(condition, AnyOf):
        values.append(_held(condition.values, kind))
        return f"{column} && {_from(len(values) - 1, COLUMNS[kind])}"
    bounds = []
    for sign, bound in ((">=", condition.gte), ("<=", condition.lte)):
        if bound is not None:
            values.append([bound])
            bounds.append(f"value {sign} ({_from(len(values) - 1, 'numeric[]')})[1]")
    within = " AND ".join(bounds) or "true"
    return f"EXISTS (SELECT 1 FROM unnest({column}) AS value WHERE {within})"


def _from(at: int, type: str) -> str:
    return f"(SELECT array_agg(one.value) FROM jsonb_array_elements_text($1::jsonb -> {at}) AS one)::{type}"


def _table(number: int) -> str:
    return f"ragline_vectors_{number}"


def _dsn(url: URL) -> str:
    return url.set(query={}).render_as_string(hide_password=False)


def _unknown(collection: str) -> EngineRejected:
    return EngineRejected(
        f"There is no vector collection {collection}.",
        next_step="Run `ragline reindex NAMESPACE`: it is made anew from the blobs.",
        engine=ENGINE,
    )


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except EngineError:
        raise
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise failure(error, engine=ENGINE) from error
