"""Server-sent events out of bytes, however they are cut. No I/O.

Our own, because an event's id has to be counted only once the whole event is there, comments are a sign of life here, and
lines end at line feeds alone: readers of text would also split at the separators (U+2028 …) that JSON may hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Frame:
    """An event; without a name and data: a comment, by which the server says that it lives."""

    id: str = ""
    name: str = ""
    data: str = ""


class Frames:
    """Feed it bytes as they come; what has no end yet waits for the rest."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._lines: list[str] = []

    def feed(self, piece: bytes) -> Iterator[Frame]:
        """Raises UnicodeDecodeError."""
        self._rest += piece
        if b"\n" not in piece:
            return
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            if text := line.removesuffix(b"\r").decode():
                self._lines.append(text)
            elif self._lines:
                yield _frame(self._lines)
                self._lines = []


def _frame(lines: list[str]) -> Frame:
    said: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(":")
        said.setdefault(name, []).append(value.removeprefix(" "))
    return Frame(said.get("id", [""])[-1], said.get("event", [""])[-1], "\n".join(said.get("data", [])))
