"""HTML, by Lexbor: what a reader of the page would read. Menus, scripts, footers and cookie bars go; content never.

The rule is by the page's own markup, not by guesses at density: what `nav`, `footer`, roles and `hidden` say. When that
leaves too little of the visible text, the whole visible text is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, TypeAlias

from selectolax.lexbor import LexborHTMLParser, LexborNode

from ragline.parsing.decode import declared_charset, decode
from ragline.parsing.outline import Outline

MIN_SHARE = 0.25
"""Of the visible letters that must remain without boilerplate; with less, the markup lied."""

MAIN_SHARE = 0.5
"""Of what remains that `<main>` or the only `<article>` must hold to be taken as the content."""

MAX_CELL_CHARS = 300
"""On average; with more, the table lays out a page and its cells are running text."""

MAX_COOKIE_CHARS = 1500
MAX_SPAN = 100
"""Columns or rows one cell may claim; a hostile one claims a billion."""

_INVISIBLE = (
    "head, script, style, template, noscript, svg, iframe, object, canvas, audio, video, rp, rt, select, input, button,"
    " textarea, datalist, [hidden], [style*='display:none'], [style*='display: none']"
)
_BOILERPLATE = (
    "nav, footer, body > header, body > div > header, [role=navigation], [role=banner], [role=contentinfo],"
    " [role=search], [role=dialog], [role=alertdialog], [aria-hidden=true], body > aside, body > div > aside"
)
_COOKIES = ", ".join(
    f"{tag}[{attribute}*={word}]"
    for tag in ("div", "section", "aside", "form")
    for attribute in ("class", "id")
    for word in ("cookie", "Cookie", "consent", "gdpr")
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCK_TAGS = (
    "address article aside blockquote body caption center dd details dialog div dl dt fieldset figcaption figure footer"
    " form header hgroup hr html legend li main nav ol p section summary table tbody td tfoot th thead tr ul"
)
_BLOCKS = frozenset(_BLOCK_TAGS.split())

_WHITE = re.compile(r"\s+")

Event: TypeAlias = tuple[Literal["open", "close", "text"], LexborNode]


def parse(data: bytes, out: Outline) -> None:
    out.title = write_page(decode(data, declared=declared_charset(data)), out)


def write_page(html: str, out: Outline) -> str | None:
    """A whole page, less what its markup calls boilerplate. Returns its title."""
    tree = LexborHTMLParser(html)
    if tree.body is not None:
        write(tree, tree.body, out)
    return _title(tree)


def write_fragment(html: str, out: Outline) -> None:
    """HTML inside another format, such as Markdown."""
    tree = LexborHTMLParser(html)
    if tree.body is not None:
        _write(tree.body, _ids(tree, _INVISIBLE), out)


def write(tree: LexborHTMLParser, body: LexborNode, out: Outline) -> None:
    invisible = _ids(tree, _INVISIBLE)
    skip = invisible | _ids(tree, _BOILERPLATE, keep="h1") | _cookie_bars(tree)
    visible, kept = _letters(body, invisible), _letters(body, skip)
    if kept < MIN_SHARE * visible:
        _write(body, invisible, out)
        return
    mains = tree.css("main, [role=main]") or tree.css("article")
    if len(mains) == 1 and _letters(mains[0], skip) >= MAIN_SHARE * kept and mains[0].mem_id not in skip:
        body = mains[0]
    _write(body, skip, out)


def _ids(tree: LexborHTMLParser, selector: str, *, keep: str = "") -> set[int]:
    return {node.mem_id for node in tree.css(selector) if not keep or node.css_first(keep) is None}


def _cookie_bars(tree: LexborHTMLParser) -> set[int]:
    """Short boxes named after cookies that also speak of them: a recipe's `cookie-list` is no cookie bar."""
    found = set()
    for node in tree.css(_COOKIES):
        text = node.text()
        if len(text) <= MAX_COOKIE_CHARS and any(word in text.lower() for word in ("cookies", "consent", "privacy")):
            found.add(node.mem_id)
    return found


def _title(tree: LexborHTMLParser) -> str | None:
    """`<title>`, or the `<h1>` that it contains beside the site's name."""
    title, h1 = (
        " ".join(node.text().split()) if node else "" for node in (tree.css_first("title"), tree.css_first("h1"))
    )
    return h1 if h1 and (not title or h1 in title) else title or None


def _events(root: LexborNode, skip: set[int]) -> Iterator[Event]:
    """The tree below `root` in order, without recursion; depth is the document's choice, not ours."""
    node = root.child
    while node is not None:
        if node.tag == "-text":
            yield "text", node
        elif node.mem_id not in skip and node.tag not in ("-comment", None):
            yield "open", node
            if node.child is not None and node.mem_id not in skip:  # the reader may have added it, once read
                node = node.child
                continue
            yield "close", node
        while node.next is None:
            parent = node.parent
            if parent is None or parent.mem_id == root.mem_id:
                return
            node = parent
            yield "close", node
        node = node.next


def _letters(root: LexborNode, skip: set[int]) -> int:
    return sum(len("".join((node.text_content or "").split())) for kind, node in _events(root, skip) if kind == "text")


def _write(root: LexborNode, skip: set[int], out: Outline) -> None:
    skip = set(skip)  # tables join it once they are written
    line: list[str] = []
    marker = ""
    fixed = 0  # depth of <pre>

    def flush(level: int = 0) -> None:
        nonlocal marker
        text = "".join(line)
        line.clear()
        if not text.strip():
            return
        if level:
            out.heading(level, text)
        elif fixed:
            out.verbatim(text)
        else:
            out.paragraph(marker + text.lstrip())
        marker = ""

    for kind, node in _events(root, skip):
        tag = node.tag or ""
        if kind == "text":
            text = node.text_content or ""
            line.append(text if fixed else _WHITE.sub(" ", text))
        elif tag == "br":
            if kind == "open":
                line.append("\n")
        elif tag in _HEADINGS:
            flush(_HEADINGS[tag] if kind == "close" else 0)
        elif tag == "pre":
            flush()
            fixed += 1 if kind == "open" else -1
        elif tag == "table" and kind == "open" and (rows := _rows(node, skip)):
            flush()
            caption = node.css_first("caption")
            out.paragraph(_words(caption, skip) if caption is not None else "")
            out.table(rows, header=True if _named(node) else None)
            skip.add(node.mem_id)
        elif tag in _BLOCKS:
            flush()
            if tag == "li" and kind == "open":
                marker = "- "
        elif tag == "img" and kind == "open":
            line.append(" ")
    flush()


def _words(root: LexborNode, skip: set[int]) -> str:
    """The text below `root` on one line."""
    return " ".join(
        "".join(
            (node.text_content or "") if kind == "text" else _apart(node) for kind, node in _events(root, skip)
        ).split()
    )


def _apart(node: LexborNode) -> str:
    return " " if node.tag in _BLOCKS or node.tag in _HEADINGS or node.tag in ("br", "img", "pre") else ""


def _named(table: LexborNode) -> bool:
    first = table.css_first("tr")
    return first is not None and len(first.css("th")) > 1 and first.css_first("td") is None


def _rows(table: LexborNode, skip: set[int]) -> list[list[str]]:
    """The cells of a data table, merged ones spread; none when the table lays out a page."""
    nested = any(inner.mem_id != table.mem_id for inner in table.css("table"))
    if nested or table.attributes.get("role") == "presentation":
        return []
    rows: list[list[str]] = []
    pending: dict[int, tuple[int, str]] = {}  # column → (rows still to fill, text) of a cell that spans rows
    for tr in table.css("tr"):
        if tr.mem_id in skip:
            continue
        row: list[str] = []
        for cell in tr.css("td, th"):
            _fill(row, pending)
            text = _words(cell, skip)
            columns, down = _span(cell, "colspan"), _span(cell, "rowspan")
            if down > 1:
                pending[len(row)] = (down - 1, text)
            row += [text, *[""] * (columns - 1)]
        _fill(row, pending)
        rows.append(row)
    cells = [cell for row in rows for cell in row if cell]
    if not cells or sum(map(len, cells)) > MAX_CELL_CHARS * len(cells):
        return []
    return rows


def _fill(row: list[str], pending: dict[int, tuple[int, str]]) -> None:
    while len(row) in pending:
        left, text = pending.pop(len(row))
        if left > 1:
            pending[len(row)] = (left - 1, text)
        row.append(text)


def _span(cell: LexborNode, attribute: str) -> int:
    value = cell.attributes.get(attribute) or ""
    return max(1, min(int(value[:9]), MAX_SPAN)) if value.isascii() and value.isdigit() else 1
