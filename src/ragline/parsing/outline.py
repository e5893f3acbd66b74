"""What a format writes into: headings, pages, paragraphs and table rows become one text and its blocks.

Every format goes through here, so cleaning, the limit on text and the shape of a table row are the same for all.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container, Sequence
from functools import lru_cache
from itertools import count
from pathlib import Path

from ragline.errors import DocumentRejected, Reason
from ragline.parsing.limits import Limits
from ragline.types import Block, Member, Parsed

MAX_HEADING_CHARS = 200
"""A longer "heading" is a paragraph that somebody made bold: it stays text, cut short in the heading path."""

MAX_NAME_CHARS = 500
"""Of a member's name, its end: the uri that it becomes goes with every passage."""

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


def too_much_text(limits: Limits) -> DocumentRejected:
    return DocumentRejected(
        Reason.TOO_LARGE,
        f"The document yields more than {limits.max_text_chars:,} characters of text.",
        next_step="Split it, or raise RAGLINE_INGEST__MAX_TEXT_CHARS.",
    )


def too_many_members(limits: Limits) -> DocumentRejected:
    return DocumentRejected(
        Reason.TOO_LARGE,
        f"The document holds more than {limits.max_members:,} files, or {limits.max_members_bytes >> 20} MiB in them.",
        next_step="Split it, or raise RAGLINE_INGEST__MAX_MEMBERS and RAGLINE_INGEST__MAX_MEMBERS_BYTES.",
    )


def _only_a_name(path: str, taken: Container[str] = ()) -> str:
    """`path` as a relative one that leads nowhere else, different from those that are `taken`."""
    parts = [one_line(part)[:MAX_NAME_CHARS] for part in path.replace("\\", "/").split("/")]
    joined = "/".join(part for part in parts if part not in ("", ".", ".."))
    escaped = joined.replace("!/", "%21/")  # else `b.zip!/c.txt` would be what lies in a `b.zip` beside it
    name = escaped[-MAX_NAME_CHARS:].lstrip("/") or "unnamed"
    if name not in taken:
        return name
    stem, dot, ending = name.rpartition(".")
    numbered = (f"{stem} ({n}){dot}{ending}" if stem else f"{name} ({n})" for n in count(2))
    return next(other for other in numbered if other not in taken)


class Postponed(Exception):
    """The document needs a slow program, and this is not the lane for it: it is to be parsed again in the other one."""


class Outline:
    """Gathers a document in reading order. Not thread-safe; one per document.

    limits:  the piece of text, or the member, that goes beyond raises DocumentRejected(TOO_LARGE).
    name:    the document's uri.   slow: whether programs may be called that take their time; they write in `scratch`.
    """

    def __init__(self, limits: Limits, *, name: str = "", slow: bool = False, scratch: Path | None = None) -> None:
        self.title: str | None = None
        self.name = name
        self.scratch = scratch
        self.limits = limits
        self._slow = slow
        self._members: dict[str, bytes] = {}
        self._members_bytes = 0
        self._left_out: list[str] = []
        self._parts: list[str] = []
        self._length = 0
        self._blocks: list[Block] = []
        self._page: int | None = None
        self._path: list[tuple[int, str]] = []

    @property
    def empty(self) -> bool:
        return self._length == 0

    @property
    def letters(self) -> int:
        """How many characters but white space were written."""
        return sum(len("".join(part.split())) for part in self._parts)

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

    def take_time(self) -> None:
        """A program is about to be called that takes seconds, not milliseconds. Raises Postponed."""
        if not self._slow:
            raise Postponed

    @property
    def members(self) -> list[tuple[str, bytes]]:
        """Name and bytes of each file inside, in order."""
        return list(self._members.items())

    @property
    def left_out(self) -> list[str]:
        return self._left_out

    @property
    def members_left_bytes(self) -> int:
        """What the members to come may still hold together."""
        return self.limits.max_members_bytes - self._members_bytes

    def member(self, name: str, data: bytes) -> None:
        """A file inside this one, which becomes a document of its own. Names are only names, each stands once."""
        if len(data) > self.limits.max_member_bytes:
            self.leave_out(name, f"{len(data):,} bytes are over the limit of {self.limits.max_member_bytes:,}")
            return
        self._members_bytes += len(data)
        if len(self._members) >= self.limits.max_members or self._members_bytes > self.limits.max_members_bytes:
            raise too_many_members(self.limits)
        self._members[_only_a_name(name, self._members)] = data

    def leave_out(self, name: str, why: str) -> None:
        """A file inside this one that cannot become a document; its owner is told."""
        self._left_out.append(f"{_only_a_name(name)}: {why}")

    def parsed(self) -> Parsed:
        """The document. Raises DocumentRejected(EMPTY) when nothing was written, and it holds no members."""
        text = "".join(self._parts)
        if not text.strip() and not self._members:
            raise DocumentRejected(
                Reason.EMPTY, "The document holds no text.", next_step="Upload it again with its content."
            )
        title = one_line(self.title or "")[:MAX_HEADING_CHARS]
        members = tuple(Member(name, data) for name, data in self.members)
        return Parsed(text, tuple(self._blocks), title or None, members, tuple(self._left_out))

    def exact(self, text: str) -> None:
        """`text` as it is, not cleaned; for what was text before it came here."""
        self._write(text, apart=True, table=False)

    def _write(self, text: str, *, apart: bool, table: bool) -> None:
        if not text or text.isspace():
            return
        if self._length + len(text) > self.limits.max_text_chars:
            raise too_much_text(self.limits)
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
