"""AsciiDoc: headings by their equals signs, tables, lists and listings, words without the marks.

No reader of it can be had from Python but a GPL one and Asciidoctor, which is Ruby; this keeps what a search needs.
"""

from __future__ import annotations

import re

from ragline.parsing.decode import decode
from ragline.parsing.outline import Outline, clean

_HEADING = re.compile(r"^(={1,6}|#{1,6})\s+(.+?)(?:\s+\1)?\s*$")
_ATTRIBUTE = re.compile(r"^:!?[\w-]+!?:(?:\s|$)")
_BLOCK_STYLE = re.compile(r"^\[[^\]\n]*\]\s*$")
_TITLE = re.compile(r"^\.(?![\s.])(.+)$")
_FENCE = re.compile(r"^(-{4,}|\.{4,}|\+{4,}|={4,}|\*{4,}|_{4,}|/{4,}|`{3,})\s*$")
_TABLE = re.compile(r"^[|,:!]={3,}\s*$")
_CELL = re.compile(r"(?<!\\)(?:^|\s)(?:\d+\*|[\d.]*\+)?[<^>.]*[aehlmsdv]?\|")
_MACRO = re.compile(
    r"(?:https?|link|xref|mailto|image|kbd|btn|menu|footnote)::?[^\s\[\]]{0,2000}\[([^\[\]\n]{0,1000})\]"
)
_XREF = re.compile(r"<<[^<,>\n]{0,300}(?:,\s*([^<>\n]{0,300}))?>>")
_EMPHASIS = re.compile(r"(?<![\w*_`#])([*_`#+]{1,2})(?=\S)([^\n]{0,300}?\S)\1(?![\w*_`#])")
"""Bounded, as all that may begin anywhere in a line: a line of 50 MB must cost what it is long, not the square of it."""
_LIST = re.compile(r"^\s*(?:[*\-]+|\.{1,5}|\d+\.)\s+")
_VERBATIM = "-.+`"


def parse(data: bytes, out: Outline) -> None:
    fence = ""
    table: list[str] | None = None
    lines: list[str] = []

    def flush() -> None:
        out.paragraph(_plain("\n".join(lines)))
        lines.clear()

    for line in clean(decode(data)).split("\n"):
        mark, heading = _FENCE.match(line), _HEADING.match(line)
        if fence and fence[0] in _VERBATIM:
            if mark and mark[1] == fence:
                out.verbatim("\n".join(lines))
                lines.clear()
                fence = ""
            else:
                lines.append(line)
        elif _TABLE.match(line):
            flush()
            if table is not None:
                _write(table, out)
            table = [] if table is None else None
        elif table is not None:
            table.append(line)
        elif mark:
            flush()
            fence = mark[1] if mark[1][0] in _VERBATIM + "/" and not fence else ""
        elif fence or line.startswith("//") or _ATTRIBUTE.match(line) or _BLOCK_STYLE.match(line):
            continue  # a comment, a setting
        elif heading:
            flush()
            out.heading(len(heading[1]), _plain(heading[2]))
            out.title = out.title or _plain(heading[2])
        elif title := _TITLE.match(line):
            flush()
            out.paragraph(_plain(title[1]))
        else:
            if not line.strip() or _LIST.match(line):
                flush()
            if line.strip() != "+":
                lines.append(line)
    if fence and fence[0] in _VERBATIM:
        out.verbatim("\n".join(lines))
    else:
        flush()
    _write(table or [], out)


def _write(lines: list[str], out: Outline) -> None:
    """A table. How many columns it has is what its first line of cells says; cells may stand on lines of their own."""
    columns, cells = 0, list[str]()
    for line in lines:
        found = [cell.strip() for cell in _CELL.split(line)]
        if found[0] and cells:
            cells[-1] = f"{cells[-1]} {found[0]}"
        cells += found[1:]
        columns = columns or len(found) - 1
    plain = [_plain(cell) for cell in cells]
    out.table([plain[i : i + columns] for i in range(0, len(plain), columns)] if columns else [])


def _plain(text: str) -> str:
    text = _XREF.sub(lambda found: found[1] or "", _MACRO.sub(r"\1", text))
    return _EMPHASIS.sub(r"\2", text)
