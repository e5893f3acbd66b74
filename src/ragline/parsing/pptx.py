"""PPTX, read as what it is: XML in a zip. Each slide is a page; its title a heading, its notes below its words.

Placeholders that a slide only inherits from its layout hold no words of it and stay out, as do slide numbers and dates.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

from ragline.parsing.outline import Outline
from ragline.parsing.package import Package, opened

_P = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_C = "{http://schemas.openxmlformats.org/drawingml/2006/chart}"
_R = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_SHAPES = frozenset((f"{_P}sp", f"{_P}graphicFrame", f"{_P}cxnSp"))
_TITLES = ("title", "ctrTitle")
_FURNITURE = ("sldNum", "dt", "ftr", "hdr", "sldImg")
_MARKS = {f"{_A}br": "\n", f"{_A}tab": "\t"}


def parse(data: bytes, out: Outline) -> None:
    """Raises DocumentRejected: ENCRYPTED, DAMAGED, TOO_LARGE."""
    mend = "Open it in PowerPoint or LibreOffice, save it again, and upload that copy."
    with opened(data, "The presentation", mend=mend) as package:
        title = package.title()
        for number, path in enumerate(_slides(package), start=1):
            out.page(number)
            written = _slide(package, path, number, out)
            title = title or written
        out.title = title


def _slides(package: Package) -> Iterator[str]:
    """Paths of the slides in the order they are shown; hidden ones too: they were written to be found."""
    main = next((path for kind, path in package.related("").values() if kind.endswith("/officeDocument")), "")
    main = main or "ppt/presentation.xml"
    relations = package.related(main)
    for slide in package.xml(main).iter(f"{_P}sldId"):
        _, path = relations.get(slide.get(f"{_R}id", ""), ("", ""))
        if path in package.names:
            yield path


def _slide(package: Package, path: str, number: int, out: Outline) -> str | None:
    """Write one slide. Returns its title."""
    relations = package.related(path)
    shapes = list(_shapes(package.xml(path)))
    title = next((words for shape in shapes if _kind(shape) in _TITLES and (words := _text(shape).strip())), None)
    out.heading(1, title or f"Slide {number}", written=title is not None)
    for shape in shapes:
        if _kind(shape) in (*_TITLES, *_FURNITURE):
            continue
        for table in shape.iter(f"{_A}tbl"):
            out.table([_row(row) for row in table.iter(f"{_A}tr")])
        for chart in shape.iter(f"{_C}chart"):
            _, part = relations.get(chart.get(f"{_R}id", ""), ("", ""))
            if part in package.names:
                _chart(package.xml(part), out)
        if shape.find(f".//{_A}tbl") is None:
            out.paragraph(_text(shape))
    for kind, part in relations.values():
        if kind.endswith(("/notesSlide", "/comments")) and part in package.names:
            _notes(package.xml(part), out)
    return title


def _notes(notes: ElementTree.Element, out: Outline) -> None:
    for shape in _shapes(notes):
        if _kind(shape) not in _FURNITURE:
            out.paragraph(_text(shape))
    for comment in notes.iter(f"{_P}text"):
        out.paragraph(comment.text or "")


def _shapes(root: ElementTree.Element) -> Iterator[ElementTree.Element]:
    """Shapes in their order, out of groups; what stands again for older readers is passed over."""
    waiting = [iter(root)]
    while waiting:
        child = next(waiting[-1], None)
        if child is None:
            waiting.pop()
        elif child.tag in _SHAPES:
            yield child
        elif child.tag != _FALLBACK:
            waiting.append(iter(child))


def _kind(shape: ElementTree.Element) -> str:
    placeholder = shape.find(f"{_P}nvSpPr/{_P}nvPr/{_P}ph")
    return "" if placeholder is None else placeholder.get("type", "body")


def _text(root: ElementTree.Element) -> str:
    paragraphs = []
    for paragraph in root.iter(f"{_A}p"):
        runs = ((one.text or "") if one.tag == f"{_A}t" else _MARKS.get(one.tag, "") for one in paragraph.iter())
        paragraphs.append("".join(runs))
    return "\n".join(paragraphs)


def _row(row: ElementTree.Element) -> list[str]:
    """Cells of a row. A merged one is followed by empty ones in the file itself."""
    return [" ".join(_text(cell).split()) for cell in row.findall(f"{_A}tc")]


def _chart(chart: ElementTree.Element, out: Outline) -> None:
    """A chart as the table it was drawn from: a row a category, a column a series."""
    out.paragraph(" ".join(_text(title) for title in chart.iter(f"{_C}title")))
    columns: dict[str, dict[str, str]] = {}
    categories: dict[str, str] = {}
    for number, series in enumerate(chart.iter(f"{_C}ser"), start=1):
        name = " ".join(point.text or "" for point in series.findall(f"{_C}tx//{_C}v")) or f"Series {number}"
        categories |= _points(series, "cat")
        columns[name] = _points(series, "val")
    rows = [[label, *(values.get(at, "") for values in columns.values())] for at, label in categories.items()]
    if rows:
        out.table([["", *columns], *rows], header=True)


def _points(series: ElementTree.Element, which: str) -> dict[str, str]:
    points = series.findall(f"{_C}{which}//{_C}pt")
    return {point.get("idx", ""): point.findtext(f"{_C}v") or "" for point in points}
