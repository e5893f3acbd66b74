"""Half of a surrogate pair has no UTF-8, which models' tokenizers and servers need; some documents hold one all the same."""

from __future__ import annotations

import re

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def encodable(text: str) -> str:
    """`text` with U+FFFD for each; its length, and so every character's place, stays as it is."""
    return _LONE_SURROGATE.sub("\ufffd", text)
