"""Cut a parsed document into the spans that are embedded, stored and cited.

Pure; the ingest path's parse stage calls it. A chunk follows the document: its sections, then paragraphs, then
sentences; only what is longer than a chunk by itself is cut anywhere else. A row of a table stays whole.
"""

from __future__ import annotations

import re
import uuid
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import takewhile, zip_longest
from typing import TypeAlias

from ragline.sentences import sentences
from ragline.types import Block, Parsed, Span

TokenSpans: TypeAlias = Callable[[str], Sequence[tuple[int, int]]]

WINDOW_CHARS = 20_000
"""Text is tokenised in windows of this size, cut where a paragraph or line ends: cost stays linear."""

MAX_TOKEN_CHARS = 16
"""A longer token weighs as several: WordPiece makes one [UNK] of a word of any length."""

TRUSTED = 0.9
"""Share of a chunk up to which the tokens counted in its window are not counted again: a tokenizer that looks beyond
white space, against its contract, differs by a few."""

TINY = 0.25
"""A section below this share of a chunk joins its neighbour, when one is the other's parent or both have the same."""

MAX_PATH_CHARS = 120
"""Of the heading path in `search_text`: some 30 tokens, so that path, title and a full chunk fit into 256."""

_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
_LINE = re.compile(r"\n")
_BREAKS = (_PARAGRAPH, _LINE, re.compile(r"[。！？]|[.!?]\s"), re.compile(r"\s"))


@dataclass(frozen=True, slots=True)
class _Unit:
    """What packing does not cut: a sentence, a row, or a piece of a longer one. `opens` a paragraph (or is a row)."""

    start: int
    end: int
    weight: int
    opens: bool


@dataclass(frozen=True, slots=True)
class _Piece:
    """A chunk while it may still be joined."""

    start: int
    end: int
    weight: int
    page: int | None
    headings: tuple[str, ...]


def chunk(parsed: Parsed, token_spans: TokenSpans, *, chunk_tokens: int, overlap_tokens: int) -> list[Span]:
    """Cut `parsed` into chunks, in order, covering every character that is not white space.

    Shapes:  a span's text has no white space around it. Starts and ends both rise.
    Units:   at most `chunk_tokens` of `token_spans`' own tokens a chunk, and at most 16 characters for each of them.
             A chunk repeats whole sentences of the one before, at most `overlap_tokens` of them; rows are not repeated,
             nor anything over the border of a section.
    Place:   page of the first character; of joined sections, the heading path they share.
    Cost:    linear in the text, for any text.
    Raises:  ValueError: `chunk_tokens` < 1, or `overlap_tokens` not in [0, chunk_tokens).
    """
    if chunk_tokens < 1 or not 0 <= overlap_tokens < chunk_tokens:
        raise ValueError(f"chunk_tokens={chunk_tokens}, overlap_tokens={overlap_tokens}: 0 ≤ overlap < chunk is needed")
    text = parsed.text
    pieces: list[_Piece] = []
    lead: list[_Unit] = []  # a section too small to stand alone, such as a bare heading, goes with its first part
    place: Block | None = None  # where `lead` begins
    for block, following in zip_longest(parsed.blocks, parsed.blocks[1:]):
        units = lead + list(_units(text, block, token_spans, chunk_tokens))
        place = place or block
        if following is not None and _leads_to(block, following) and _total(units) < TINY * chunk_tokens:
            lead = units
            continue
        shared = place.headings[: _shared(place.headings, block.headings)]
        packed = _pack(units, chunk_tokens, 0 if block.table else overlap_tokens)
        for i, (start, end, weight) in enumerate(_fit_all(text, packed, token_spans, chunk_tokens)):
            piece = _Piece(start, end, weight, block.page if i else place.page, block.headings if i else shared)
            joined = _join(pieces[-1], piece, chunk_tokens) if pieces and i == 0 else None
            if joined is not None and _weigh(text[joined.start : joined.end], token_spans) <= chunk_tokens:
                pieces[-1] = joined
            else:
                pieces.append(piece)
        lead, place = [], None
    return [Span(p.start, p.end, p.page, p.headings) for p in pieces]


def chunk_id(namespace: str, document: str, content: int, ordinal: int) -> str:
    """The chunk's name: the same for the same four, on every machine; a UUID of RFC 9562's version 8."""
    digest = blake2b(digest_size=16, person=b"ragline.chunk")
    for part in (namespace, document, str(content), str(ordinal)):
        raw = part.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "big") + raw)
    bits = int.from_bytes(digest.digest(), "big")
    bits = bits & ~(0xF << 76) | (8 << 76)
    bits = bits & ~(0b11 << 62) | (0b10 << 62)
    return str(uuid.UUID(int=bits))


def search_text(title: str, headings: Sequence[str], text: str) -> str:
    """What is embedded and what BM25 indexes: the title, the heading path, the text, each on lines of its own.

    A title or heading that says what stands before or after it already is not said twice.
    """
    start = _plain(text[: 4 * max(len(title), *map(len, headings), 50)])
    path = [h for h in headings if h.strip() and _plain(h) != _plain(title) and not _begins(start, h)]
    while len(path) > 1 and sum(map(len, path)) > MAX_PATH_CHARS:
        path.pop(0)  # the deepest say most about the text
    lines = ["" if _begins(start, title) else title.strip(), " › ".join(path), text]
    return "\n".join(line for line in lines if line)


def _plain(words: str) -> str:
    return " ".join(words.split()).casefold()


def _begins(start: str, words: str) -> bool:
    """Whether a text begins with these words, whole."""
    plain = _plain(words)
    return start.startswith(plain) and not start[len(plain) : len(plain) + 1].isalnum()


# ── units ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _units(text: str, block: Block, token_spans: TokenSpans, limit: int) -> Iterator[_Unit]:
    for window_start, window_end, opens in _windows(text, block, max(WINDOW_CHARS, 4 * limit * MAX_TOKEN_CHARS)):
        window = text[window_start:window_end]
        starts = [window_start + at for at, _ in token_spans(window)]
        for paragraph_start, paragraph_end in _split(window, _LINE if block.table else _PARAGRAPH):
            paragraph = window[paragraph_start:paragraph_end]
            for a, b in [(0, len(paragraph))] if block.table else sentences(paragraph):
                sentence = window_start + paragraph_start + a, window_start + paragraph_start + b
                for start, end, weight in _cut(text, *sentence, starts, limit):
                    yield _Unit(start, end, weight, opens)
                    opens = False
            opens = True


def _windows(text: str, block: Block, size: int) -> Iterator[tuple[int, int, bool]]:
    """(start, end, whether a paragraph opens there)."""
    start, opens = block.start, True
    while block.end - start > size:
        end, kind = _last_break(text, start + size // 2, start + size)
        yield start, end, opens
        start, opens = end, kind is _PARAGRAPH or (block.table and kind is _LINE)
    yield start, block.end, opens


def _last_break(text: str, low: int, high: int) -> tuple[int, re.Pattern[str] | None]:
    """Where best to cut in (low, high]: behind the last paragraph, line, sentence, white space, else high."""
    for kind in _BREAKS:
        end = -1
        for found in kind.finditer(text, low, high):
            end = found.end()
        if end > low:
            return end, kind
    return high, None


def _split(text: str, separator: re.Pattern[str]) -> list[tuple[int, int]]:
    """The stripped, non-empty spans between the separators."""
    borders = [0, *(at for found in separator.finditer(text) for at in found.span()), len(text)]
    return [span for a, b in zip(borders[::2], borders[1::2], strict=True) if (span := _strip(text, a, b))]


def _strip(text: str, start: int, end: int) -> tuple[int, int] | None:
    stripped = text[start:end].lstrip()
    start = end - len(stripped)
    end = start + len(stripped.rstrip())
    return (start, end) if start < end else None


def _weigh(text: str, token_spans: TokenSpans) -> int:
    return max(len(token_spans(text)), -(-len(text) // MAX_TOKEN_CHARS))


def _cut(text: str, start: int, end: int, starts: Sequence[int], limit: int) -> Iterator[tuple[int, int, int]]:
    """(start, end, weight) of pieces of at most `limit`, cut as late and as well as can be. `starts`: of tokens."""
    while start < end:
        stop = min(end, start + limit * MAX_TOKEN_CHARS)
        first = bisect_left(starts, start)
        if first + limit < len(starts) and starts[first + limit] < stop:
            stop = max(start + 1, starts[first + limit])
        if stop < end:
            stop, _ = _last_break(text, (start + stop) // 2, stop)
        span = _strip(text, start, stop)
        if span is not None:
            yield *span, max(bisect_left(starts, stop) - first, -(-(stop - start) // MAX_TOKEN_CHARS))
        start = stop


def _fit_all(
    text: str, packed: Iterable[tuple[int, int, int]], token_spans: TokenSpans, limit: int
) -> Iterator[tuple[int, int, int]]:
    """Each span by `_fit`, without the overlap where halves would otherwise not follow what is before them."""
    begun, done = -1, 0
    for start, end, counted in packed:
        weight = max(counted, -(-(end - start) // MAX_TOKEN_CHARS))
        if start > begun and weight <= TRUSTED * limit and _is_whole(text, start, end):
            parts = [(start, end, weight)]
        else:
            parts = list(_fit(text, start if start > begun else done, end, token_spans, limit))
        if len(parts) > 1 and start < done:
            parts = list(_fit(text, done, end, token_spans, limit))
        begun, done = parts[-1][0], end
        yield from parts


def _is_whole(text: str, start: int, end: int) -> bool:
    """Whether no word is cut at either end."""
    return (not start or text[start - 1].isspace()) and (end == len(text) or text[end].isspace())


def _fit(text: str, start: int, end: int, token_spans: TokenSpans, limit: int) -> Iterator[tuple[int, int, int]]:
    """(start, end, weight) of the span if it truly fits, else of its halves; one character is never cut.

    Tokens were counted in a window; where a word is cut, or a model's tokens depend on what stands around, the span by
    itself may hold more.
    """
    start += len(text[start:end]) - len(text[start:end].lstrip())
    weight = _weigh(text[start:end], token_spans)
    if weight <= limit or end - start < 2:
        yield start, end, weight
        return
    middle, _ = _last_break(text, start + (end - start) // 4, start + (end - start + 1) // 2)
    for a, b in ((start, middle), (middle, end)):
        span = _strip(text, a, b)
        if span is not None:
            yield from _fit(text, *span, token_spans, limit)


# ── packing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _pack(units: Sequence[_Unit], limit: int, overlap: int) -> Iterator[tuple[int, int, int]]:
    """(start, end, weight) of chunks filled with units in order; from half full, a paragraph that does not fit whole
    begins the next one."""
    paragraphs = _paragraph_weights(units)
    first, weight = 0, 0
    for i, unit in enumerate(units):
        full = weight + unit.weight > limit
        if i > first and (full or (unit.opens and weight >= limit / 2 and weight + paragraphs[i] > limit)):
            yield units[first].start, units[i - 1].end, weight
            begin, weight = i, 0
            while begin - 1 > first and weight + units[begin - 1].weight <= min(overlap, limit - unit.weight):
                begin -= 1
                weight += units[begin].weight
            first = begin
        weight += unit.weight
    if units:
        yield units[first].start, units[-1].end, weight


def _paragraph_weights(units: Sequence[_Unit]) -> list[int]:
    """For each unit, the weight from it to the end of its paragraph."""
    weights = [0] * len(units)
    total = 0
    for i in range(len(units) - 1, -1, -1):
        total += units[i].weight
        weights[i] = total
        if units[i].opens:
            total = 0
    return weights


def _total(units: Sequence[_Unit]) -> int:
    return sum(unit.weight for unit in units)


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """How many headings two paths share from the top."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _leads_to(block: Block, following: Block) -> bool:
    """Whether `following` is the same section going on (a page, a table) or a section inside it."""
    return following.headings[: len(block.headings)] == block.headings


def _join(last: _Piece, piece: _Piece, limit: int) -> _Piece | None:
    """Both as one, when one is tiny and their headings are the same, siblings, or parent and child."""
    shared = _shared(last.headings, piece.headings)
    related = shared >= max(len(last.headings), len(piece.headings)) - 1
    tiny = min(last.weight, piece.weight) < TINY * limit
    if not (related and tiny and last.weight + piece.weight <= limit):
        return None
    return _Piece(last.start, piece.end, last.weight + piece.weight, last.page, last.headings[:shared])
