"""Images: the words in them by OCR, each page of a TIFF as a page."""

from __future__ import annotations

from ragline.errors import DocumentRejected, Reason
from ragline.parsing import ocr, programs
from ragline.parsing.outline import Outline


def parse(data: bytes, out: Outline) -> None:
    """Raises DocumentRejected: UNSUPPORTED (OCR is not to be had here), DAMAGED, NO_TEXT, TIMEOUT; Postponed."""
    missing = ocr.why_not(out)
    if missing is not None:
        raise DocumentRejected(
            Reason.UNSUPPORTED, f"The document is an image ({_kind(data)}), and {missing[0]}.", next_step=missing[1]
        )
    out.take_time()
    with programs.folder(out) as home:
        pages = ocr.Reader(out, home).pages(data)
    for number, words in enumerate(pages, start=1):
        out.page(number)
        out.paragraph(words)
    if out.empty:
        raise DocumentRejected(
            Reason.NO_TEXT,
            f"OCR found no words in the image ({_kind(data)}).",
            next_step="Upload a sharper scan as PNG, JPEG or TIFF, if there are words in it.",
        )


def _kind(data: bytes) -> str:
    kinds = (
        (b"\x89PNG", "PNG"),
        (b"\xff\xd8", "JPEG"),
        (b"II", "TIFF"),
        (b"MM", "TIFF"),
        (b"GIF", "GIF"),
        (b"BM", "BMP"),
    )
    return next(
        (kind for magic, kind in kinds if data.startswith(magic)), "WebP" if b"WEBP" in data[:16] else "JPEG 2000"
    )
