"""Plain text in any encoding: only line ends, control characters and gaps of empty lines change."""

from __future__ import annotations

from ragline.parsing.decode import decode
from ragline.parsing.outline import Outline, too_much_text

MAX_CHAR_BYTES = 4
"""Of one character, in UTF-32 or UTF-8."""


def parse(data: bytes, out: Outline) -> None:
    """Raises DocumentRejected(TOO_LARGE), before any work where no encoding could make it short enough."""
    if len(data) > MAX_CHAR_BYTES * out.limits.max_text_chars:
        raise too_much_text(out.limits)
    out.verbatim(decode(data))
