"""Citations: one that points nowhere never reaches a reader, and everything else in the text stays as it was."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.citations import CitationStream, check, holds, is_refusal
from ragline.prompting import REFUSAL
from ragline.testing.passages import passage, passages

VALID = (1, 2, 3)


@pytest.mark.parametrize(
    ("text", "citations"),
    [
        ("Red [1].", (1,)),
        ("Red[2].", (2,)),
        ("Red [1, 3] and [1][2].", (1, 3, 2)),
        ("Red [1-3].", (1, 2, 3)),
        ("Red [2–3; 1].", (2, 3, 1)),
        ("Red [ 1 ].", (1,)),
        ("Red.", ()),
    ],
)
def test_citations_are_found_in_order_each_once(text: str, citations: tuple[int, ...]) -> None:
    checked = check(text, VALID)

    assert (checked.text, checked.citations, checked.removed) == (text, citations, 0)


@pytest.mark.parametrize(
    ("text", "cleaned", "removed"),
    [
        ("Paris [9] is big.", "Paris is big.", 1),
        ("Paris [9].", "Paris.", 1),
        ("Paris[9].", "Paris.", 1),
        ("Paris [9][1].", "Paris [1].", 1),
        ("Paris [1, 9].", "Paris [1].", 1),
        ("Paris [2-5].", "Paris [2, 3].", 2),
        ("Paris [0].", "Paris.", 1),
        ("[9] Paris", "Paris", 1),
        ("one\n[9] two", "one\ntwo", 1),
        ("(see [9])", "(see)", 1),
        ("`code` [9] runs", "`code` runs", 1),
        ("two [9] [8] more", "two more", 2),
        ("a `tick [9] alone\nnext", "a `tick alone\nnext", 1),
    ],
)
def test_what_points_nowhere_is_taken_out_and_the_text_stays_readable(text: str, cleaned: str, removed: int) -> None:
    checked = check(text, VALID)

    assert (checked.text, checked.removed) == (cleaned, removed)


@pytest.mark.parametrize(
    "text",
    [
        "a link [9](https://example.org)",
        "[9]: https://example.org",
        "`a[9]` and ``b ` [9]``",
        "```python\nx[9] = [9]\n```\nend",
        "a[9] and row_ids[9]",
        "a footnote [^9]",
        "the years [2019] and [1999, 2001]",
        "a list [a, b] and [] and [",
        "spaces  stay \n\n  as they are  ",
    ],
)
def test_what_is_no_citation_stays_untouched(text: str) -> None:
    assert check(text, VALID) == check(text, ())
    assert check(text, VALID).text == text


def test_taking_out_never_makes_a_new_citation() -> None:
    assert check("[[9]7]", VALID).text == "[?7]"


def test_a_citation_that_the_end_cuts_off_is_dropped() -> None:
    assert check("Paris [1] and Rome [2", VALID).text == "Paris [1] and Rome"


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_unfinished_citation_is_held_back_and_the_rest_is_not() -> None:
    stream = CitationStream(VALID)

    assert stream.feed("Paris is") == "Paris is"
    assert stream.feed(" big [") == " big"
    assert stream.feed("9") == ""
    assert stream.feed("]") == ""
    assert stream.feed(".") == "."
    assert stream.feed(" Rome [1] too") == " Rome [1] too"
    assert stream.finish() == ""
    assert (stream.citations, stream.removed) == ((1,), 1)


def test_a_bracket_that_never_closes_is_held_back_only_so_far() -> None:
    stream = CitationStream(VALID)

    shown = "".join(stream.feed("[" if i == 0 else " 1") for i in range(100))

    assert shown.startswith("[ 1 1")


TEXTS = st.text(alphabet="[]1290-, `~\n(:ax_.hp/", max_size=50)


@given(TEXTS, st.lists(st.integers(0, 50), max_size=8))
def test_however_a_stream_is_cut_its_whole_is_the_same(text: str, cuts: list[int]) -> None:
    stream = CitationStream(VALID)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]

    pieces = [stream.feed(text[a:b]) for a, b in pairwise(edges)]
    whole = "".join(pieces) + stream.finish()

    assert (whole, stream.citations, stream.removed) == (
        check(text, VALID).text,
        check(text, VALID).citations,
        check(text, VALID).removed,
    )


@given(st.text(alphabet="[]1290-, \n(:ax_.hp/", max_size=50))
def test_a_checked_text_has_nothing_left_to_take_out(text: str) -> None:
    assert check(check(text, VALID).text, VALID).removed == 0


@given(st.text(alphabet="ab .,\n`~()é漢", max_size=60))
def test_a_text_without_brackets_is_never_changed(text: str) -> None:
    assert check(text, VALID).text == text


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    [
        REFUSAL,
        f" {REFUSAL.rstrip('.')} [1]\n",
        f"**{REFUSAL}**",
        "I don’t know.",
        "The provided passages do not mention the price.",
        "Sorry, I could not find that in the documents.",
        "None of the passages answers this.",
        "There is no information about this.",
    ],
)
def test_refusals(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "It is red [1].",
        "The passages do not mention the price, but the size is 4 m [1].",
        "I do not need a visa: no visa is needed [2].",
        "No smoking is allowed.",
        "",
    ],
)
def test_answers_are_no_refusals(text: str) -> None:
    assert not is_refusal(text)


# ── holds ────────────────────────────────────────────────────────────────────────────────────────────────────────────

LEAVE = (
    passage("Employees are granted twenty days of paid vacation each year. Maria Lopez approves it.", 1, title="Leave"),
    passage("The canteen opens at 11:30 and closes at 14:00.", 2, title="Canteen"),
)


@pytest.mark.parametrize(
    "answer",
    [
        "Employees are granted twenty days of paid vacation each year [1].",
        "Each year an employee has 20 days of paid vacation [1].",
        "Yes. Maria Lopez approves vacation. [1] The canteen opens at 11:30 [2].",
        "1. Paid vacation: twenty days [1]\n2. Canteen opens: 11:30 [2]",
        "The canteen closes at 14:00.",
    ],
)
def test_an_answer_that_its_passages_carry_holds(answer: str) -> None:
    assert holds(answer, LEAVE)


@pytest.mark.parametrize(
    "answer",
    [
        "Employees are granted 30 days of paid vacation each year [1].",
        "John Smith approves paid vacation of employees [1].",
        "The canteen opens at 11:30 [1].",
        "Employees may work from home and buy shares of the company [1].",
        "Employees are granted twenty days of paid vacation [1]. It was founded in 1987 by monks [2].",
    ],
)
def test_an_answer_with_something_made_up_does_not(answer: str) -> None:
    assert not holds(answer, LEAVE)


def test_nothing_holds_without_passages() -> None:
    assert not holds("It is red.", ())
    assert holds("It is red.", passages("Red it is."))
