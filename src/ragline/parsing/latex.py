"""LaTeX: sections, tables and words, its macros by pylatexenc; figures' files, references and comments stay out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from pylatexenc.latex2text import LatexNodes2Text
from pylatexenc.latexwalker import LatexWalkerError

from ragline.parsing.decode import decode
from ragline.parsing.outline import Outline, clean

_LEVELS = {"part": 1, "chapter": 1, "section": 2, "subsection": 3, "subsubsection": 4, "paragraph": 5}
_COMMENT = re.compile(r"(?<!\\)%[^\n]*(?:\n[ \t]*(?=\S))?")
_SECTION = re.compile(
    r"\\(" + "|".join(_LEVELS) + r")\*?\s*(?:\[[^\]\n]*\])?\s*\{((?:[^{}]|\{[^{}]{0,500}\}){0,1000})\}"
)
_TITLE = re.compile(r"\\title\s*(?:\[[^\]\n]*\])?\s*\{((?:[^{}]|\{[^{}]{0,500}\}){0,1000})\}")
_TABLE = re.compile(r"\\begin\{(tabular[*xy]?|longtable|array)\}(.*?)\\end\{\1\}", re.DOTALL)
_RULES = re.compile(
    r"\\(?:hline|toprule|midrule|bottomrule|endhead|endfirsthead|noalign\{[^{}]*\}|c(?:mid|line)(?:rule)?(?:\([^)]*\))?\{[^{}]*\})"
)
_SPEC = re.compile(r"\A\s*(?:\[[^\]]*\])?(?:\s*\{(?:[^{}]|\{(?:[^{}]|\{[^{}]{0,500}\}){0,1000}\})*\}){1,2}")
_NOISE = re.compile(
    r"\\(?:label|ref|eqref|cite[a-z]*|includegraphics|input|include|bibliography(?:style)?|vspace|hspace|pagestyle|usepackage"
    r"|documentclass|thanks|def)\*?\s*(?:\[[^\]\n]*\])*\s*\{[^{}]*\}"
    r"|\\(?:setlength|addtolength|setcounter|renewcommand|newcommand|definecolor)\*?\s*\{[^{}]*\}(?:\[[^\]\n]*\])*(?:\{[^{}]*\})*"
)
_SPANNING = re.compile(r"\\multi(row|column)\s*\{(\d+)\}(?:\[[^\]\n]*\])?\s*\{[^{}]*\}\s*(?=\{)")
_BODY = re.compile(r"\\begin\{document\}(.*?)(?:\\end\{document\}|\Z)", re.DOTALL)
PIECE_CHARS = 20_000
"""pylatexenc's time grows faster than the text it is given, so a text goes in pieces, cut at paragraphs."""


def parse(data: bytes, out: Outline) -> None:
    text = _COMMENT.sub("", clean(decode(data)))
    title = _TITLE.search(text)
    out.title = _plain(title[1]) if title else None
    body = _BODY.search(text)
    rest, at = body[1] if body else text, 0
    if out.title:
        out.paragraph(out.title)
    for section in _SECTION.finditer(rest):
        _write(rest[at : section.start()], out)
        out.heading(_LEVELS[section[1]], _plain(section[2]))
        at = section.end()
    _write(rest[at:], out)
    if out.empty:
        out.verbatim(text)  # nothing but definitions


def _write(text: str, out: Outline) -> None:
    at = 0
    for table in _TABLE.finditer(text):
        _paragraphs(text[at : table.start()], out)
        rows = _SPANNING.sub("", _RULES.sub("", _SPEC.sub("", table[2]))).split("\\\\")
        out.table([[_plain(cell) for cell in re.split(r"(?<!\\)&", row)] for row in rows if row.strip()])
        at = table.end()
    _paragraphs(text[at:], out)


def _paragraphs(text: str, out: Outline) -> None:
    piece = ""
    for paragraph in _short_ones(text):
        if piece and len(piece) + len(paragraph) > PIECE_CHARS:
            _piece(piece, out)
            piece = ""
        piece = f"{piece}\n\n{paragraph}" if piece else paragraph
    _piece(piece, out)


def _short_ones(text: str) -> Iterator[str]:
    """Paragraphs; one that is longer than a piece is cut at spaces, braces or not."""
    for paragraph in re.split(r"\n[ \t]*\n", text):
        at = 0
        while len(paragraph) - at > PIECE_CHARS:
            cut = paragraph.rfind(" ", at + PIECE_CHARS // 2, at + PIECE_CHARS)
            cut = at + PIECE_CHARS if cut < 0 else cut
            yield paragraph[at:cut]
            at = cut
        yield paragraph[at:]


def _piece(text: str, out: Outline) -> None:
    for paragraph in re.split(r"\n\s*\n", _converted(_NOISE.sub("", text))):
        out.paragraph(paragraph)


def _converted(text: str) -> str:
    try:
        return str(_converter().latex_to_text(text, tolerant_parsing=True))
    except (LatexWalkerError, RecursionError, ValueError, IndexError):
        return text  # beyond what the library reads: as it is written


def _plain(text: str) -> str:
    return " ".join(_converted(_NOISE.sub("", text)).split())


@lru_cache(maxsize=1)
def _converter() -> LatexNodes2Text:
    return LatexNodes2Text(math_mode="text", strict_latex_spaces=False, keep_comments=False)
