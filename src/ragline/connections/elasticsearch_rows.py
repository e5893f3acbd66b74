"""A chunk as one document of Elasticsearch, and back; a scope as its filter.

Columns to find it by (`chunk`, `document`, `content`, `access`, the declared fields), and beside them, in the source
alone, what a hit shows. Declared fields may be called anything, so their columns are numbered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ragline.types import AnyOf, Chunk, Condition, FieldType, Groups, Hit, Metadata, Record, Scalar, Scope

EVERYONE, RESTRICTED = "everyone", "restricted"
"""Words in `access`: every chunk has one of them, a restricted one also those of its groups."""

Json = dict[str, Any]

_COLUMN_TYPES: Mapping[FieldType, Json] = {
    FieldType.KEYWORD: {"type": "keyword", "doc_values": False},
    FieldType.INTEGER: {"type": "long"},
    FieldType.NUMBER: {"type": "double"},
    FieldType.BOOLEAN: {"type": "boolean"},
    FieldType.DATE: {"type": "long"},
}


def columns(fields: Mapping[str, FieldType]) -> dict[str, str]:
    return {name: f"field_{number}" for number, name in enumerate(sorted(fields))}


def properties(fields: Mapping[str, FieldType]) -> Json:
    """The mapping of what both rooms hold."""
    names = columns(fields)
    return {
        "chunk": {"type": "keyword"},
        "document": {"type": "keyword"},
        "content": {"type": "long"},
        "access": {"type": "keyword", "doc_values": False},
        **{column: dict(_COLUMN_TYPES[fields[name]]) for name, column in names.items()},
    }


def row(record: Record, names: Mapping[str, str]) -> Json:
    """Without what its room adds, and without its text."""
    chunk = record.chunk
    return {
        "chunk": chunk.id,
        "document": chunk.document,
        "content": chunk.content,
        "place": [chunk.ordinal, chunk.start, chunk.end, chunk.page],
        "headings": chunk.headings,
        "uri": record.uri,
        **payload(record.title, record.groups, record.fields, names),
    }


def payload(title: str, groups: Groups, fields: Metadata, names: Mapping[str, str]) -> Json:
    """What `update_payload` replaces: every column, so that one which has no value any more is emptied."""
    return {
        "title": title,
        "access": [RESTRICTED, *(_group(one) for one in sorted(groups))] if groups else [EVERYONE],
        **{column: fields.get(name) for name, column in names.items()},
    }


def hit(source: Json, text: str, score: float, scale: str) -> Hit:
    ordinal, start, end, page = source["place"]
    headings = tuple(source["headings"])
    chunk = Chunk(source["chunk"], source["document"], source["content"], ordinal, text, start, end, page, headings)
    return Hit(chunk, source["uri"], source["title"], score, scale)


def filters(scope: Scope, names: Mapping[str, str]) -> list[Json]:
    """All must hold. Raises KeyError: a field that the index was not built with."""
    seen = [EVERYONE, *(_group(one) for one in sorted(scope.groups))]
    return [{"terms": {"access": seen}}, *(_condition(one, names[one.field]) for one in scope.conditions)]


def of_document(document: str) -> Json:
    return {"term": {"document": document}}


def below(contents: Sequence[tuple[str, int]]) -> Json:
    """For each (document, content): the document's chunks whose content is smaller."""
    each = [{"bool": {"filter": [of_document(d), {"range": {"content": {"lt": content}}}]}} for d, content in contents]
    return {"bool": {"should": each, "minimum_should_match": 1}}


def _condition(condition: Condition, column: str) -> Json:
    if isinstance(condition, AnyOf):
        values: list[Scalar] = list(condition.values)
        return {"terms": {column: values}}
    ends = {"gte": condition.gte, "lte": condition.lte}
    bounds = {end: bound for end, bound in ends.items() if bound is not None}
    return {"range": {column: bounds}} if bounds else {"exists": {"field": column}}


def _group(group: str) -> str:
    return f"group:{group}"
