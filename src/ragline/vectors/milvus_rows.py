"""Chunks as rows of a Milvus collection and back, and scopes in the server's own language."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from pymilvus import DataType

from ragline.errors import EngineRejected
from ragline.protocols import Vectors
from ragline.surrogates import encodable
from ragline.types import AnyOf, Between, Chunk, Condition, FieldType, Groups, Hit, Metadata, Record, Scalar, Scope
from ragline.vectors.fitting import check
from ragline.vectors.milvus_errors import ENGINE

MOST_BYTES = 16 << 20
"""In one message; the server takes 64 MiB, and a row is larger there than here."""
MOST_TEXT_BYTES = 65_535
"""In one text: the server's own limit."""
MOST_VALUES = 8
"""Of one number field on one chunk: Milvus cannot ask for any value of a list in a range, so each place is asked for."""
MOST_READERS = 4_096
EVERYONE = "*"
PREFIX = "ragline_"

COLUMNS: Mapping[FieldType, DataType] = {
    FieldType.KEYWORD: DataType.VARCHAR, FieldType.INTEGER: DataType.INT64, FieldType.NUMBER: DataType.DOUBLE,
    FieldType.BOOLEAN: DataType.BOOL, FieldType.DATE: DataType.INT64,
}  # fmt: skip

STORED = ["chunk", "document", "content", "payload", "title"]


@dataclass(frozen=True, slots=True)
class Shelf:
    """A collection as it was made. `columns`: declared field → its column."""

    name: str
    dim: int
    fields: Mapping[str, FieldType]

    @property
    def columns(self) -> dict[str, str]:
        return {name: f"field_{number}" for number, name in enumerate(sorted(self.fields))}


def rows_of(shelf: Shelf, records: Sequence[Record], vectors: Vectors) -> list[dict[str, Any]]:
    """One a chunk, the last that was given."""
    check(vectors, count=len(records), dim=shelf.dim, engine=ENGINE)
    rows = {
        record.chunk.id: {
            "chunk": record.chunk.id, "document": encodable(record.chunk.document), "content": record.chunk.content,
            "payload": _payload(record), "title": json.dumps(record.title), "readers": readers_of(record.groups),
            **values_of(shelf, record.fields), "embedding": vector,
        }
        for record, vector in zip(records, vectors, strict=True)
    }  # fmt: skip
    return list(rows.values())


def parts_of(rows: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """As many at a time as a message takes."""
    sizes = np.cumsum([sum(map(_size, row.values())) for row in rows])
    numbered = zip((sizes // MOST_BYTES).tolist(), rows, strict=True)
    return ([row for _, row in part] for _, part in groupby(numbered, key=lambda one: one[0]))


def _size(value: Any) -> int:
    """Bytes of a value in a message, at most: a text and its length, a number in the longest way that there is to write one."""
    if isinstance(value, str):
        return len(value.encode()) + 5
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    return 5 + sum(map(_size, value)) if isinstance(value, Sequence) else 10


def _payload(record: Record) -> str:
    one = record.chunk
    payload = json.dumps(
        [one.ordinal, encodable(one.text), one.start, one.end, one.page, one.headings, record.uri], ensure_ascii=False
    )
    if len(payload.encode()) > MOST_TEXT_BYTES:
        raise EngineRejected(
            f"A chunk of {record.uri} takes {len(payload.encode()):,} bytes; Milvus holds {MOST_TEXT_BYTES:,} in a text.",
            next_step="Set a smaller chunk_tokens for the namespace, then `ragline reindex --reparse`.",
            engine=ENGINE,
        )
    return payload


def hit_of(row: Mapping[str, Any], score: float) -> Hit:
    ordinal, text, start, end, page, headings, uri = json.loads(row["payload"])
    chunk = Chunk(row["chunk"], row["document"], row["content"], ordinal, text, start, end, page, tuple(headings))
    return Hit(chunk, uri, json.loads(row["title"]), min(1.0, max(-1.0, score)), "cosine")


def readers_of(groups: Groups) -> list[str]:
    return [f"group:{encodable(group)}" for group in sorted(groups)] or [EVERYONE]


def values_of(shelf: Shelf, fields: Metadata) -> dict[str, list[Scalar]]:
    if unknown := fields.keys() - shelf.fields.keys():
        raise EngineRejected(
            f"The field {sorted(unknown)[0]!r} is not declared in this collection.",
            next_step="Run `ragline reindex NAMESPACE`: its fields were declared after it was made.",
            engine=ENGINE,
        )
    return {column: _held(name, fields.get(name, ()), shelf.fields[name]) for name, column in shelf.columns.items()}


def _held(name: str, value: Scalar | Sequence[Scalar], kind: FieldType) -> list[Scalar]:
    values = [value] if isinstance(value, str | int | float) else list(value)
    if kind is FieldType.KEYWORD:
        return [encodable(str(one)) for one in values]
    if len(values) > MOST_VALUES and kind is not FieldType.BOOLEAN:
        raise EngineRejected(
            f"The field {name!r} has {len(values)} values; Milvus can be asked for {MOST_VALUES}.",
            next_step=f"Give at most {MOST_VALUES} numbers or dates in one field, or choose another vector store.",
            engine=ENGINE,
        )
    return [float(one) for one in values] if kind is FieldType.NUMBER else values


# ── filters ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def where_of(shelf: Shelf, scope: Scope) -> str:
    readers = ", ".join(literal(word) for word in (EVERYONE, *(f"group:{group}" for group in sorted(scope.groups))))
    return " and ".join(
        [f"array_contains_any(readers, [{readers}])", *(_clause(shelf, one) for one in scope.conditions)]
    )


def _clause(shelf: Shelf, condition: Condition) -> str:
    column, kind = shelf.columns[condition.field], shelf.fields[condition.field]
    if isinstance(condition, AnyOf):
        wanted = [one for one in condition.values if not _is_least(one)]
        clauses = (
            [f"array_contains_any({column}, [{', '.join(_value(one, kind) for one in wanted)}])"] if wanted else []
        )
        if len(wanted) < len(condition.values):  # the server's language has no word for the least of the integers
            clauses += [_any_place(column, kind, Between(condition.field, None, LEAST + 1), but=str(LEAST + 1))]
        return f"({' or '.join(clauses)})"
    return _any_place(column, kind, condition)


def _any_place(column: str, kind: FieldType, bounds: Between, *, but: str = "") -> str:
    """Whether the value in any of the places lies within."""
    low, high = _bound(bounds.gte, kind, math.ceil), _bound(bounds.lte, kind, math.floor)

    def within(at: int) -> str:
        place = f"{column}[{at}]"  # beyond the end of the list, every comparison is false
        parts = [f"{place} >= {low}"] if low is not None else []
        parts += [f"{place} <= {high}"] if high is not None else []
        parts += [f"{place} != {but}"] if but else []
        return f"({' and '.join(parts)})" if parts else f"({place} >= 0 or {place} < 0)"

    return f"({' or '.join(within(at) for at in range(MOST_VALUES))})"


LEAST = -(2**63)


def _is_least(value: Scalar) -> bool:
    return not isinstance(value, str | bool) and value == LEAST


def _bound(value: float | None, kind: FieldType, whole: Callable[[float], int]) -> str | None:
    """As the server compares it with a column of `kind`: an integer with integers alone."""
    if value is None or math.isinf(value):
        return None
    return repr(float(value)) if kind is FieldType.NUMBER else str(max(whole(value), LEAST + 1))


def _value(value: Scalar, kind: FieldType) -> str:
    if kind is FieldType.KEYWORD:
        return literal(str(value))
    if kind is FieldType.BOOLEAN:
        return "true" if value else "false"
    return repr(float(value)) if kind is FieldType.NUMBER else repr(int(value))


def literal(text: str) -> str:
    """A literal of the server's language, in which a quotation mark or a backslash ends nothing."""
    return json.dumps(encodable(text), ensure_ascii=False)


def name_of(collection: str) -> str:
    """Milvus takes letters, digits and underscores."""
    return PREFIX + re.sub(r"[^a-zA-Z0-9]", lambda found: f"_{ord(found[0]):02x}", collection)


def collection_of(name: str) -> str:
    return re.sub(r"_([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), name.removeprefix(PREFIX))
