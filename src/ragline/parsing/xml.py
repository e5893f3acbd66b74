"""XML of any vocabulary: records become rows that name their fields, prose paragraphs, titles headings.

What an element means is not known, so its shape decides: one with words between its children is prose; one whose children
are all plain is a record; one called title or head opens a section. Entities of a document's own are never expanded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree

from ragline.parsing.decode import declared_charset, decode
from ragline.parsing.html import write_fragment, write_page
from ragline.parsing.outline import Outline
from ragline.parsing.package import tree

LONG_CHARS = 300
"""A longer field is prose and gets a paragraph of its own."""

_DECLARATION = re.compile(r"\A\s*<\?xml[^>]*\?>")
_DOCTYPE = re.compile(r"<!DOCTYPE\b[^\[>]*(?:\[.*?\]\s*)?>", re.DOTALL)
_HEADINGS = frozenset(("title", "head", "heading", "caption"))
_MARKUP = re.compile(r"</?(?:p|br|div|a|b|i|li|ul|strong|em|span|h[1-6]|img|table)\b[^<>]*>", re.IGNORECASE)


def parse(data: bytes, out: Outline) -> None:
    """What is not well-formed, or uses entities of its own, is read as HTML is: leniently, these as the text they are."""
    text = _DECLARATION.sub("", decode(data, declared=declared_charset(data)))
    text = _DOCTYPE.sub("", text, count=1)
    try:
        root = tree(text)
    except (ElementTree.ParseError, ValueError):
        out.title = write_page(text, out)
        if out.empty:
            out.verbatim(text)
        return
    out.title = next((words for one in root.iter() if _name(one) == "title" and (words := _words(one))), None)
    for element, level in _blocks(root):
        _write(element, level, out)


def _blocks(root: ElementTree.Element) -> Iterator[tuple[ElementTree.Element, int]]:
    """Elements that are written whole, in order, with their depth; without recursion."""
    waiting = [(root, 1)]
    while waiting:
        element, level = waiting.pop()
        if _is_prose(element) or not any(len(child) for child in element):
            yield element, level
        else:
            waiting += [(child, level + 1) for child in reversed(element)]


def _is_prose(element: ElementTree.Element) -> bool:
    between = (element.text, *(child.tail for child in element))
    return any(words and not words.isspace() for words in between)


def _write(element: ElementTree.Element, level: int, out: Outline) -> None:
    if _is_prose(element) or not len(element):
        words = _words(element)
        if _name(element) in _HEADINGS:
            out.heading(level, words)
        elif len(words) <= LONG_CHARS and not len(element):
            out.row([words, *element.attrib.values()], [_name(element), *map(_local, element.attrib)], first=True)
        else:
            _prose(words, out)
        return
    short, long = list[tuple[str, str]](), list[tuple[str, str]]()
    for child in element:
        words = _words(child) or " ".join(child.attrib.values())
        (short if len(words) <= LONG_CHARS and not _MARKUP.search(words) else long).append((_name(child), words))
    out.row([words for _, words in short], [name for name, _ in short], first=True)
    for _, words in long:
        _prose(words, out)


def _prose(words: str, out: Outline) -> None:
    if _MARKUP.search(words):  # feeds carry pages as text
        write_fragment(words, out)
    else:
        out.paragraph(words)


def _words(element: ElementTree.Element) -> str:
    return "".join(element.itertext()).strip()


def _name(element: ElementTree.Element) -> str:
    return _local(element.tag) if isinstance(element.tag, str) else ""


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]
