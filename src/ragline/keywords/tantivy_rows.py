"""A chunk as one Tantivy document, and back.

Terms to find it by (chunk, document, book, access, the declared fields), the words that BM25 reads, and one stored
value, `payload`, with all that a hit shows and all that rewriting the chunk takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

import tantivy

from ragline.keywords.folding import fold
from ragline.types import Chunk, FieldType, Groups, Hit, Metadata, Record, Scalar

EVERYONE, RESTRICTED = "everyone", "restricted"
"""Terms in `access`: every chunk has one of them, a restricted one also those of its groups."""


class Stored(NamedTuple):
    """The payload. `leads`: the indexed words are ``lead + text``; else they are `lead` alone."""

    text: str
    id: str
    document: str
    content: int
    ordinal: int
    start: int
    end: int
    page: int | None
    headings: list[str]
    uri: str
    title: str
    lead: str
    leads: bool

    @property
    def words(self) -> str:
        return self.lead + self.text if self.leads else self.lead


def schema(fields: Mapping[str, FieldType]) -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    for name in ("chunk", "document", "book", "access"):
        builder.add_text_field(name, tokenizer_name="raw", index_option="basic")
    builder.add_text_field("words", tokenizer_name="words", index_option="freq")
    builder.add_bytes_field("payload", stored=True)
    builder.add_integer_field("content", indexed=True, fast=True)
    for name, column in columns(fields).items():
        match fields[name]:
            case FieldType.KEYWORD:
                builder.add_text_field(column, tokenizer_name="raw", index_option="basic")
            case FieldType.INTEGER | FieldType.DATE:
                builder.add_integer_field(column, indexed=True, fast=True)
            case FieldType.NUMBER:
                builder.add_float_field(column, indexed=True, fast=True)
            case FieldType.BOOLEAN:
                builder.add_boolean_field(column, indexed=True)
    return builder.build()


def columns(fields: Mapping[str, FieldType]) -> dict[str, str]:
    """Tantivy's names for the declared fields, which may be called anything."""
    return {name: f"field_{number}" for number, name in enumerate(sorted(fields))}


def row(
    stored: Stored, words: str, groups: Groups, fields: Metadata, kinds: Mapping[str, FieldType]
) -> tantivy.Document:
    """`words` is the text to index; `kinds` are the declared fields. Raises ValueError on a field that is not."""
    built = tantivy.Document()
    built.add_text("chunk", stored.id)
    built.add_text("document", stored.document)
    built.add_text("book", f"{stored.content}:{stored.document}")
    built.add_integer("content", stored.content)
    built.add_text("words", fold(words))
    built.add_bytes("payload", _written(stored))
    built.add_text("access", RESTRICTED if groups else EVERYONE)
    for group in groups:
        built.add_text("access", group_term(group))
    names = columns(kinds)
    for name, held in fields.items():
        if name not in names:
            raise ValueError(f"field {name} is not declared")
        for value in (held,) if isinstance(held, str | int | float) else held:
            _add_value(built, names[name], kinds[name], value)
    return built


def stored(record: Record) -> Stored:
    chunk, leads = record.chunk, record.search_text.endswith(record.chunk.text)
    lead = record.search_text[: len(record.search_text) - len(chunk.text)] if leads else record.search_text
    place = (chunk.text, chunk.id, chunk.document, chunk.content, chunk.ordinal, chunk.start, chunk.end, chunk.page)
    return Stored(*place, list(chunk.headings), record.uri, record.title, lead, leads)


def read(searcher: tantivy.Searcher, address: tantivy.DocAddress) -> Stored:
    payload: bytes = searcher.doc(address).get_first("payload") or b""
    head, _, text = payload.decode().partition("\n")
    return Stored(text, *json.loads(head))


def hit(held: Stored, score: float) -> Hit:
    text, chunk_id, document, content, ordinal, start, end, page, headings, uri, title, _, _ = held
    chunk = Chunk(chunk_id, document, content, ordinal, text, start, end, page, tuple(headings))
    return Hit(chunk, uri, title, score, "bm25")


def _written(stored: Stored) -> bytes:
    """A line of JSON, then the text as it is: to parse the text as JSON too would take as long as all the rest."""
    text, *head = stored
    return (json.dumps(head, ensure_ascii=False, separators=(",", ":")) + "\n" + text).encode()


def _add_value(row: tantivy.Document, column: str, kind: FieldType, value: Scalar) -> None:
    match kind:
        case FieldType.KEYWORD:
            row.add_text(column, str(value))
        case FieldType.INTEGER | FieldType.DATE:
            row.add_integer(column, int(value))
        case FieldType.NUMBER:
            row.add_float(column, float(value))
        case FieldType.BOOLEAN:
            row.add_boolean(column, bool(value))


def group_term(group: str) -> str:
    return f"group:{group}"
