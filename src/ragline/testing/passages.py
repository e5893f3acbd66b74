"""Passages as a test writes them."""

from __future__ import annotations

from collections.abc import Sequence

from ragline.types import Chunk, Hit, Passage


def passage(
    text: str, n: int = 1, *, title: str = "", headings: Sequence[str] = (), document: str = "", start: int = 0
) -> Passage:
    """A passage of a document of its own, unless `document` names one; `start` is where `text` begins in it."""
    document = document or f"document-{n}"
    chunk = Chunk(f"{document}#{start}", document, 1, 0, text, start, start + len(text), None, tuple(headings))
    return Passage(n, Hit(chunk, f"{document}.txt", title, 1 / n, "rrf"))


def passages(*texts: str) -> tuple[Passage, ...]:
    """One passage a text, numbered from 1."""
    return tuple(passage(text, n) for n, text in enumerate(texts, start=1))
