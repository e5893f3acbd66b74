"""Markdown: its structure by markdown-it, its words without the marks; code stays as it stands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token

from ragline.parsing.decode import decode
from ragline.parsing.outline import Outline, clean

PIECE_CHARS = 200_000
"""markdown-it holds every token of what it parses: a longer text goes in pieces, cut at headings."""

PLAIN_CHARS = 2_000_000
"""Beyond, markdown-it (some 2 s a MB) would run into the time limit: only headings and fences are told apart."""

_FRONT = re.compile(r"\A(---|\+\+\+)[ \t]*\n(.*?)\n\1[ \t]*(?:\n|\Z)", re.DOTALL)
_FRONT_TITLE = re.compile(r"""^title\s*[:=]\s*(?:"([^"\n]*)"|'([^'\n]*)'|([^\n#]*))""", re.MULTILINE)
_HEADING = re.compile(r"^ {0,3}(#{1,6})\s+(.*?)(?:\s#+)?\s*$")
_FENCE = re.compile(r"^ {0,3}(```+|~~~+)")


def parse(data: bytes, out: Outline) -> None:
    """The title is the front matter's, else the first `#`."""
    text = clean(decode(data))
    front = _FRONT.match(text)
    found = _FRONT_TITLE.search(front[2]) if front else None
    title = next((part for part in found.groups() if part), None) if found else None
    body = text[front.end() :] if front else text
    first = write(body, out)
    out.title = title or first
    if front and out.empty:
        out.paragraph(front[2])


def write(text: str, out: Outline) -> str | None:
    """Markdown without front matter. Returns its first heading of level 1."""
    if len(text) > PLAIN_CHARS:
        return _write_plainly(text, out)
    markdown, title = MarkdownIt("commonmark").enable(["table", "strikethrough"]), None
    for piece in _pieces(text):
        tokens = markdown.parse(piece)
        title = title or _first_heading(tokens)
        _write(tokens, out)
    return title


def _pieces(text: str) -> list[str]:
    """Runs of whole lines below PIECE_CHARS where headings allow, never cut inside a fence."""
    if len(text) <= PIECE_CHARS:
        return [text]
    pieces, start, at, fence = [], 0, 0, ""
    for line in text.splitlines(keepends=True):
        mark = _FENCE.match(line)
        if mark:
            fence = "" if fence and mark[1].startswith(fence) else fence or mark[1]
        elif not fence and at - start >= PIECE_CHARS / 2 and (line.startswith("#") or at - start >= PIECE_CHARS):
            pieces.append(text[start:at])
            start = at
        at += len(line)
    pieces.append(text[start:])
    return pieces


def _write_plainly(text: str, out: Outline) -> str | None:
    """Headings, and what is between them as it stands. Returns the first heading of level 1."""
    title, fence, lines = None, "", list[str]()
    for line in text.split("\n"):
        mark, heading = _FENCE.match(line), _HEADING.match(line)
        if mark:
            fence = "" if fence and mark[1].startswith(fence) else fence or mark[1]
        if heading and not fence:
            out.verbatim("\n".join(lines))
            lines.clear()
            out.heading(len(heading[1]), heading[2])
            title = title or (heading[2] if len(heading[1]) == 1 else None)
        else:
            lines.append(line)
    out.verbatim("\n".join(lines))
    return title


def _first_heading(tokens: Sequence[Token]) -> str | None:
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and token.tag == "h1":
            return _words(inline)
    return None


def _write(tokens: Sequence[Token], out: Outline) -> None:
    lists: list[int | None] = []  # for each open list: the next number, or None for bullets
    marker = ""
    level = 0
    rows: list[list[str]] = []
    for token in tokens:
        match token.type:
            case "heading_open":
                level = int(token.tag[1])
            case "heading_close":
                level = 0
            case "bullet_list_open":
                lists.append(None)
            case "ordered_list_open":
                lists.append(int(token.attrGet("start") or 1))
            case "bullet_list_close" | "ordered_list_close":
                lists.pop()
            case "list_item_open":
                number = lists[-1]
                marker = "- " if number is None else f"{number}. "
                lists[-1] = None if number is None else number + 1
            case "table_open":
                rows = []
            case "tr_open":
                rows.append([])
            case "table_close":
                out.table(rows, header=True)
                rows = []
            case "fence" | "code_block":
                out.verbatim(token.content)
            case "html_block":
                _html(token.content, out)
            case "inline" if rows:
                rows[-1].append(_words(token))
            case "inline" if level:
                out.heading(level, _words(token))
            case "inline":
                out.paragraph(marker + _words(token))
                marker = ""


def _words(inline: Token) -> str:
    """What a reader sees: link texts without addresses, images by their description."""
    parts = []
    for token in inline.children or ():
        if token.type in ("softbreak", "hardbreak"):
            parts.append("\n")
        elif token.type == "html_inline":
            parts.append("\n" if token.content.lower().startswith("<br") else "")
        else:
            parts.append(token.content)
    return "".join(parts)


def _html(content: str, out: Outline) -> None:
    from ragline.parsing.html import write_fragment  # only Markdown with HTML blocks pays for it

    write_fragment(content, out)
