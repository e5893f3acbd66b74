"""The default generator, and the one behind every other: the passages' own sentences, cited, or an honest refusal.

No key, no download, nothing made up: it costs one embedding call. `answer` uses it when it is chosen, and when another
generator is down, late, or says what its passages do not. Weights and thresholds: docs/adr/0005-extractive-answers.md.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from ragline.prompting import REFUSAL
from ragline.protocols import Embedder, Vectors
from ragline.sentences import sentences
from ragline.types import Hit, Passage, Prompt, Token, Usage
from ragline.words import content_words, names

MAX_CANDIDATES = 24
"""Sentences that are embedded, chosen by their words: with 8 the ranking was as good, with 24 paraphrases have a chance."""
MAX_SENTENCES = 3
MAX_GAP = 3.0
"""A further sentence is shown when its score is at most this far below the best one's."""

COSINE, OWN_WORDS, NEAR_WORDS, CUE = 10.5, 3.1, 7.2, 0.8
"""Weights of the ranking: cosine with the question, share of its words in the sentence, and in the sentence with the one
before and the title, and +1 or -1 for the kind of thing that is asked for. Fitted by a softmax over each question's sentences."""

ANSWER_COSINE, ANSWER_WORDS, ANSWER_BIAS = 16.5, 7.5, -10.7
"""Weights of the answerability of the best sentence, log-odds: cosine, share of the question's words near it."""

LONG_CHARS = 300
"""A sentence above this that has several lines is a table or a list without stops: its lines are taken one by one."""
SHOWN_CHARS = 600
HEADING_WORDS = 10

_MARK = re.compile(r"\s?\[\d{1,3}(?:\s*[,;–-]\s*\d{1,3})*\](?!\()")
_LINE_START = re.compile(r"^(?:#{1,6}|[-*+•‣▪◦]|>)\s+")
_NUMBERING = re.compile(r"^(?:\d+(?:\.\d+)*|[A-Za-z])[.)]\s+")
_EMPTY_LINE_BEFORE = re.compile(r"(?:\A|\n[^\S\n]*\n[^\S\n]*)\Z")
_EMPTY_LINE_BEHIND = re.compile(r"[^\S\n]*\n[^\S\n]*\n\s*\S")
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_WHEN = re.compile(
    rf"\b(?:1\d{{3}}|20\d\d)s?\b|\b(?:{_MONTHS})\b|\bcentur(?:y|ies)\b|\b\d+(?:st|nd|rd|th)\b|\bBCE?\b|\bAD\b"
    r"|\b\d+ (?:years?|months?|weeks?|days?|hours?|minutes?)\b|\b\d{1,2}[:.]\d\d\b"
)
_HOW_MANY = re.compile(
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|fifty|hundred|thousand"
    r"|million|billion|half|third|quarter|percent|dozen|several|both|single|twice)\b",
    re.IGNORECASE,
)
_WHY = re.compile(
    r"\b(?:because|since|due to|as a result|therefore|so that|in order to|caused?|led to|reasons?|thus|to avoid|owing)\b",
    re.IGNORECASE,
)
_ASKS_WHEN = re.compile(r"\bwhen\b|\b(?:what|which) (?:year|date|day|month|century|decade|time)\b", re.IGNORECASE)
_ASKS_HOW_MANY = re.compile(
    r"\bhow (?:many|much|long|old|far|tall|large|big|high|often|fast)\b|\bwhat (?:percent|number|amount)"
    r"|\bpercentage\b|\bpopulation\b",
    re.IGNORECASE,
)
_ASKS_NAME = re.compile(r"\b(?:who|whom|whose|where)\b", re.IGNORECASE)
_ASKS_WHY = re.compile(r"\bwhy\b", re.IGNORECASE)


class ExtractiveGenerator:
    """Answers with at most three sentences of the passages. `embedder` may be any; its queries and documents are compared."""

    name = "extractive"

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def generate(self, prompt: Prompt, *, max_tokens: int) -> AsyncGenerator[Token, None]:
        """See `protocols.Generator`. The text of `prompt` is not read, only its query and passages.

        Length:  whole sentences, the best one always; further ones while `max_tokens` of the embedder's tokens hold them.
        """
        question = Question(prompt.query)
        candidates = await asyncio.to_thread(shortlist, question, prompt.passages)
        chosen: list[Candidate] = []
        if candidates:
            # All as queries: somebody waits for them, and document calls stand behind whatever is being ingested.
            texts = [question.text, *(candidate.in_context for candidate in candidates)]
            query, *vectors = await self._embedder.embed(texts, purpose="query")
            chosen = choose(question, candidates, np.stack(vectors) @ query)
        if not chosen:
            yield Token(REFUSAL, Usage())
            return
        between = ""
        for sentence in self._within(chosen, max_tokens):
            yield Token(between + sentence.cited)
            between = "\n" if sentence.cited.endswith("]") else " "  # a row or list item has no stop to part it
        yield Token("", Usage())

    async def aclose(self) -> None:
        """The embedder belongs to who made it."""

    def _within(self, chosen: Sequence[Candidate], max_tokens: int) -> list[Candidate]:
        """What fits, to be read: the best sentence's passage first, each passage in its own order."""
        kept = [chosen[0]]
        left = max_tokens - len(self._embedder.token_spans(chosen[0].cited))
        for sentence in chosen[1:]:
            left -= len(self._embedder.token_spans(sentence.cited))
            if left >= 0:
                kept.append(sentence)
        return sorted(kept, key=lambda s: (s.n != chosen[0].n, s.n, s.order))


class Question:
    """What is asked, as far as words show it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.words = frozenset(content_words(text))
        self.asks_when = _ASKS_WHEN.search(text) is not None
        self.asks_how_many = not self.asks_when and _ASKS_HOW_MANY.search(text) is not None
        self.asks_name = not self.asks_how_many and not self.asks_when and _ASKS_NAME.search(text) is not None
        self.asks_why = _ASKS_WHY.search(text) is not None

    def cue(self, sentence: str) -> float:
        """+1 when `sentence` holds the kind of thing that is asked for, -1 when it does not, 0 for no such kind."""
        if self.asks_when:
            return 1.0 if _WHEN.search(sentence) else -1.0
        if self.asks_how_many:
            return 1.0 if _HOW_MANY.search(sentence) else -1.0
        if self.asks_name:
            return 1.0 if names(sentence) - self.words else -1.0
        return 1.0 if self.asks_why and _WHY.search(sentence) else 0.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sentence of passage `n`, the `order`-th of all. `own`, `near`: share of the question's words, by their weight."""

    n: int
    order: int
    text: str
    in_context: str
    own: float
    near: float

    @property
    def cited(self) -> str:
        """The sentence with its citation before the full stop, as in ``It is red [1].``"""
        body, stop = (self.text[:-1], self.text[-1]) if self.text[-1] in ".!?" else (self.text, "")
        return f"{body} [{self.n}]{stop}"


def shortlist(question: Question, passages: Sequence[Passage], *, most: int = MAX_CANDIDATES) -> list[Candidate]:
    """The `most` sentences that share most with the question, by inverse document frequency; ties by passage order."""
    found = [(passage, lead, text) for passage in passages for lead, text in _sentences(passage.hit)]
    words = [frozenset(content_words(text)) for _, _, text in found]
    frequency = Counter(word for own in words for word in own & question.words)
    weight = {
        word: math.log(1 + (len(found) - frequency[word] + 0.5) / (frequency[word] + 0.5)) for word in question.words
    }
    total = sum(weight.values()) or 1.0
    candidates: list[Candidate] = []
    seen: set[str] = set()
    for order, (passage, lead, text) in enumerate(found):
        place = " › ".join(dict.fromkeys(p for p in (passage.hit.title, *passage.hit.chunk.headings[-1:]) if p.strip()))
        around = frozenset(content_words(f"{place} {lead}"))
        if text in seen or _says_nothing(text, words[order], question.words | around):
            continue
        seen.add(text)
        near = words[order] | around
        if order and found[order - 1][0].n == passage.n:
            near |= words[order - 1]
        own_share, near_share = (sum(weight[w] for w in question.words & some) / total for some in (words[order], near))
        in_context = ": ".join(filter(None, (place, f"{lead} {text}".strip())))
        candidates.append(Candidate(passage.n, order, text, in_context, own_share, near_share))
    best = sorted(candidates, key=lambda c: (-(c.own + c.near), c.order))
    return best[:most]


def _says_nothing(text: str, words: AbstractSet[str], known: AbstractSet[str]) -> bool:
    """A scrap (`Ltd.`), or a line that is no sentence and only repeats the question, title or heading."""
    scrap = len(words) < 2 and not any(map(str.isdigit, text))
    return scrap or (text[-1].isalnum() and words <= known)


def choose(question: Question, candidates: Sequence[Candidate], cosines: Vectors) -> list[Candidate]:
    """The sentences that answer, best first; none when the best one is more likely not to."""
    scores = [
        COSINE * float(cosine) + OWN_WORDS * c.own + NEAR_WORDS * c.near + CUE * question.cue(c.text)
        for c, cosine in zip(candidates, cosines, strict=True)
    ]
    ranked = [int(i) for i in np.argsort([-score for score in scores], kind="stable")]
    best = ranked[0]
    if answerability(float(cosines[best]), candidates[best].near) < 0:
        return []
    return [candidates[i] for i in ranked[:MAX_SENTENCES] if scores[best] - scores[i] <= MAX_GAP]


def answerability(cosine: float, near: float) -> float:
    """Log-odds that the question is about what the passages are about. Says little on whether they answer all of it."""
    return ANSWER_COSINE * cosine + ANSWER_WORDS * near + ANSWER_BIAS


def _rows(whole: str) -> list[str]:
    """The lines of a table or list; prose that was wrapped, where a line goes on with a small letter, stays whole."""
    lines = whole.split("\n")
    return [whole] if any(line.lstrip()[:1].islower() for line in lines[1:]) else lines


def _sentences(hit: Hit) -> Iterator[tuple[str, str]]:
    """What may be shown of a hit, each with the question or heading before it, which is read along but never shown."""
    lead = ""
    text = _MARK.sub("", hit.chunk.text)  # a footnote mark of the source would look like a citation, and hides a stop
    headings = {" ".join(heading.split()) for heading in (hit.title, *hit.chunk.headings)}
    for start, end in sentences(text):
        whole = text[start:end]
        for line in _rows(whole) if len(whole) > LONG_CHARS else [whole]:
            shown = " ".join(_LINE_START.sub("", line.strip()).split())
            if not any(map(str.isalnum, shown)):
                continue
            marked = shown in headings or shown[-1] in "?:" or line.lstrip().startswith("#")
            if marked or _is_heading(text, start, end):
                lead = shown
                continue
            yield lead, _shortened(shown)
            if lead.endswith("?"):
                lead = ""


def _is_heading(text: str, start: int, end: int) -> bool:
    """A short line, a paragraph of its own with another behind it, that is no sentence, no list item and holds no value."""
    line = text[start:end]
    alone = _EMPTY_LINE_BEFORE.search(text[max(0, start - 20) : start]) and _EMPTY_LINE_BEHIND.match(text, end)
    words = _NUMBERING.sub("", line)
    plain = (
        "\n" not in line
        and (line[-1].isalnum() or line[-1] == ")")
        and not _LINE_START.match(line)
        and not re.search(r"\d|: ", words)
    )
    return bool(alone) and plain and len(words.split()) <= HEADING_WORDS


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS].rsplit(" ", 1)[0] + " …"
