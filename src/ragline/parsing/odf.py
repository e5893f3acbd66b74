"""OpenDocument text and presentations (ODT, ODP), read as what they are: XML in a zip. Sheets go to `sheets`.

Each slide is a page, its notes below its words; headings by their outline level; tables as rows; tracked deletions and
comments stay out.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

from ragline.parsing.outline import Outline
from ragline.parsing.package import Package, encrypted, opened

_NS = "{urn:oasis:names:tc:opendocument:xmlns:%s:1.0}"
_OFFICE, _TEXT, _TABLE, _DRAW = (_NS % name for name in ("office", "text", "table", "drawing"))
_PRESENTATION = _NS % "presentation"
_SPACE, _TAB, _BREAK = f"{_TEXT}s", f"{_TEXT}tab", f"{_TEXT}line-break"
_GONE = frozenset(
    (f"{_TEXT}tracked-changes", f"{_OFFICE}annotation", f"{_TEXT}table-of-content", f"{_OFFICE}forms", f"{_TEXT}note")
)
"""Deleted text, comments, and a table of contents that repeats every heading. Notes are written below their paragraph."""
_NOTE_BODY = f"{_TEXT}note-body"
_MAX_REPEAT = 100
"""Times one cell or row may claim to stand there; a hostile one claims a billion."""


def parse(data: bytes, out: Outline) -> None:
    """Raises DocumentRejected: ENCRYPTED, DAMAGED, TOO_LARGE."""
    what = "The OpenDocument file"
    mend = "Open it in LibreOffice, save it again, and upload that copy."
    with opened(data, what, mend=mend) as package:
        if "META-INF/manifest.xml" in package.names and b"encryption-data" in package.read("META-INF/manifest.xml"):
            raise encrypted(what)
        body = package.xml("content.xml").find(f"{_OFFICE}body")
        if body is None:
            raise KeyError("body")
        writer = _Writer(out)
        writer.write(body)
        out.title = _title(package) or writer.title


def _title(package: Package) -> str | None:
    meta = package.find("meta.xml")
    return meta.findtext(".//{http://purl.org/dc/elements/1.1/}title") if meta is not None else None


class _Writer:
    def __init__(self, out: Outline) -> None:
        self.title: str | None = None
        self._out = out
        self._page = 0

    def write(self, root: ElementTree.Element) -> None:
        """Blocks below `root`, in order, without recursion."""
        waiting = [iter(root)]
        while waiting:
            block = next(waiting[-1], None)
            if block is None:
                waiting.pop()
            elif block.tag == f"{_TEXT}h":
                level = block.get(f"{_TEXT}outline-level", "1")
                self._heading(int(level) if level.isdigit() else 1, _words(block))
            elif block.tag == f"{_TEXT}p":
                self._out.paragraph(_words(block))
                for note in block.iter(_NOTE_BODY):
                    waiting.append(iter(note))
            elif block.tag == f"{_TABLE}table":
                self._out.table(list(_rows(block)))
            elif block.tag == f"{_DRAW}page":
                waiting.append(iter(self._slide(block)))
            elif block.tag not in _GONE:
                waiting.append(iter(block))

    def _slide(self, slide: ElementTree.Element) -> list[ElementTree.Element]:
        """Open the page of a slide. Returns its parts but the title."""
        self._page += 1
        self._out.page(self._page)
        parts = list(slide)
        of = {part.get(f"{_PRESENTATION}class"): part for part in reversed(parts)}
        title = of.get("title")
        words = _words(title) if title is not None else ""
        self._heading(1, words or f"Slide {self._page}", written=bool(words.strip()))
        return [part for part in parts if part is not title or not words.strip()]

    def _heading(self, level: int, words: str, *, written: bool = True) -> None:
        self._out.heading(level, words, written=written)
        if self.title is None and level == 1 and written and words.strip():
            self.title = words


def _words(root: ElementTree.Element) -> str:
    """The words below `root`; inner paragraphs begin a new line."""
    parts: list[str] = [root.text or ""]
    waiting = [iter(root)]
    above: list[ElementTree.Element] = []
    while waiting:
        child = next(waiting[-1], None)
        if child is None:
            waiting.pop()
            parts.append(above.pop().tail or "" if above else "")
        elif child.tag in _GONE:
            parts.append(child.tail or "")
        else:
            parts.append(_mark(child) + (child.text or ""))
            above.append(child)
            waiting.append(iter(child))
    return "".join(parts)


def _mark(element: ElementTree.Element) -> str:
    if element.tag == _SPACE:
        count = element.get(f"{_TEXT}c", "1")
        return " " * min(int(count), _MAX_REPEAT) if count.isdigit() else " "
    if element.tag == _TAB:
        return "\t"
    return "\n" if element.tag in (_BREAK, f"{_TEXT}p", f"{_TEXT}h") else ""


def _rows(table: ElementTree.Element) -> Iterator[list[str]]:
    for row in table.iter(f"{_TABLE}table-row"):
        cells: list[str] = []
        for cell in row:
            if cell.tag in (f"{_TABLE}table-cell", f"{_TABLE}covered-table-cell"):
                count = cell.get(f"{_TABLE}number-columns-repeated", "1")
                cells += [" ".join(_words(cell).split())] * min(int(count) if count.isdigit() else 1, _MAX_REPEAT)
        yield cells
