"""Words in pictures, by Tesseract where it is installed: for images and for pages of a PDF that are scans."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ragline.errors import DocumentRejected, Reason
from ragline.parsing import programs
from ragline.parsing.outline import Outline, clean

INSTALL = (
    "Install Tesseract (`apt-get install tesseract-ocr`, `brew install tesseract`), then `ragline documents retry ID`."
)
ALLOW = "Set RAGLINE_INGEST__OCR=true, then `ragline documents retry ID`."
PAGE_BREAK = "\f"
"""What Tesseract writes behind each page."""

_IMAGE = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|II\*\0|MM\0\*|GIF8[79]a|BM|RIFF.{4}WEBP|\0\0\0\x0cjP  \r\n\x87\n|P[1-6]\s",
    re.DOTALL,
)
"""How the images begin that Tesseract knows. Whatever else it is given it takes for a list of names, and reads each of
these files, which are the server's: nothing without one of these signatures may reach it."""


def why_not(out: Outline) -> tuple[str, str] | None:
    """Why nothing can be read here, and what mends it; None when it can."""
    if not out.limits.tools.ocr:
        return "reading pictures (OCR) is switched off", ALLOW
    if programs.installed("tesseract") is None:
        return "Tesseract, which reads pictures (OCR), is not installed", INSTALL
    return None


def languages_step(missing: Sequence[str]) -> str:
    """What brings the data of these languages."""
    packages = " ".join(f"tesseract-ocr-{language.replace('_', '-')}" for language in missing)
    return f"`apt-get install {packages}`, or correct RAGLINE_INGEST__OCR_LANGUAGES."


class Reader:
    """Reads the pictures of one document. Raises Postponed when made outside the slow lane."""

    def __init__(self, out: Outline, home: Path) -> None:
        out.take_time()
        self._out = out
        self._home = home
        self._clock = programs.Clock(out)
        self._program = programs.installed("tesseract") or "tesseract"

    def pages(self, picture: bytes) -> list[str]:
        """The words of an image file, by page: TIFF has several.

        Raises DocumentRejected: DAMAGED, it cannot be opened; TIMEOUT; UNSUPPORTED, a language is missing.
        """
        if _IMAGE.match(picture) is None:
            raise _damaged()
        languages = self._out.limits.tools.ocr_languages
        command = (self._program, "stdin", "stdout", "-l", languages)
        code, words, said = programs.run(command, self._out, self._clock, home=self._home, given=picture)
        if "Failed loading language" in said or "Error opening data file" in said:
            raise DocumentRejected(
                Reason.UNSUPPORTED,
                f"Tesseract cannot read the language {languages}: its data is not installed.",
                next_step=languages_step(languages.split("+")),
            )
        if code != 0:
            raise _damaged()
        pages = words.decode("utf-8", "replace").removesuffix(PAGE_BREAK).split(PAGE_BREAK)
        return [clean(page) for page in pages]


def _damaged() -> DocumentRejected:
    return DocumentRejected(
        Reason.DAMAGED,
        "The image cannot be opened: it is damaged, or of a kind that Tesseract does not know.",
        next_step="Save it again as PNG, JPEG or TIFF, and upload that copy.",
    )
