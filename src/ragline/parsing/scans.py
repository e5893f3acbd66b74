"""Pages of a PDF that are pictures: which they are, and the words on them by OCR."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

import pypdfium2
import pypdfium2.raw as pdfium

from ragline.parsing import ocr, programs
from ragline.parsing.outline import Outline

DOTS_PER_INCH = 300
"""What Tesseract was made for."""

MAX_PIXELS = 25_000_000
"""A page of A3 at that resolution; a larger one is drawn more coarsely."""

MIN_COVER = 0.5
"""Share of a page that pictures cover, for it to be a scan and not an illustration."""

_POINTS_PER_INCH = 72


def among(document: pypdfium2.PdfDocument, texts: Sequence[str]) -> list[int]:
    """Which pages are pictures of text: without words, or with such that no font maps to letters.

    Where no page has words, all that show anything count: the text may be drawn as outlines.
    """
    blank = [index for index, text in enumerate(texts) if not _says_something(text)]
    least = MIN_COVER if len(blank) < len(texts) else 0.0
    return [index for index in blank if _shows(document, index, least)]


def _says_something(text: str) -> bool:
    """Whether most characters are some: a broken font gives private ones, or the mark for what is unknown."""
    shown = [c for c in text if not c.isspace()]
    odd = sum(c == "\ufffd" or unicodedata.category(c) in ("Co", "Cn") for c in shown)
    return len(shown) > 2 * odd


def read(document: pypdfium2.PdfDocument, pages: Sequence[int], out: Outline) -> dict[int, str]:
    """Page index → its words. Raises Postponed, DocumentRejected: TIMEOUT, UNSUPPORTED (a language is missing)."""
    out.take_time()
    with programs.folder(out) as home:
        reader = ocr.Reader(out, home)
        return {index: "\n".join(reader.pages(_drawn(document, index))) for index in pages}


def _shows(document: pypdfium2.PdfDocument, index: int, least: float) -> bool:
    """Whether pictures cover at least this share of the page; 0: whether there is anything on it."""
    try:
        page = document[index]
    except pypdfium2.PdfiumError:
        return False
    try:
        if least == 0.0:
            return bool(pdfium.FPDFPage_CountObjects(page) > 0)
        covered = 0.0
        for picture in page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_IMAGE], max_depth=3):
            left, bottom, right, top = picture.get_bounds()
            covered += max(0.0, right - left) * max(0.0, top - bottom)
        return bool(covered >= least * page.get_width() * page.get_height())
    except pypdfium2.PdfiumError:
        return False
    finally:
        page.close()


def _drawn(document: pypdfium2.PdfDocument, index: int) -> bytes:
    """The page as a PGM image, grey."""
    page = document[index]
    try:
        area = max(1.0, page.get_width() * page.get_height())
        scale = min(DOTS_PER_INCH / _POINTS_PER_INCH, math.sqrt(MAX_PIXELS / area))
        pixels = page.render(scale=scale, grayscale=True).to_numpy()
        height, width = pixels.shape[:2]
        return b"P5 %d %d 255\n" % (width, height) + bytes(pixels.tobytes())
    finally:
        page.close()
