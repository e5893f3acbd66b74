"""DOCX, read as what it is: XML in a zip. Headings by style, tables as rows, notes and text boxes in their place.

No library: the standard one walks the tree in a tenth of the time, and sees text boxes, notes and inserted text
that object models leave out. Deleted text, field codes and comments stay out.
"""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator
from xml.etree import ElementTree

from ragline.errors import DocumentRejected, Reason
from ragline.parsing.outline import Outline

MAX_PART_BYTES = 256 << 20
"""Largest XML part, unpacked. An honest one of 20 million characters is below; a bomb is far above."""

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_STRICT = "{http://purl.oclc.org/ooxml/wordprocessingml/main}"
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
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            _parse(package, out)
    except (zipfile.BadZipFile, ElementTree.ParseError, KeyError, EOFError, zlib.error, NotImplementedError) as error:
        raise DocumentRejected(
            Reason.DAMAGED,
            "The Word document is damaged or cut short.",
            next_step="Open it in Word or LibreOffice, save it again, and upload that copy.",
        ) from error


def _parse(package: zipfile.ZipFile, out: Outline) -> None:
    main = _main_part(package)
    folder = posixpath.dirname(main)
    levels = _heading_levels(package, posixpath.join(folder, "styles.xml"))
    body = _xml(package, main).find(f"{_W}body")
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
        if path in package.namelist():
            for note in _xml(package, path):
                out.paragraph(_text(note))
    out.title = _core_title(package) or (first[0] if first else None)


def _xml(package: zipfile.ZipFile, path: str) -> ElementTree.Element:
    info = package.getinfo(path)
    if info.flag_bits & 1:
        raise DocumentRejected(
            Reason.ENCRYPTED, "The Word document is encrypted.", next_step="Remove the password and upload it again."
        )
    if info.file_size > MAX_PART_BYTES:
        raise DocumentRejected(
            Reason.TOO_LARGE,
            f"The Word document unpacks to more than {MAX_PART_BYTES >> 20} MiB.",
            next_step="Split it, or save it as PDF.",
        )
    with package.open(info) as part:
        raw = part.read(MAX_PART_BYTES)  # the size above is the file's own word; this is the limit
    if b"<!DOCTYPE" in raw[:4096]:  # never in an honest package; with it come entity bombs
        raise ElementTree.ParseError("document type declaration")
    return ElementTree.fromstring(raw.replace(_STRICT[1:-1].encode(), _W[1:-1].encode()))


def _main_part(package: zipfile.ZipFile) -> str:
    if "_rels/.rels" in package.namelist():
        for relation in _xml(package, "_rels/.rels"):
            if relation.get("Type", "").endswith(_OFFICE_DOCUMENT):
                return relation.get("Target", "").lstrip("/")
    return "word/document.xml"


def _heading_levels(package: zipfile.ZipFile, path: str) -> dict[str, int]:
    """Style id → heading level (a title is 1), through the styles that a style is based on."""
    if path not in package.namelist():
        return {}
    own: dict[str, int] = {}
    based: dict[str, str] = {}
    for style in _xml(package, path).iter(f"{_W}style"):
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


def _core_title(package: zipfile.ZipFile) -> str | None:
    if "docProps/core.xml" not in package.namelist():
        return None
    title = _xml(package, "docProps/core.xml").findtext("{http://purl.org/dc/elements/1.1/}title")
    return title if title and title.strip().lower() not in ("word document", "untitled", "document") else None
