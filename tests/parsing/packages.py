"""Office packages by hand: the least XML that says what a test is about."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from xml.sax.saxutils import escape

_TYPES = '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>'
_REL = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_P = "http://schemas.openxmlformats.org/presentationml/2006/main"
_A = "http://schemas.openxmlformats.org/drawingml/2006/main"
_SHEET = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_ODF = "urn:oasis:names:tc:opendocument:xmlns:{}:1.0"
ODF_NAMES = " ".join(
    f'xmlns:{prefix}="{_ODF.format(name)}"'
    for prefix, name in (
        ("office", "office"), ("text", "text"), ("table", "table"), ("draw", "drawing"), ("presentation", "presentation")
    )
)  # fmt: skip


def package(members: dict[str, str | bytes], *, first: tuple[str, str] | None = None) -> bytes:
    """A zip; `first` is stored uncompressed before the others, as `mimetype` must be."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        if first is not None:
            archive.writestr(zipfile.ZipInfo(first[0]), first[1])
        for path, data in members.items():
            archive.writestr(path, data)
    return out.getvalue()


def relations(**targets: tuple[str, str]) -> str:
    """Relation id → (kind, target)."""
    lines = (
        f'<Relationship Id="{id}" Type="{_REL}/{kind}" Target="{target}"/>' for id, (kind, target) in targets.items()
    )
    return f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{"".join(lines)}</Relationships>'


def shape(*paragraphs: str, kind: str = "body") -> str:
    lines = "".join(f"<a:p><a:r><a:t>{escape(line)}</a:t></a:r></a:p>" for line in paragraphs)
    return f'<p:sp><p:nvSpPr><p:nvPr><p:ph type="{kind}"/></p:nvPr></p:nvSpPr><p:txBody>{lines}</p:txBody></p:sp>'


def table(*rows: Sequence[str]) -> str:
    cells = "".join(
        "<a:tr>" + "".join(f"<a:tc><a:p><a:r><a:t>{escape(c)}</a:t></a:r></a:p></a:tc>" for c in row) + "</a:tr>"
        for row in rows
    )
    return (
        f"<p:graphicFrame><a:graphic><a:graphicData><a:tbl>{cells}</a:tbl></a:graphicData></a:graphic></p:graphicFrame>"
    )


def pptx(*slides: str, notes: str = "") -> bytes:
    """Slides in the order given, but numbered backwards in the package; `notes` belong to the first."""

    def tree(tag: str, shapes: str) -> str:
        return f'<p:{tag} xmlns:p="{_P}" xmlns:a="{_A}"><p:cSld><p:spTree>{shapes}</p:spTree></p:cSld></p:{tag}>'

    names = [f"slides/slide{len(slides) - i}.xml" for i in range(len(slides))]
    ids = "".join(f'<p:sldId id="{i}" r:id="r{i}"/>' for i in range(len(slides)))
    members: dict[str, str | bytes] = {
        "[Content_Types].xml": _TYPES,
        "_rels/.rels": relations(r0=("officeDocument", "ppt/presentation.xml")),
        "ppt/presentation.xml": f'<p:presentation xmlns:p="{_P}" xmlns:r="{_REL}">{ids}</p:presentation>',
        "ppt/_rels/presentation.xml.rels": relations(**{f"r{i}": ("slide", name) for i, name in enumerate(names)}),
    }
    for name, slide in zip(names, slides, strict=True):
        members[f"ppt/{name}"] = tree("sld", slide)
    if notes:
        members[f"ppt/slides/_rels/{names[0].split('/')[1]}.rels"] = relations(
            n=("notesSlide", "../notesSlides/n1.xml")
        )
        members["ppt/notesSlides/n1.xml"] = tree("notes", shape(notes) + shape("7", kind="sldNum"))
    return package(members)


def xlsx(**sheets: Sequence[Sequence[str | float]]) -> bytes:
    """Each sheet's rows, from A1; an empty string is no cell."""

    def cell(row: int, column: int, value: str | float) -> str:
        at = f"{chr(65 + column)}{row}"
        if isinstance(value, str):
            return f'<c r="{at}" t="inlineStr"><is><t>{escape(value)}</t></is></c>' if value else ""
        return f'<c r="{at}"><v>{value}</v></c>'

    names = "".join(f'<sheet name="{escape(n)}" sheetId="{i}" r:id="r{i}"/>' for i, n in enumerate(sheets, 1))
    parts = {f"r{i}": ("worksheet", f"worksheets/sheet{i}.xml") for i in range(1, len(sheets) + 1)}
    members: dict[str, str | bytes] = {
        "[Content_Types].xml": _TYPES,
        "_rels/.rels": relations(r0=("officeDocument", "xl/workbook.xml")),
        "xl/workbook.xml": f'<workbook xmlns="{_SHEET}" xmlns:r="{_REL}"><sheets>{names}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": relations(**parts),
    }
    for i, rows in enumerate(sheets.values(), 1):
        lines = "".join(
            f'<row r="{r}">{"".join(cell(r, c, value) for c, value in enumerate(row))}</row>'
            for r, row in enumerate(rows, 1)
        )
        members[f"xl/worksheets/sheet{i}.xml"] = (
            f'<worksheet xmlns="{_SHEET}"><sheetData>{lines}</sheetData></worksheet>'
        )
    return package(members)


def odf(kind: str, body: str, *, title: str = "") -> bytes:
    """`kind`: text, presentation or spreadsheet; `body` stands inside the element of that name."""
    inner = f"<office:body><office:{kind}>{body}</office:{kind}></office:body>"
    content = f"<office:document-content {ODF_NAMES}>{inner}</office:document-content>"
    members: dict[str, str | bytes] = {"content.xml": content, "META-INF/manifest.xml": "<manifest/>"}
    if title:
        dc = 'xmlns:dc="http://purl.org/dc/elements/1.1/"'
        members["meta.xml"] = f"<meta {dc}><dc:title>{title}</dc:title></meta>"
    return package(members, first=("mimetype", f"application/vnd.oasis.opendocument.{kind}"))


def epub(chapters: dict[str, str], *, title: str) -> bytes:
    """Chapters by file name, in reading order."""
    items = "".join(f'<item id="{n}" href="{n}" media-type="application/xhtml+xml"/>' for n in chapters)
    spine = "".join(f'<itemref idref="{n}"/>' for n in chapters)
    opf = (
        '<package xmlns="http://www.idpf.org/2007/opf"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<dc:title>{title}</dc:title></metadata><manifest>{items}</manifest><spine>{spine}</spine></package>"
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OPS/book.opf"/></rootfiles></container>'
    )
    members: dict[str, str | bytes] = {f"OPS/{name}": page for name, page in reversed(chapters.items())}
    members |= {"META-INF/container.xml": container, "OPS/book.opf": opf}
    return package(members, first=("mimetype", "application/epub+zip"))
