"""Citations in an answer: found, taken out when they point nowhere, and held against the passages they point to.

Pure. A generator writes ``[1]``, ``[1, 3]``, ``[1][2]`` or ``[2-4]``, and now and then a number that no passage has.
`CitationStream` looks at an answer while it arrives and never lets such a number through; `check` does the same to a
whole text. Left alone: code between backticks, links ``[1](…)``, definitions ``[1]: http…``, footnotes ``[^1]``, indices
``a[1]`` and years ``[2019]``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ragline.prompting import REFUSAL
from ragline.sentences import sentences
from ragline.types import Passage
from ragline.words import content_words, names, numbers, spelled_numbers

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

MIN_SUPPORT = 0.5
"""Share of a sentence's content words that its passages must have (docs/adr/0005-extractive-answers.md)."""
NAME_ENDING_CHARS = 2
"""Letters in which a name may end differently in its passages: `SUVs`, `European`. Of nothing else is more forgiven."""
MIN_WORDS = 3
"""A sentence with fewer content words (`Yes.`) claims nothing that could be held against a passage."""

_REFUSES = re.compile(
    r"(?:(?:sorry|i'm sorry|unfortunately|however|but),? )*"
    r"(?:i (?:do not|don't|cannot|can't|could not|couldn't|was unable|am unable|am not able)\b"
    r"|there is (?:no|not enough) (?:information|answer|mention)\b|no (?:answer|information|passages?|documents?)\b"
    r"|none of the (?:\w+ )?(?:passages?|documents?)\b"
    r"|(?:the|these|those|this) (?:\w+ ){0,2}(?:passages?|documents?|context|texts?|information)(?: \w+){0,2}? "
    r"(?:(?:do(?:es)?|did)(?: not|n't)|cannot|can't) "
    r"(?:\w+ )?(?:answer|contain|mention|provide|say|state|specify|include|give|address|discuss|have|indicate)\b)",
    re.IGNORECASE,
)
_LONGEST_REFUSAL_WORDS = 45


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


# ── does an answer hold? ─────────────────────────────────────────────────────────────────────────────────────────────


def is_refusal(text: str) -> bool:
    """Whether `text` says that the passages do not answer: the house's sentence, or a short text of a model's own that
    begins by saying so and cites nothing."""
    plain = " ".join(text.replace("’", "'").replace("*", "").split())
    if REFUSAL.rstrip(".").lower() in plain.lower():
        return not _CITATION.search(plain.lower().replace(REFUSAL.lower(), "", 1).strip(" []0123456789,"))
    if _CITATION.search(plain) or len(plain.split()) > _LONGEST_REFUSAL_WORDS:
        return False
    return _REFUSES.match(plain) is not None


def holds(answer: str, passages: Sequence[Passage]) -> bool:
    """Whether every sentence of `answer` could come from the passages it cites; one without a citation, from any.

    Lexical and cheap, so it finds what was made up, not what was twisted. Of each sentence, in the cited passages' text,
    title and headings must stand: every number; every name, but for its ending; half of the content words, by stem. So
    an answer in another language than its passages does not hold, nor do other words in one that capitalises nouns.
    """
    sources = {passage.n: _Source(passage) for passage in passages}
    claims = _claims(answer, frozenset(sources))
    return bool(sources) and all(
        _supported(text, [sources[n] for n in cited] or [*sources.values()]) for text, cited in claims
    )


class _Source:
    def __init__(self, passage: Passage) -> None:
        hit = passage.hit
        text = "\n".join([hit.title, *hit.chunk.headings, hit.chunk.text])
        self.words = frozenset(content_words(text))
        self.numbers = frozenset(numbers(text) | spelled_numbers(text))


def _claims(answer: str, valid: frozenset[int]) -> list[tuple[str, tuple[int, ...]]]:
    """The sentences of `answer` without their citations, and the numbers these name.

    A citation behind the full stop belongs to the sentence before it.
    """
    claims: list[tuple[str, tuple[int, ...]]] = []
    for start, end in sentences(answer):
        text = answer[start:end]
        while claims and (leading := _CITATION.match(text)):
            before, cited = claims[-1]
            claims[-1] = (before, (*cited, *check(leading[0], valid).citations))
            text = text[leading.end() :].lstrip(" \t,")
        if text.strip():
            claims.append((_CITATION.sub(" ", text), check(text, valid).citations))
    return claims


def _supported(sentence: str, sources: Sequence[_Source]) -> bool:
    text = re.sub(r"^\s*(?:[-*•#]+|\d{1,2}[.)])\s+", "", sentence)
    words = set(content_words(text))
    known = frozenset[str]().union(*(source.words for source in sources))
    figures = frozenset[str]().union(*(source.numbers for source in sources))
    if numbers(text) - figures:
        return False
    if not all(_is_known(name, known) for name in names(text) - known):
        return False
    return len(words) < MIN_WORDS or len(words & known) >= MIN_SUPPORT * len(words)


def _is_known(name: str, known: Collection[str]) -> bool:
    beginning = name[: max(3, len(name) - NAME_ENDING_CHARS)]
    return any(word.startswith(beginning) for word in known)
