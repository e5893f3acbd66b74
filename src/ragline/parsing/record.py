"""A line of a records file (BEIR's corpus format): its text is taken exactly, so that scores compare with others'."""

from __future__ import annotations

import json

from ragline.errors import DocumentRejected, Reason
from ragline.parsing.outline import Outline


def parse(data: bytes, out: Outline) -> None:
    """A record without text is found by its title, which then is its text. Raises DocumentRejected: DAMAGED."""
    try:
        record = json.loads(data.decode("utf-8-sig"))
        text, title = record.get("text") or "", record.get("title") or ""
        if not isinstance(text, str) or not isinstance(title, str):
            raise TypeError
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise DocumentRejected(
            Reason.DAMAGED,
            "The record is not a JSON object with a string `text`.",
            next_step='Correct the line: {"_id": "…", "title": "…", "text": "…"}.',
        ) from error
    out.title = title
    out.exact(_whole(text) if text.strip() else _whole(title))


def _whole(text: str) -> str:
    """`text` with lone surrogates, which no UTF-8 can hold, replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
