"""Citations in an answer: found, checked against the passages there are, and taken out when they point nowhere.

Pure. A generator writes ``[1]``, ``[1, 3]``, ``[1][2]`` or ``[2-4]``, and now and then a number that no passage has.
`CitationStream` looks at an answer while it arrives and never lets such a number through; `check` does the same to a
whole text. Left alone: code between backticks, links ``[1](…)``, definitions ``[1]: http…``, footnotes ``[^1]``, indices
``a[1]`` and years ``[2019]``.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

MAX_BRACKET_CHARS = 60
"""A longer bracket is not a citation, so at most this much of a stream is ever held back for one."""

_CITATION = re.compile(r"\[\s*(\d{1,3}(?:\s*[-–]\s*\d{1,3})?(?:\s*[,;]\s*\d{1,3}(?:\s*[-–]\s*\d{1,3})?)*)\s*\]")
_UNFINISHED = re.compile(r"\[[\d\s,;–-]*\Z")
_LINK = re.compile(r"\(|:[^\S\n]*(?:https?:|<|/)")
_LINK_CHARS = 8
"""What must be seen behind a bracket to know that it is no link."""
_INDEXED = re.compile(r"(?:\A|[^\w.])(?:[a-z]|\w*[a-z]_\w*|\w*_[a-z]\w*)\Z")
"""Text before a bracket that makes it an index: one small letter, or a name with an underscore."""
_PLAIN = re.compile(r"[^\[`~\s]+|[~]")
_SPACE = re.compile(r"\n+|[^\S\n]+")
_FENCE = re.compile(r" {0,3}(?:`{3,}|~{3,})")
_MAYBE_FENCE = re.compile(r" {0,3}(?:`{0,2}|~{0,2})\Z")
_CLOSING = ".,;:!?)]}»”’\"'"


@dataclass(frozen=True, slots=True)
class Checked:
    """A text whose citations all point somewhere. `citations`: each number once, as they come. `removed`: how many went."""

    text: str
    citations: tuple[int, ...]
    removed: int


def check(text: str, valid: Collection[int]) -> Checked:
    """Take out of `text` every citation whose number is not in `valid`."""
    stream = CitationStream(valid)
    checked = stream.feed(text) + stream.finish()
    return Checked(checked, stream.citations, stream.removed)


class CitationStream:
    """`check` for a text that arrives in pieces: ``feed`` each, then ``finish``; what they return, joined, is the text.

    However the text is cut into pieces, the whole is the same. Held back: white space, until it is known whether a
    citation follows that goes; a bracket that may become a citation; a line from its first backtick until that closes.
    A citation that the end of the text cuts off is dropped.
    """

    def __init__(self, valid: Collection[int]) -> None:
        self._valid = frozenset(valid)
        self._found: dict[int, None] = {}
        self._removed = 0
        self._held = ""
        self._tail = ""
        self._line_start = True
        self._in_fence = False
        self._space = ""
        self._gap = False

    @property
    def citations(self) -> tuple[int, ...]:
        return tuple(self._found)

    @property
    def removed(self) -> int:
        return self._removed

    def feed(self, piece: str) -> str:
        """What may be shown, now that `piece` has come."""
        return self._scan(self._held + piece, last=False)

    def finish(self) -> str:
        """What was still held back."""
        shown = self._scan(self._held, last=True)
        shown += "" if self._gap else self._space
        self._space = ""
        return shown

    def _scan(self, text: str, *, last: bool) -> str:
        shown: list[str] = []
        at = 0
        while at < len(text):
            length = self._take(text[at:] if at else text, last, shown)
            if not length:
                break
            at += length
        self._held = text[at:]
        return "".join(shown)

    def _take(self, text: str, last: bool, shown: list[str]) -> int:
        """Deal with what `text` begins with; returns how many characters that was, 0 when more must be seen."""
        if self._line_start and (self._in_fence or text[0] in "`~ "):
            fence = _FENCE.match(text)
            if fence is None and not last and _MAYBE_FENCE.match(text):
                return 0
            if fence is not None:
                self._in_fence = not self._in_fence
                return self._show(fence[0], shown)
        if self._in_fence:
            return self._show(text[: text.find("\n") + 1] or text, shown)
        if space := _SPACE.match(text):
            return self._hold_space(space[0])
        if text[0] == "`":
            return self._take_code(text, last, shown)
        if text[0] == "[":
            return self._take_bracket(text, last, shown)
        plain = _PLAIN.match(text)
        return self._show(plain[0] if plain else text[0], shown)

    def _take_code(self, text: str, last: bool, shown: list[str]) -> int:
        """A run of backticks: with the code behind it when the same run closes it on its line, else by itself."""
        runs = list(re.finditer(r"`+", text.split("\n", 1)[0]))
        for run in runs[1:]:
            if len(run[0]) == len(runs[0][0]) and (last or run.end() < len(text)):
                return self._show(text[: run.end()], shown)
        return 0 if not last and "\n" not in text else self._show(runs[0][0], shown)

    def _take_bracket(self, text: str, last: bool, shown: list[str]) -> int:
        if _UNFINISHED.match(text) and len(text) <= MAX_BRACKET_CHARS:
            if not last:
                return 0
            if len(text) > 1:
                self._gap = True
                return len(text)
        found = _CITATION.match(text)
        if found is None or found.end() > MAX_BRACKET_CHARS:
            return self._show("[", shown)
        behind = text[found.end() : found.end() + _LINK_CHARS]
        if not last and len(behind) < _LINK_CHARS and (not behind or behind[0] == ":"):
            return 0
        if _LINK.match(behind) or (not self._space and not self._gap and _INDEXED.search(self._tail)):
            return self._show(found[0], shown)
        kept, gone = self._sorted_out(found[1])
        self._removed += gone
        if kept:
            self._found.update(dict.fromkeys(kept))
            self._show(found[0] if not gone else "[" + ", ".join(map(str, kept)) + "]", shown)
        elif _UNFINISHED.search(self._tail + self._space):
            self._show("?", shown)  # taking it out would join what stands around it into a new citation
        else:
            self._gap = True
        return found.end()

    def _sorted_out(self, body: str) -> tuple[list[int], int]:
        kept: list[int] = []
        gone = 0
        for part in re.split(r"[,;]", body):
            first, *rest = (int(number) for number in re.split(r"[-–]", part))
            numbers = range(first, (rest[0] if rest else first) + 1)
            good = [number for number in numbers if number in self._valid]
            kept.extend(good)
            gone += max(1, len(numbers)) - len(good)
        return kept, gone

    def _hold_space(self, space: str) -> int:
        """Keep `space` until something follows. Beside what was taken out, one of the two spaces goes too."""
        breaks = space[0] == "\n"
        if not self._gap:
            self._space += space
            self._line_start = breaks
        elif self._tail and "\n" not in self._space:
            self._space, self._gap = space, False
            self._line_start = breaks
        elif breaks:
            self._space += space
        return len(space)

    def _show(self, text: str, shown: list[str]) -> int:
        space = self._space
        if self._gap and "\n" not in space:
            glued = not space and self._tail[-1:].isalnum() and text[0].isalnum()
            space = "" if text[0] in _CLOSING else " " if glued else space
        self._space, self._gap = "", False
        shown.append(space + text)
        self._tail = (self._tail + space + text)[-MAX_BRACKET_CHARS:]
        self._line_start = text.endswith("\n")
        return len(text)
