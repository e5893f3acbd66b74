"""Make the demo's PDF and DOCX from the texts beside it: `python demo/make_documents.py [FOLDER]`.

    texts/us-amendments.md ──▶ us-amendments.pdf        texts/us-constitution.md ──▶ us-constitution.docx

The texts hold headings (`#` to `###`) and paragraphs, nothing else. The same texts give the same bytes, but for the
compression of another zlib and the template of another python-docx. The PDF is written by hand: pages of plain text in
one of the fonts every reader has need no library.
"""

from __future__ import annotations

import io
import sys
import textwrap
import zipfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import docx

HERE = Path(__file__).parent
MADE_AT = datetime(2025, 1, 1)
LINE_CHARS, PAGE_LINES, LEADING, SIZE = 92, 48, 14, 11
"""Of a US letter page with margins of an inch, in Times at 11 points."""


def blocks(text: str) -> Iterator[tuple[int, str]]:
    """(heading level, or 0 for a paragraph; words)."""
    for block in text.strip().split("\n\n"):
        marks = len(block) - len(block.lstrip("#"))
        yield marks, " ".join(block.lstrip("#").split())


def make_docx(text: str) -> bytes:
    document = docx.Document()
    for level, words in blocks(text):
        if level:
            document.add_heading(words, level)
        else:
            document.add_paragraph(words)
    about = document.core_properties
    about.title = next(words for level, words in blocks(text) if level == 1)
    about.author, about.comments = "", ""
    about.created = about.modified = MADE_AT
    made = io.BytesIO()
    document.save(made)
    return _dated(made)


def _dated(made: io.BytesIO) -> bytes:
    """The same package with one date on every member, so that it depends on its text only."""
    out = io.BytesIO()
    with zipfile.ZipFile(made) as package, zipfile.ZipFile(out, "w") as dated:
        for member in package.infolist():
            info = zipfile.ZipInfo(member.filename, MADE_AT.timetuple()[:6])
            info.compress_type = zipfile.ZIP_DEFLATED
            dated.writestr(info, package.read(member))
    return out.getvalue()


def make_pdf(text: str) -> bytes:
    pages, bookmarks, title = _pages(text)
    count = len(pages)
    first_mark = 5 + 2 * count
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R /Outlines {first_mark} 0 R >>".encode(),
        f"<< /Type /Pages /Kids [{' '.join(f'{5 + 2 * i} 0 R' for i in range(count))}] /Count {count} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Times-Roman /Encoding /WinAnsiEncoding >>",
        b"<< /Title " + _string(title) + f" /CreationDate (D:{MADE_AT:%Y%m%d}) >>".encode(),
    ]
    for i, lines in enumerate(pages):
        shown = b"".join(_string(line) + b" Tj T*\n" for line in lines)
        stream = f"BT /F1 {SIZE} Tf {LEADING} TL 72 710 Td\n".encode() + shown + b"ET"
        place = f"/Parent 2 0 R /MediaBox [0 0 612 792] /Contents {6 + 2 * i} 0 R"
        objects.append(f"<< /Type /Page {place} /Resources << /Font << /F1 3 0 R >> >> >>".encode())
        objects.append(f"<< /Length {len(stream)} >>\nstream\n".encode() + stream + b"\nendstream")
    last_mark = first_mark + len(bookmarks)
    objects.append(f"<< /First {first_mark + 1} 0 R /Last {last_mark} 0 R /Count {len(bookmarks)} >>".encode())
    for number, (page, words) in enumerate(bookmarks, start=first_mark + 1):
        before = f" /Prev {number - 1} 0 R" if number > first_mark + 1 else ""
        after = f" /Next {number + 1} 0 R" if number < last_mark else ""
        to = f" /Parent {first_mark} 0 R{before}{after} /Dest [{5 + 2 * page} 0 R /Fit] >>"
        objects.append(b"<< /Title " + _string(words) + to.encode())
    return _file(objects)


def _pages(text: str) -> tuple[list[list[str]], list[tuple[int, str]], str]:
    """Lines of each page; (page from 0, words) of each heading below the title; the title. No heading ends a page."""
    pages: list[list[str]] = [[]]
    bookmarks, title = [], ""
    for level, words in blocks(text):
        lines = textwrap.wrap(words, LINE_CHARS, break_on_hyphens=False)
        if pages[-1] and len(pages[-1]) + (6 if level else 1) > PAGE_LINES:
            pages.append([])
        if level == 1:
            title = words
        elif level:
            bookmarks.append((len(pages) - 1, words))
        for line in [*lines, ""]:
            if len(pages[-1]) == PAGE_LINES:
                pages.append([])
            if line or pages[-1]:
                pages[-1].append(line)
    return pages, bookmarks, title


def _string(text: str) -> bytes:
    data = text.encode("cp1252")
    for mark in (b"\\", b"(", b")"):
        data = data.replace(mark, b"\\" + mark)
    return b"(" + data + b")"


def _file(objects: list[bytes]) -> bytes:
    out, offsets = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n"), []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    out += b"".join(f"{offset:010} 00000 n \n".encode() for offset in offsets)
    ending = f"<< /Size {len(objects) + 1} /Root 1 0 R /Info 4 0 R >>\nstartxref\n{start}\n%%EOF\n"
    return bytes(out) + b"trailer\n" + ending.encode()


def main(folder: Path) -> None:
    texts = HERE / "texts"
    (folder / "us-amendments.pdf").write_bytes(make_pdf((texts / "us-amendments.md").read_text("utf-8")))
    (folder / "us-constitution.docx").write_bytes(make_docx((texts / "us-constitution.md").read_text("utf-8")))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "documents")
