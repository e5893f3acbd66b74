"""Org: headings by their stars, tables by their bars, words without the marks; drawers and comments stay out."""

from __future__ import annotations

import re

from ragline.parsing.decode import decode
from ragline.parsing.outline import Outline, clean

_HEADING = re.compile(
    r"^(\*+)\s+(?:(?:TODO|DONE|NEXT|WAIT(?:ING)?|CANCELLED)\s+)?(?:\[#[A-Z0-9]\]\s+)?(.*?)(?:\s+:[\w@#%:]+:)?\s*$"
)
_KEYWORD = re.compile(r"^\s*#\+(\w+):\s*(.*)$")
_BLOCK = re.compile(r"^\s*#\+(begin|end)_(\w+)", re.IGNORECASE)
_DRAWER = re.compile(r"^\s*:[A-Za-z_]+:\s*$")
_PLANNING = re.compile(r"^\s*(?:SCHEDULED|DEADLINE|CLOSED):")
_LINK = re.compile(r"\[\[([^\[\]\n]{1,2000})\](?:\[([^\[\]\n]{1,1000})\])?\]")
_EMPHASIS = re.compile(r"(?<![\w/*~=+])([*/_=~+])(?=\S)([^\n]{0,300}?\S)\1(?![\w*/~=+])")
"""Bounded, as all that may begin anywhere in a line: a line of 50 MB must cost what it is long, not the square of it."""
_CODE = ("src", "example")


def parse(data: bytes, out: Outline) -> None:
    rows: list[list[str]] = []
    lines: list[str] = []
    block, drawer = "", False

    def flush() -> None:
        if rows:
            out.table(rows)
        elif block in _CODE:
            out.verbatim("\n".join(lines))
        else:
            out.paragraph(_plain("\n".join(lines)))
        rows.clear()
        lines.clear()

    for line in clean(decode(data)).split("\n"):
        edge, heading, keyword = _BLOCK.match(line), _HEADING.match(line), _KEYWORD.match(line)
        if edge:
            flush()
            block = edge[2].lower() if edge[1].lower() == "begin" else ""
        elif block:
            lines.append(line)
        elif _DRAWER.match(line):
            drawer = line.strip().upper() != ":END:"
        elif drawer or _PLANNING.match(line) or line.lstrip().startswith("# "):
            continue
        elif heading:
            flush()
            out.heading(len(heading[1]), _plain(heading[2]))
            out.title = out.title or _plain(heading[2])
        elif keyword:
            flush()
            if keyword[1].lower() == "title":
                out.title = keyword[2]
            if keyword[1].lower() in ("title", "subtitle", "author", "caption", "description"):
                out.paragraph(keyword[2])
        elif line.lstrip().startswith("|"):
            if lines:
                flush()
            if not line.lstrip().startswith("|-"):
                rows.append([_plain(cell).strip() for cell in line.strip().strip("|").split("|")])
        else:
            if rows or not line.strip():
                flush()
            lines.append(line)
    flush()


def _plain(text: str) -> str:
    return _EMPHASIS.sub(r"\2", _LINK.sub(lambda link: link[2] or link[1], text))
