"""Plain text in any encoding: only line ends, control characters and gaps of empty lines change."""

from __future__ import annotations

from ragline.parsing.decode import decode
from ragline.parsing.outline import Outline


def parse(data: bytes, out: Outline) -> None:
    out.verbatim(decode(data))
