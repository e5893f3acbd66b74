"""reStructuredText, by docutils: sections, lists, tables and code as it understands them. It reads and fetches nothing."""

from __future__ import annotations

import io

from docutils import nodes
from docutils.core import publish_doctree
from docutils.utils import SystemMessage

from ragline.parsing.decode import decode
from ragline.parsing.outline import Outline

PLAIN_CHARS = 1_000_000
"""Beyond, docutils (some 3 s a MB) would run into the time limit: the text stays as it is written."""

PLAIN_BLOCK_CHARS = 20_000
"""Of one paragraph or table: its time grows with the square of marks that are never closed."""

_SETTINGS = {
    "file_insertion_enabled": False, "raw_enabled": False, "report_level": 5, "halt_level": 5, "_disable_config": True,
    "doctitle_xform": False, "docinfo_xform": False, "smart_quotes": False, "syntax_highlight": "none",
    "line_length_limit": PLAIN_CHARS,
}  # fmt: skip
_CODE = (nodes.literal_block, nodes.doctest_block, nodes.math_block)
_UNSEEN = (nodes.comment, nodes.system_message, nodes.substitution_definition, nodes.target, nodes.pending)
_TEXTS = (nodes.paragraph, nodes.term, nodes.line_block, nodes.caption, nodes.attribution, nodes.rubric, nodes.subtitle)


def parse(data: bytes, out: Outline) -> None:
    """What docutils gives up on, or directives of other tools (Sphinx) hide, is kept as the text it is."""
    text = decode(data)
    if len(text) > PLAIN_CHARS or max(map(len, text.split("\n\n"))) > PLAIN_BLOCK_CHARS:
        out.verbatim(text)
        return
    try:
        settings = {**_SETTINGS, "warning_stream": io.StringIO()}
        document = publish_doctree(text, settings_overrides=settings)
    except (SystemMessage, RecursionError, ValueError, AttributeError, NotImplementedError):
        out.verbatim(text)
        return
    _write(document, out)


def _write(root: nodes.Element, out: Outline) -> None:
    waiting: list[tuple[nodes.Node, int, str]] = [(root, 0, "")]
    while waiting:
        node, level, marker = waiting.pop()
        if isinstance(node, nodes.title):
            out.heading(max(level, 1), node.astext())
            out.title = out.title or node.astext()
        elif isinstance(node, nodes.system_message) and node.get("type") == "ERROR":
            for block in node.findall(nodes.literal_block):  # a directive nobody here knows, with what it holds
                out.verbatim(block.astext())
        elif isinstance(node, _UNSEEN):
            continue
        elif isinstance(node, nodes.table):
            for caption in node.findall(nodes.title):
                out.paragraph(caption.astext())
            head = next(node.findall(nodes.thead), None)
            rows = [[cell.astext() for cell in row.findall(nodes.entry)] for row in node.findall(nodes.row)]
            out.table(rows, header=True if head is not None else None)
        elif isinstance(node, _CODE):
            out.verbatim(node.astext())
        elif isinstance(node, _TEXTS):
            out.paragraph(marker + node.astext())
        elif isinstance(node, nodes.image):
            out.paragraph(str(node.get("alt", "")))
        elif isinstance(node, nodes.Element):
            deeper = level + isinstance(node, nodes.section)
            first = "- " if isinstance(node, nodes.list_item) else marker
            children = [(child, deeper, first if i == 0 else "") for i, child in enumerate(node.children)]
            waiting += reversed(children)
