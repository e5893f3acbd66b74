"""CSV and its kin: each row on a line of its own that names its columns."""

from __future__ import annotations

import csv
import io
from collections import Counter

from ragline.parsing.decode import decode
from ragline.parsing.outline import Outline, clean, names_columns

_DELIMITERS = ",;\t|"
_SNIFF_LINES = 50


def parse(data: bytes, out: Outline) -> None:
    """Rows before the header that fill one cell only are captions, and stand as running text."""
    text = clean(decode(data))
    csv.field_size_limit(1 << 30)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
    header: list[str] | None = None
    try:
        for row in rows:
            filled = sum(1 for cell in row if cell.strip())
            if header is not None:
                out.row(row, header)
            elif filled == 1 and len(row) > 1:
                out.paragraph(next(cell for cell in row if cell.strip()))
            elif filled:
                header = row if names_columns(row) else []
                out.row(row, first=True)
    except csv.Error:  # not what it says it is; nothing of it gets lost
        out.paragraph("\n".join(text.split("\n")[rows.line_num :]))


def _delimiter(text: str) -> str:
    """The delimiter that gives the most lines the same number of columns, more columns first."""
    lines = [line for line in text[:100_000].split("\n")[:_SNIFF_LINES] if line.strip()]

    def agreement(delimiter: str) -> tuple[float, int]:
        counts = Counter(line.count(delimiter) for line in lines)
        counts.pop(0, None)
        if not counts:
            return 0.0, 0
        columns, times = counts.most_common(1)[0]
        return times / len(lines), columns

    return max(_DELIMITERS, key=agreement)
