"""The table of formats. A new format is one file with ``parse(data, out)`` and one line here.

Only strings: the module behind a line, and the library behind that, are imported when a first document needs them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, cast

from ragline.parsing.outline import Outline

Parse: TypeAlias = Callable[[bytes, Outline], None]

RECORD_MEDIA_TYPE = "application/vnd.ragline.record+json"
"""One line of a records file, ``{"_id", "title", "text", ...}``: `text` is taken exactly as it is."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a kind of document is known, and who reads it.

    endings:  of file names, lower case, no dot. A format without any is known by its media type alone.
    magic:    byte strings that its first KiB holds; a text format has none.
    member:   how a path begins that a zip of this format holds.
    binary:   never plain text: a text under this format's ending is read as the text it is.
    """

    name: str
    module: str
    endings: tuple[str, ...]
    media_types: tuple[str, ...]
    magic: tuple[bytes, ...] = ()
    member: str = ""
    binary: bool = False

    def load(self) -> Parse:
        return cast(Parse, importlib.import_module(self.module).parse)


_DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml"

FORMATS: tuple[Format, ...] = (
    Format("PDF", "ragline.parsing.pdf", ("pdf",), ("application/pdf",), magic=(b"%PDF",), binary=True),
    Format(
        "Word (DOCX)",
        "ragline.parsing.docx",
        ("docx", "docm", "dotx"),
        (f"{_DOCX}.document", f"{_DOCX}.template"),
        member="word/",
        binary=True,
    ),
    Format(
        "HTML",
        "ragline.parsing.html",
        ("html", "htm", "xhtml"),
        ("text/html", "application/xhtml+xml"),
        magic=(b"<!doctype html", b"<html"),
    ),
    Format("Markdown", "ragline.parsing.markdown", ("md", "markdown", "mdx"), ("text/markdown", "text/x-markdown")),
    Format("CSV", "ragline.parsing.tables", ("csv", "tsv"), ("text/csv", "text/tab-separated-values")),
    Format(
        "JSON",
        "ragline.parsing.jsonl",
        ("json", "jsonl", "ndjson"),
        ("application/json", "application/jsonl", "application/x-ndjson"),
    ),
    Format("a record", "ragline.parsing.record", (), (RECORD_MEDIA_TYPE,)),
    Format("plain text", "ragline.parsing.text", ("txt", "text", "log"), ("text/plain",)),
)
