from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.sentences import sentences


def split(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    "expected",
    [
        ["One.", "Two!", "Three?", "Four…", "Five"],
        ["Dr. Smith paid $3.50 to J. R. Jones, e.g. in Fig. 3.", "Then he left."],
        ["It rose by 2.5 per cent.", "See www.example.org for more."],
        ["The U.S.C. § 704 applies.", "It is a no.", "Yes?"],
        ["“Really?” she asked.", "(He nodded.)", "Good."],
        ["Grüße aus z.B. Köln.", "Äpfel sind rot."],
        ["Это первое.", "Это второе, т.е. последнее."],
    ],
)
def test_sentences_with_spaces(expected: list[str]) -> None:
    assert split(" ".join(expected)) == expected


def test_scripts_without_spaces_or_with_their_own_marks() -> None:
    assert split("これは文です。次の文！「引用。」終わり") == ["これは文です。", "次の文！", "「引用。」", "終わり"]
    assert split("مرحبا؟ نعم. هذا نص۔") == ["مرحبا؟", "نعم.", "هذا نص۔"]
    assert split("यह एक है। यह दो है॥") == ["यह एक है।", "यह दो है॥"]


def test_empty_lines_and_list_items_end_sentences_line_breaks_do_not() -> None:
    text = "A title\n\nwords that\ngo on\n- first\n- second\n2) third"
    assert split(text) == ["A title", "words that\ngo on", "- first", "- second", "2) third"]


@given(st.text(alphabet=st.sampled_from(" \n\t.!?。…\"')(aB1-•é۔"), max_size=60) | st.text(max_size=60))
def test_every_character_but_space_is_in_one_sentence(text: str) -> None:
    spans = sentences(text)
    assert "".join("".join(text[a:b].split()) for a, b in spans) == "".join(text.split())
    for start, end in spans:
        assert text[start:end].strip() == text[start:end] != ""
    assert all(a[1] <= b[0] for a, b in pairwise(spans))


@pytest.mark.parametrize("unit", [".", ". ", "\n", "\n ", '!"', "a", "a.", "\n\n", "- ", "\n-", "1"])
def test_long_runs_of_anything_end(unit: str) -> None:
    sentences(unit * 300_000)  # quadratic cost would run into the test's time limit
