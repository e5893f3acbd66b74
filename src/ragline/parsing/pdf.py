"""PDF, by PDFium: the text layer page by page, with the bookmarks as headings where their words stand on the page."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pypdfium2
import pypdfium2.raw as pdfium

from ragline.errors import DocumentRejected, Reason
from ragline.parsing import ocr, scans
from ragline.parsing.outline import Outline, clean, one_line

_VERSION = re.compile(rb"%PDF-\d\.\d")
_HEADER = re.compile(rb"%PDF[^\r\n]{0,8}")
_SOFT_BREAK = re.compile("[\u0002\ufffe\u00ad]\r?\n?")
"""What PDFium writes for a hyphen that ends a line."""
_HARD_BREAK = re.compile(r"(?<![\w-])([^\W\d_]{2,})[-‐]\n([^\W\d_]{2,})")
_COMPOUND = re.compile(r"(?<![\w-])[^\W\d_]{2,}[-‐][^\W\d_]{2,}")
_NO_TITLE = re.compile(
    r"(?i)^(untitled|microsoft (word|powerpoint)|powerpoint presentation|word document|document\d*$|title$|slide \d|"
    r"print|none$|null$|unknown|d:\\|c:\\|/|file:|https?:)|\.(docx?|pdf|pptx?|xlsx?|tex|dvi|ps|indd|qxd|rtf|odt|html?|txt)$"
)


def parse(data: bytes, out: Outline) -> None:
    """Raises DocumentRejected: ENCRYPTED, DAMAGED, EMPTY (no pages), NO_TEXT (pages, but of images only)."""
    document = _open(data)
    try:
        pages = len(document)
        out.title = _title(document)
        texts, broken = _texts(document, pages)
        missing = _read_scans(document, texts, out)
        bookmarks = _bookmarks(document)
    finally:
        document.close()
    compounds = {found.lower() for text in texts for found in _COMPOUND.findall(text)}
    for number, text in enumerate(texts, start=1):
        out.page(number)
        _write_page(_join_hyphens(text, compounds), bookmarks.get(number - 1, []), out)
    if out.empty:
        _refuse(pages, broken, missing)


def _open(data: bytes) -> pypdfium2.PdfDocument:
    headed = b"%PDF" in data[:1024]
    if not headed:
        data = b"%PDF-1.7\n" + data
    elif not _VERSION.search(data[:1024]):  # PDFium insists on a version in the header; other readers do not
        data = _HEADER.sub(b"%PDF-1.7", data, count=1)
    try:
        return pypdfium2.PdfDocument(data)  # tries the empty password by itself
    except pypdfium2.PdfiumError as error:
        raise _why(data, headed) from error


def _why(data: bytes, headed: bool) -> DocumentRejected:
    """Why PDFium gave no document. Asked again: when there are just no pages, its error code is an older one's."""
    handle = pdfium.FPDF_LoadMemDocument64(data, len(data), None)
    if handle:
        pdfium.FPDF_CloseDocument(handle)
        return DocumentRejected(
            Reason.EMPTY, "The PDF has no pages.", next_step="Export it again from where it was made."
        )
    if headed and pdfium.FPDF_GetLastError() in (pdfium.FPDF_ERR_PASSWORD, pdfium.FPDF_ERR_SECURITY):
        return DocumentRejected(
            Reason.ENCRYPTED,
            "The PDF is encrypted and needs a password.",
            next_step="Remove the password and upload it again.",
        )
    return _damaged()


def _damaged() -> DocumentRejected:
    return DocumentRejected(
        Reason.DAMAGED,
        "The PDF is damaged or cut short; no text could be recovered.",
        next_step="Open it in a viewer, save it again, and upload that copy.",
    )


def _read_scans(document: pypdfium2.PdfDocument, texts: list[str], out: Outline) -> tuple[str, str] | None:
    """Fill in `texts` of pages that are scans, by OCR. Returns why that cannot be, and what mends it."""
    pages = scans.among(document, texts)
    missing = ocr.why_not(out) if pages else None
    if missing is not None:
        for index in pages:
            texts[index] = ""  # of a broken font: nobody searches for what it gave
            out.leave_out(f"page {index + 1}", f"a scan, and {missing[0]}")
    elif pages:
        for index, words in scans.read(document, pages, out).items():
            texts[index] = words
    return missing


def _refuse(pages: int, broken: int, missing: tuple[str, str] | None) -> None:
    if broken == pages:
        raise _damaged()
    which = f"its {pages} pages are" if pages > 1 else "its 1 page is"
    if missing is not None:
        raise DocumentRejected(
            Reason.NO_TEXT, f"The PDF has no text layer: {which} scanned, and {missing[0]}.", next_step=missing[1]
        )
    raise DocumentRejected(
        Reason.NO_TEXT,
        f"The PDF has no text layer, and {which} without words that OCR could find.",
        next_step="Upload a sharper scan, or one with a text layer, if there are words in it.",
    )


def _texts(document: pypdfium2.PdfDocument, pages: int) -> tuple[list[str], int]:
    """The text of each page, and how many could not be read."""
    texts, broken = [], 0
    for index in range(pages):
        try:
            page = document[index]
        except pypdfium2.PdfiumError:
            broken += 1
            texts.append("")
            continue
        try:
            layer = page.get_textpage()
            texts.append(clean(_SOFT_BREAK.sub("-\n", layer.get_text_range())))
            layer.close()
        except pypdfium2.PdfiumError:
            broken += 1
            texts.append("")
        finally:
            page.close()
    return texts, broken


def _join_hyphens(text: str, compounds: set[str]) -> str:
    """Join words that a line end has cut, but keep the hyphen of compounds that the document writes elsewhere."""

    def join(found: re.Match[str]) -> str:
        left, right = found[1], found[2]
        if f"{left}-{right}".lower() in compounds or right[0].isupper():
            return f"{left}-{right}"
        return left + right

    return _HARD_BREAK.sub(join, text)


def _write_page(text: str, bookmarks: list[tuple[int, str]], out: Outline) -> None:
    """One page; each bookmark opens its section at the line that says its words, or at the top of the page."""
    lines = text.split("\n")
    plain = [one_line(line) for line in lines]
    at = 0
    for level, title in bookmarks:
        found = next((i for i in range(at, len(lines)) if plain[i] and _same(plain[i], title)), None)
        if found is None:
            out.heading(level, title, written=False)
            continue
        out.paragraph("\n".join(lines[at:found]))
        out.heading(level, title, written=False)
        at = found
    out.paragraph("\n".join(lines[at:]))


def _same(line: str, title: str) -> bool:
    line, title = line.casefold(), title.casefold()
    return line == title or (line.endswith(title) and len(line) - len(title) <= 8)  # "2.1 Methods" for "Methods"


def _bookmarks(document: pypdfium2.PdfDocument) -> dict[int, list[tuple[int, str]]]:
    """Page index → its bookmarks as (level from 1, title), in order."""
    found: dict[int, list[tuple[int, str]]] = {}
    try:
        for level, page, title in _walk(document):
            found.setdefault(page, []).append((level, title))
    except (pypdfium2.PdfiumError, ValueError, RecursionError):
        return {}  # a broken outline costs the headings, not the text
    return found


def _walk(document: pypdfium2.PdfDocument) -> Iterator[tuple[int, int, str]]:
    for bookmark in document.get_toc(max_depth=8):
        title = one_line(bookmark.get_title())
        target = bookmark.get_dest()
        page = target.get_index() if target is not None else None
        if title and page is not None and page >= 0:
            yield bookmark.level + 1, page, title


def _title(document: pypdfium2.PdfDocument) -> str | None:
    """The title in the metadata, unless it is what a program put there: a file name, "untitled", one word of noise."""
    try:
        title = one_line(document.get_metadata_value("Title"))
    except (pypdfium2.PdfiumError, UnicodeDecodeError):
        return None
    if not 4 <= len(title) <= 250 or _NO_TITLE.search(title) or "\ufffd" in title:
        return None
    letters = sum(c.isalpha() for c in title)
    return title if letters >= 0.5 * len(title.replace(" ", "")) else None
