"""Jupyter notebooks: Markdown cells as Markdown, code and its printed results as they stand."""

from __future__ import annotations

import json
from typing import Any

from ragline.parsing import markdown
from ragline.parsing.decode import decode
from ragline.parsing.outline import Outline

MAX_OUTPUT_CHARS = 20_000
"""Of one cell's printed results: beyond, it is a log."""


def parse(data: bytes, out: Outline) -> None:
    """What is no notebook is kept as the text it is."""
    text = decode(data)
    try:
        book = json.loads(text)
        cells = book["cells"] if "cells" in book else [cell for sheet in book["worksheets"] for cell in sheet["cells"]]
        written = [(str(cell["cell_type"]), _joined(cell.get("source") or cell.get("input")), cell) for cell in cells]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        out.verbatim(text)
        return
    title = _title(book)
    out.paragraph(title or "")
    for kind, source, cell in written:
        if kind in ("markdown", "heading"):
            source = f"# {source}" if kind == "heading" else source
            heading = markdown.write(source, out)
            title = title or heading
        else:
            out.verbatim(source)
            for result in cell.get("outputs") or ():
                out.verbatim(_printed(result)[:MAX_OUTPUT_CHARS])
    out.title = title


def _title(book: Any) -> str | None:
    metadata = book.get("metadata")
    title = metadata.get("title") if isinstance(metadata, dict) else None
    return title if isinstance(title, str) else None


def _joined(source: object) -> str:
    return "".join(map(str, source)) if isinstance(source, list) else str(source or "")


def _printed(result: Any) -> str:
    """The words of a result: what was printed, or its plain form. Pictures and tracebacks have none worth finding."""
    if not isinstance(result, dict) or result.get("output_type") == "error":
        return ""
    data = result.get("data")
    return _joined(result.get("text") or (data.get("text/plain") if isinstance(data, dict) else None))
