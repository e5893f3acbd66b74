"""Literals of the engines that take filters as text: LanceDB's SQL and zvec's own language."""

from __future__ import annotations


def quoted(text: str, *, quote: str = "''") -> str:
    """`text` as a string literal; `quote` is how the engine escapes a quotation mark within one."""
    return "'" + text.replace("'", quote) + "'"
