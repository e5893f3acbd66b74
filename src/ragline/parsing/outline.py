"""What a format writes into: headings, pages, paragraphs and table rows become one text and its blocks.

Every format goes through here, so cleaning, the limit on text and the shape of a table row are the same for all.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from ragline.errors import DocumentRejected, Reason
from ragline.types import Block, Parsed

MAX_HEADING_CHARS = 200
"""A longer "heading" is a paragraph that somebody made bold: it stays text, cut short in the heading path."""

MAX_CELL_NAME_CHARS = 80
"""A longer column name is cut in the rows: it would drown the values it names."""

_JUNK = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u2060\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]"
    # A zero-width space parts words in Thai, Lao, Burmese and Khmer; elsewhere it only hides them from search.
    "|(?<![\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff])\u200b"
)
_LIGATURE = re.compile("[\ufb00-\ufb06\ufb13-\ufb17\ufb1d-\ufb4f\ufb50-\ufdcf\ufdf0-\ufdfd\ufe70-\ufefc]+")
_NUMBER = re.compile(r"[-+(]?[$€£¥]?\s?\d[\d.,\s]*[%)]?")
_SPACES = re.compile(r"[^\S\n]+")
_GAPS = re.compile(r"\n{3,}")


def clean(text: str) -> str:
    """Line ends to LF, no control characters or lone surrogates, NFC, ligature glyphs as the letters they stand for.

    Only presentation forms (Latin ﬁ, Armenian, Hebrew, Arabic) are folded by NFKC: elsewhere it changes meaning, as in
    x² → x2.
    """
    if text.isascii() and text.isprintable():
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x85", "\n")
    text = text.replace("\x0b", "\n").replace("\x0c", "\n").replace("\u2028", "\n").replace("\u2029", "\n\n")
    if text.isascii():
        return _JUNK.sub("", text)
    text = _LIGATURE.sub(lambda found: unicodedata.normalize("NFKC", found[0]), _JUNK.sub("", text))
    return unicodedata.normalize("NFC", text)


def one_line(text: str) -> str:
    """`text` cleaned, every run of white space one space."""
    return " ".join(clean(text).split())


@lru_cache(maxsize=1024)
def _column_name(cell: str) -> str:
    return one_line(cell)[:MAX_CELL_NAME_CHARS].rstrip(" :")


def names_columns(row: Sequence[str]) -> bool:
    """Whether a first row is a header: every cell filled but the corner, all different, none a number."""
    cells = [cell.strip() for cell in row]
    named = [cell for cell in cells if cell]
    if len(named) < 2 or not all(cells[1:]) or len(set(named)) < len(named):
        return False
    return not any(_NUMBER.fullmatch(cell) for cell in named)


class Outline:
    """Gathers a document in reading order. Not thread-safe; one per document.

    Units:  `max_chars` in characters of text; the piece that goes beyond raises DocumentRejected(TOO_LARGE).
    """

    def __init__(self, *, max_chars: int) -> None:
        self.title: str | None = None
        self.media_type: str | None = None
        """What the upload declared, for formats that share a file."""
        self._max_chars = max_chars
        self._parts: list[str] = []
        self._length = 0
        self._blocks: list[Block] = []
        self._page: int | None = None
        self._path: list[tuple[int, str]] = []

    @property
    def empty(self) -> bool:
        return self._length == 0

    def page(self, number: int) -> None:
        """What follows stands on this page, counted from 1."""
        self._page = number

    def heading(self, level: int, text: str, *, written: bool = True) -> None:
        """Open a section; deeper and equal levels close. `written`: its words stand in the text too, as a paragraph."""
        line = one_line(text)
        if not line:
            return
        while self._path and self._path[-1][0] >= level:
            self._path.pop()
        self._path.append((level, line[:MAX_HEADING_CHARS]))
        if written:
            self._write(line, apart=True, table=False)

    def paragraph(self, text: str) -> None:
        """Running text: runs of spaces become one, line breaks stay."""
        lines = (_SPACES.sub(" ", line).strip() for line in clean(text).split("\n"))
        self._write("\n".join(lines).strip("\n"), apart=True, table=False)

    def verbatim(self, text: str) -> None:
        """Text whose columns matter, such as code: only trailing white space and gaps of empty lines go."""
        lines = "\n".join(line.rstrip() for line in clean(text).expandtabs(4).split("\n"))
        self._write(_GAPS.sub("\n\n", lines).strip("\n"), apart=True, table=False)

    def row(self, cells: Sequence[str], header: Sequence[str] = (), *, first: bool = False) -> None:
        """One row on a line that reads alone: ``Column: value; Column: value``. `first` starts a new table."""
        parts = []
        for i, cell in enumerate(cells):
            value = one_line(cell)
            if not value:
                continue
            name = _column_name(header[i]) if i < len(header) else ""
            parts.append(f"{name}: {value}" if name and name != value else value)
        self._write("; ".join(parts), apart=first, table=True)

    def table(self, rows: Sequence[Sequence[str]], *, header: bool | None = None) -> None:
        """A whole table. `header`: whether its first row names the columns; None: judge by that row.

        The names are written once as a line of their own too, so that no word is lost when a column is empty.
        """
        filled = [row for row in rows if any(cell.strip() for cell in row)]
        if len(filled) < 2 or max(len(row) for row in filled) < 2:
            for row in filled:
                self.paragraph("\n".join(cell for cell in row if cell.strip()))
            return
        if header is None:
            header = names_columns(filled[0])
        names = filled[0] if header else ()
        for i, row in enumerate(filled):
            self.row(row, names if i else (), first=i == 0)

    def parsed(self) -> Parsed:
        """The document. Raises DocumentRejected(EMPTY) when nothing was written."""
        text = "".join(self._parts)
        if not text.strip():
            raise DocumentRejected(
                Reason.EMPTY, "The document holds no text.", next_step="Upload it again with its content."
            )
        title = one_line(self.title or "")[:MAX_HEADING_CHARS]
        return Parsed(text=text, blocks=tuple(self._blocks), title=title or None)

    def exact(self, text: str) -> None:
        """`text` as it is, not cleaned; for what was text before it came here."""
        self._write(text, apart=True, table=False)

    def _write(self, text: str, *, apart: bool, table: bool) -> None:
        if not text or text.isspace():
            return
        if self._length + len(text) > self._max_chars:
            raise DocumentRejected(
                Reason.TOO_LARGE,
                f"The document yields more than {self._max_chars:,} characters of text.",
                next_step="Split it, or raise RAGLINE_INGEST__MAX_TEXT_CHARS.",
            )
        headings = tuple(heading for _, heading in self._path)
        last = self._blocks[-1] if self._blocks else None
        same = last is not None and (last.page, last.headings, last.table) == (self._page, headings, table)
        if last is not None:
            gap = "\n" if table and same and not apart else "\n\n"
            self._parts.append(gap)
            self._length += len(gap)
        start = self._length
        self._parts.append(text)
        self._length += len(text)
        if last is not None and same and not (table and apart):
            self._blocks[-1] = Block(last.start, self._length, last.page, last.headings, table)
        else:
            self._blocks.append(Block(start, self._length, self._page, headings, table))
