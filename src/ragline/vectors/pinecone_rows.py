"""A chunk as a record of Pinecone, and back; a scope as its filter.

Metadata are strings, numbers, booleans and lists of strings: nothing else, and no list of numbers. So every declared field has
a column of words that is asked for equality, exact to the last digit; numbers and dates have, for ranges, a column for each
of their values. Ids are ASCII: document, content and chunk, quoted, so that the ids of a document are found by their prefix.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from ragline.errors import EngineRejected
from ragline.protocols import Vectors
from ragline.surrogates import encodable
from ragline.types import AnyOf, Between, Chunk, Condition, FieldType, Groups, Hit, Metadata, Record, Scalar, Scope
from ragline.vectors import fitting

ENGINE = "vectors:pinecone"
Json = dict[str, Any]

MOST_ID = 512
MOST_METADATA_BYTES = 40_000
"""Of one record; Pinecone says 40 KB."""
MOST_ROWS = 1_000
MOST_BYTES = 1_900_000
"""Of one upsert; Pinecone says 2 MB, and what stands around the rows takes some of it."""
NUMBER_BYTES = 14
"""Of one component in JSON, at most: sign, digits before and after the point, comma."""
DECIMALS = 9
"""Of a component as it is sent: what 32 bits hold of a vector of unit length, in half of the bytes that all digits take."""
MOST_VALUES = 8
"""Of one number field on one chunk: each has a column of its own, and a range asks for all of them."""
MOST_TERMS = 10_000
"""In one `$in`."""
MARK = "!"
"""Id of the record that says how the collection was made. No document's id begins with it, and no search sees it."""
EVERYONE = "*"
NUMBERS = (FieldType.INTEGER, FieldType.NUMBER, FieldType.DATE)


@dataclass(frozen=True, slots=True)
class Shelf:
    """A collection as it was made. `made`: random, so that one made anew under an old name is another."""

    collection: str
    dim: int
    fields: Mapping[str, FieldType]
    made: str

    @property
    def columns(self) -> dict[str, str]:
        return {name: f"field_{number}" for number, name in enumerate(sorted(self.fields))}


def marked(shelf: Shelf) -> Json:
    told = {"dim": shelf.dim, "fields": {k: str(v) for k, v in shelf.fields.items()}, "made": shelf.made}
    return {"id": MARK, "values": [1.0] + [0.0] * (shelf.dim - 1), "metadata": {"collection": json.dumps(told)}}


def read_mark(collection: str, metadata: Mapping[str, Any]) -> Shelf:
    told = json.loads(metadata["collection"])
    return Shelf(collection, told["dim"], {k: FieldType(v) for k, v in told["fields"].items()}, told["made"])


def filterable(shelf: Shelf) -> list[str]:
    """The metadata that Pinecone indexes; texts are only carried."""
    return ["access", *(name for column, kind in _kinds(shelf) for name in (column, *_places(column, kind)))]


# ── ids ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def prefix(document: str) -> str:
    """Of the ids of all its chunks."""
    return f"{quote(encodable(document), safe='')}#"


def record_id(document: str, content: int, chunk: str) -> str:
    """Raises EngineRejected: too long."""
    name = f"{prefix(document)}{content}#{quote(encodable(chunk), safe='')}"
    if len(name) > MOST_ID:
        raise EngineRejected(
            f"The id of a chunk takes {len(name)} characters; Pinecone holds {MOST_ID}.",
            next_step="This is a defect of Ragline: report it with the log.",
            engine=ENGINE,
        )
    return name


def read_id(name: str) -> tuple[str, int, str]:
    """Document, content, chunk."""
    document, content, chunk = name.split("#")
    return unquote(document), int(content), unquote(chunk)


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def rows(shelf: Shelf, records: Sequence[Record], vectors: Vectors) -> list[Json]:
    """One a chunk, the last that was given. Raises EngineRejected: what does not fit."""
    check(shelf, vectors, len(records))
    found = {
        record_id(one.chunk.document, one.chunk.content, one.chunk.id): (one, values)
        for one, values in zip(records, sent(vectors), strict=True)
    }
    return [_row(name, one, values, shelf) for name, (one, values) in found.items()]


def _row(name: str, record: Record, values: list[float], shelf: Shelf) -> Json:
    one = record.chunk
    place = [one.document, one.content, one.id, one.ordinal, one.start, one.end, one.page, one.headings, record.uri]
    metadata = {
        "text": encodable(one.text), "place": json.dumps(place),
        **payload(shelf, record.title, record.groups, record.fields),
    }  # fmt: skip
    return {"id": name, "values": values, "metadata": metadata}


def payload(shelf: Shelf, title: str, groups: Groups, fields: Metadata) -> Json:
    """What `update_payload` replaces, but for columns that have no value any more: see `bare`."""
    if unknown := fields.keys() - shelf.fields.keys():
        raise EngineRejected(
            f"The field {sorted(unknown)[0]!r} is not declared in this collection.",
            next_step="Run `ragline reindex NAMESPACE`: its fields were declared after it was made.",
            engine=ENGINE,
        )
    found: Json = {"title": json.dumps(title), "access": [_group(one) for one in sorted(groups)] or [EVERYONE]}
    columns = shelf.columns
    for name, value in fields.items():
        found |= _held(name, columns[name], value, shelf.fields[name])
    return found


def bare(metadata: Mapping[str, Any]) -> Json:
    return {name: metadata[name] for name in ("text", "place")}


def hits(found: Sequence[tuple[Mapping[str, Any], float]]) -> list[Hit]:
    """All of them read as one JSON, which is half the work of one by one."""
    told = json.loads(f"[{','.join(part for row, _ in found for part in (row['place'], row['title']))}]")
    return [
        _hit(place, title, row["text"], score)
        for place, title, (row, score) in zip(told[::2], told[1::2], found, strict=True)
    ]


def _hit(place: list[Any], title: str, text: str, score: float) -> Hit:
    document, content, chunk, ordinal, start, end, page, headings, uri = place
    found = Chunk(chunk, document, content, ordinal, text, start, end, page, tuple(headings))
    return Hit(found, uri, title, score, "cosine")


def parts(found: Sequence[Json], dim: int) -> Iterator[list[Json]]:
    """As many at a time as a request takes. Raises EngineRejected: a record is over the limit of its metadata."""
    sizes = [len(json.dumps(row["metadata"], ensure_ascii=False).encode()) for row in found]
    for size, row in zip(sizes, found, strict=True):
        if size > MOST_METADATA_BYTES:
            uri = json.loads(row["metadata"]["place"])[-1]
            raise EngineRejected(
                f"A chunk of {uri} takes {size:,} bytes with its groups and fields; Pinecone holds "
                f"{MOST_METADATA_BYTES:,} beside a vector.",
                next_step="Set a smaller chunk_tokens for the namespace, then `ragline reindex --reparse`; or give the "
                "document fewer groups and values.",
                engine=ENGINE,
            )
    whole = [size + NUMBER_BYTES * dim + len(row["id"]) + 64 for size, row in zip(sizes, found, strict=True)]
    part: list[Json] = []
    taken = 0
    for size, row in zip(whole, found, strict=True):
        if part and (len(part) == MOST_ROWS or taken + size > MOST_BYTES):
            yield part
            part, taken = [], 0
        part.append(row)
        taken += size
    if part:
        yield part


def sent(vectors: Vectors) -> Any:
    """As nested lists, rounded."""
    return np.round(vectors.astype(np.float64), DECIMALS).tolist()


def check(shelf: Shelf, vectors: Vectors, count: int) -> None:
    """Raises EngineRejected: not `count` vectors of the collection's dimension, or one that is no number, or zero."""
    fitting.check(vectors, count=count, dim=shelf.dim, engine=ENGINE)
    if not vectors.any(axis=-1).all():
        raise EngineRejected(
            "A vector is zero: it points nowhere.",
            next_step="Look at the embedder: it must give vectors of unit length.",
            engine=ENGINE,
        )


def _kinds(shelf: Shelf) -> list[tuple[str, FieldType]]:
    return [(column, shelf.fields[name]) for name, column in shelf.columns.items()]


def _places(column: str, kind: FieldType) -> list[str]:
    return [f"{column}_{at}" for at in range(MOST_VALUES)] if kind in NUMBERS else []


def _held(name: str, column: str, value: Scalar | Sequence[Scalar], kind: FieldType) -> Json:
    values = [value] if isinstance(value, str | int | float) else list(value)
    if kind in NUMBERS and len(values) > MOST_VALUES:
        raise EngineRejected(
            f"The field {name!r} has {len(values)} values; Pinecone can be asked for {MOST_VALUES}.",
            next_step=f"Give at most {MOST_VALUES} numbers or dates in one field, or choose another vector store.",
            engine=ENGINE,
        )
    places = dict(zip(_places(column, kind), map(float, values), strict=False)) if kind in NUMBERS else {}
    return {column: [_word(one, kind) for one in values], **places} if values else {}


def _word(value: Scalar, kind: FieldType) -> str:
    """Never empty, and equal just where the values are."""
    if kind is FieldType.KEYWORD:
        return f"={encodable(str(value))}"
    if kind is FieldType.BOOLEAN:
        return "true" if value else "false"
    return repr(float(value) + 0.0) if kind is FieldType.NUMBER else repr(int(value))


def _group(group: str) -> str:
    return f"group:{encodable(group)}"


# ── filters ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def where(shelf: Shelf, scope: Scope) -> Json:
    readers = [EVERYONE, *(_group(one) for one in sorted(scope.groups))]
    return {"$and": [_any("access", readers), *(_clause(shelf, one) for one in scope.conditions)]}


def _any(column: str, words: list[str]) -> Json:
    if len(words) > MOST_TERMS:
        raise EngineRejected(
            f"A filter asks for {len(words):,} words; Pinecone takes {MOST_TERMS:,}.",
            next_step="Put the caller into fewer groups.",
            engine=ENGINE,
        )
    return {column: {"$in": words}}


def _clause(shelf: Shelf, condition: Condition) -> Json:
    if condition.field not in shelf.fields:
        raise EngineRejected(
            f"The field {condition.field!r} is not declared in this collection.",
            next_step="Run `ragline reindex NAMESPACE`: its fields were declared after it was made.",
            engine=ENGINE,
        )
    column, kind = shelf.columns[condition.field], shelf.fields[condition.field]
    if isinstance(condition, AnyOf):
        return _any(column, [_word(one, kind) for one in condition.values])
    ends = _ends(condition, kind)
    if not ends:
        return {column: {"$exists": True}}
    within = [[{place: end} for end in ends] for place in _places(column, kind)]
    return {"$or": [{"$and": both} if len(both) > 1 else both[0] for both in within]}


def _ends(bounds: Between, kind: FieldType) -> list[Json]:
    """Pinecone compares 64-bit floats: beyond 2**53 the ends of a range of integers are met to within their rounding."""
    whole = kind is not FieldType.NUMBER
    low, high = bounds.gte, bounds.lte
    found: list[Json] = []
    if low is not None and not math.isinf(low):
        found.append({"$gte": float(math.ceil(low) if whole else low)})
    if high is not None and not math.isinf(high):
        found.append({"$lte": float(math.floor(high) if whole else high)})
    return found
