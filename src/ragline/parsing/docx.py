"""DOCX, read as what it is: XML in a zip. Headings by style, tables as rows, notes and text boxes in their place.

No library: the standard one walks the tree in a tenth of the time, and sees text boxes, notes and inserted text
that object models leave out. Deleted text, field codes and comments stay out.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from xml.etree import ElementTree

from ragline.parsing.outline import Outline
from ragline.parsing.package import Package, opened

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_OFFICE_DOCUMENT = "/officeDocument"
_TEXT = frozenset({f"{_W}t", "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"})
_GONE = frozenset(
    {f"{_W}del", f"{_W}moveFrom", "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"}
)
"""Deleted, moved away, or said again for older readers."""
_MARKS = {f"{_W}tab": "\t", f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-", f"{_W}p": "\n"}
_HEADING_NAME = re.compile(r"heading (\d)$")


def parse(data: bytes, out: Outline) -> None:
    """Raises DocumentRejected: ENCRYPTED, DAMAGED, TOO_LARGE."""
    mend = "Open it in Word or LibreOffice, save it again, and upload that copy."
    with opened(data, "The Word document", mend=mend) as package:
        _parse(package, out)


def _parse(package: Package, out: Outline) -> None:
    main = _main_part(package)
    folder = posixpath.dirname(main)
    levels = _heading_levels(package, posixpath.join(folder, "styles.xml"))
    body = package.xml(main).find(f"{_W}body")
    if body is None:
        raise KeyError("body")
    first: list[str] = []
    for block in _blocks(body):
        if block.tag == f"{_W}tbl":
            _table(block, out)
            continue
        text, level = _text(block), levels.get(_style(block), 0)
        if level == 0:
            out.paragraph(text)
        elif level > 0:
            out.heading(level, text)
        if level > 0 and text.strip():
            first.append(text)
    for notes in ("footnotes.xml", "endnotes.xml"):
        path = posixpath.join(folder, notes)
        if path in package.names:
            for note in package.xml(path):
                out.paragraph(_text(note))
    out.title = package.title() or (first[0] if first else None)


def _main_part(package: Package) -> str:
    main = (path for kind, path in package.related("").values() if kind.endswith(_OFFICE_DOCUMENT))
    return next(main, "word/document.xml")


def _heading_levels(package: Package, path: str) -> dict[str, int]:
    """Style id → heading level (a title is 1), through the styles that a style is based on."""
    if path not in package.names:
        return {}
    own: dict[str, int] = {}
    based: dict[str, str] = {}
    for style in package.xml(path).iter(f"{_W}style"):
        key = style.get(f"{_W}styleId", "")
        name = _value(style.find(f"{_W}name")).lower()
        outline = _value(style.find(f"{_W}pPr/{_W}outlineLvl"))
        numbered = _HEADING_NAME.match(name)
        if numbered:
            own[key] = int(numbered[1])
        elif name == "title":
            own[key] = 1
        elif outline.isdigit() and int(outline) < 9:
            own[key] = int(outline) + 1
        elif name.startswith("toc "):
            own[key] = -1  # the printed table of contents repeats every heading: left out
        based[key] = _value(style.find(f"{_W}basedOn"))
    levels = {}
    for key in based:
        at, seen = key, set[str]()
        while at and at not in own and at not in seen:
            seen.add(at)
            at = based.get(at, "")
        if at in own:
            levels[key] = own[at]
    return levels


def _value(element: ElementTree.Element | None) -> str:
    return "" if element is None else element.get(f"{_W}val", "")


def _style(paragraph: ElementTree.Element) -> str:
    return _value(paragraph.find(f"{_W}pPr/{_W}pStyle"))


def _blocks(body: ElementTree.Element) -> Iterator[ElementTree.Element]:
    """Paragraphs and tables in order, out of content controls and the like."""
    waiting = [iter(body)]
    while waiting:
        child = next(waiting[-1], None)
        if child is None:
            waiting.pop()
        elif child.tag in (f"{_W}p", f"{_W}tbl"):
            yield child
        elif child.tag not in _GONE:
            waiting.append(iter(child))


def _text(root: ElementTree.Element) -> str:
    """The words below `root`; text boxes and inner paragraphs begin a new line."""
    parts: list[str] = []
    for element in root.iter():
        tag = element.tag
        if tag in _TEXT:
            parts.append(element.text or "")
        elif tag in _MARKS and element is not root:
            parts.append(_MARKS[tag])
        elif tag in _GONE:  # rare: walk again, around what is not to be read
            return "".join(_without_gone(root))
    return "".join(parts)


def _without_gone(root: ElementTree.Element) -> Iterator[str]:
    waiting = [iter(root)]
    while waiting:
        child = next(waiting[-1], None)
        if child is None:
            waiting.pop()
        elif child.tag not in _GONE:
            yield (child.text or "") if child.tag in _TEXT else _MARKS.get(child.tag, "")
            waiting.append(iter(child))


def _table(table: ElementTree.Element, out: Outline) -> None:
    """Merged cells are spread: a row repeats what the cell above it says, so that it reads alone."""
    rows: list[list[str]] = []
    for row in _rows(table):
        above, cells = rows[-1] if rows else [], list[str]()
        for cell in row.findall(f"{_W}tc"):
            merge = cell.find(f"{_W}tcPr/{_W}vMerge")
            text = " ".join(_text(cell).split())
            if merge is not None and _value(merge) != "restart" and not text and len(cells) < len(above):
                text = above[len(cells)]
            span = _value(cell.find(f"{_W}tcPr/{_W}gridSpan"))
            cells += [text, *[""] * (min(int(span), 64) - 1 if span.isdigit() else 0)]
        rows.append(cells)
    out.table(rows)


def _rows(table: ElementTree.Element) -> Iterator[ElementTree.Element]:
    for child in table:
        if child.tag == f"{_W}tr":
            yield child
        elif child.tag not in _GONE:
            yield from child.findall(f".//{_W}tr")
