"""RTF, by striprtf: paragraphs, and tables by the bars it puts between their cells."""

from __future__ import annotations

import re

from striprtf.striprtf import rtf_to_text

from ragline.parsing.outline import Outline

_TITLE = re.compile(rb"\{\\title ([^{}\\]{1,200})\}")


def parse(data: bytes, out: Outline) -> None:
    """Raises DocumentRejected: what `Outline` raises; RTF that is cut short yields what stands before the cut."""
    found = _TITLE.search(data[: 64 << 10])
    out.title = found[1].decode("cp1252", "replace") if found else None
    rows: list[list[str]] = []
    for line in _text(data).split("\n"):
        if line.endswith("|") and line.count("|") > 1:
            rows.append(line.split("|")[:-1])
            continue
        _table(rows, out)
        out.paragraph(line)
    _table(rows, out)


def _text(data: bytes) -> str:
    return str(rtf_to_text(data.decode("latin-1"), errors="ignore"))  # type: ignore[no-untyped-call]


def _table(rows: list[list[str]], out: Outline) -> None:
    if rows:
        out.table(rows)
    rows.clear()
