"""EPUB: its chapters in reading order, each an HTML page inside the book's own zip."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import unquote

from ragline.parsing.decode import declared_charset, decode
from ragline.parsing.html import write_fragment
from ragline.parsing.outline import Outline
from ragline.parsing.package import Package, encrypted, opened

_CONTAINER = "{urn:oasis:names:tc:opendocument:xmlns:container}"
_OPF = "{http://www.idpf.org/2007/opf}"
_CHAPTER_TYPES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")
_EMPTY = re.compile(r"<(title|script|style|iframe|textarea|a|div|p|span)((?:\s[^<>]*)?)/>")
_FONTS = (b"http://www.idpf.org/2008/embedding", b"http://ns.adobe.com/pdf/enc#RC")
"""Algorithms that hide the book's fonts only."""


def parse(data: bytes, out: Outline) -> None:
    """Raises DocumentRejected: ENCRYPTED, DAMAGED, TOO_LARGE."""
    what = "The EPUB book"
    with opened(data, what, mend="Open it in a reader or an editor for EPUB, save it again, and upload that.") as book:
        if "META-INF/rights.xml" in book.names or _is_encrypted(book):
            raise encrypted(what)
        root = book.xml("META-INF/container.xml").find(f".//{_CONTAINER}rootfile")
        path = root.get("full-path", "") if root is not None else ""
        opf = book.xml(path)
        out.title = opf.findtext(".//{http://purl.org/dc/elements/1.1/}title")
        items = {item.get("id"): item for item in opf.iter(f"{_OPF}item")}
        for reference in opf.iter(f"{_OPF}itemref"):
            item = items.get(reference.get("idref"))
            if item is not None and item.get("media-type") in _CHAPTER_TYPES and item.get("properties") != "nav":
                chapter = posixpath.normpath(posixpath.join(posixpath.dirname(path), unquote(item.get("href", ""))))
                if chapter in book.names:
                    _chapter(book.read(chapter), out)


def _is_encrypted(book: Package) -> bool:
    if "META-INF/encryption.xml" not in book.names:
        return False
    said = book.read("META-INF/encryption.xml")
    return said.count(b"<EncryptionMethod") + said.count(b":EncryptionMethod ") > sum(map(said.count, _FONTS))


def _chapter(data: bytes, out: Outline) -> None:
    page = decode(data, declared=declared_charset(data))
    write_fragment(_EMPTY.sub(r"<\1\2></\1>", page), out)  # to an HTML reader an empty <title/> never ends
