"""The extractive generator, with the real embedder: sentences that stand in the passages, cited, or an honest refusal."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from ragline.citations import check, holds
from ragline.embedders.local import LocalEmbedder
from ragline.generators.extractive import MAX_CANDIDATES, MAX_SENTENCES, ExtractiveGenerator, Question, shortlist
from ragline.prompting import REFUSAL, build_prompt
from ragline.testing.generators import GeneratorContract
from ragline.testing.passages import passage
from ragline.types import Passage, Token, Usage

OIL = passage(
    "The 1973 oil crisis began in October 1973 when Arab members of OPEC proclaimed an oil embargo. By the end of the"
    " embargo in March 1974, the price of oil had risen from US$3 per barrel to nearly $12 globally.[14] The crisis was"
    " later called the first oil shock.",
    1,
    title="1973 oil crisis",
)
LEAVE = passage(
    "Paid leave\n\nHow many days of leave do I get?\n\nEveryone has 28 days a year. Unused days expire on 31 March.\n\n"
    "Requests:\n\n- Ask your manager two weeks ahead.\n- Enter the days in the calendar.",
    2,
    title="Handbook",
    headings=["Paid leave"],
)
ROUTER = passage(
    "The router is reset by holding the small button on its back for ten seconds.", 3, title="Router manual"
)
ALL = (OIL, LEAVE, ROUTER)


class TestContract(GeneratorContract):
    holds_something = False  # it works with the embedder of the process, which others use

    @pytest.fixture
    def connect(self, embedder: LocalEmbedder) -> Callable[[], ExtractiveGenerator]:
        return lambda: ExtractiveGenerator(embedder)


async def ask(
    embedder: LocalEmbedder, question: str, *found: Passage, max_tokens: int = 512
) -> tuple[str, list[Token]]:
    generator = ExtractiveGenerator(embedder)
    tokens = [token async for token in generator.generate(build_prompt(question, found), max_tokens=max_tokens)]
    return "".join(token.text for token in tokens), tokens


@pytest.mark.parametrize(
    ("question", "answer", "cited"),
    [
        ("When did the 1973 oil crisis begin?", "October 1973", 1),
        ("How much did a barrel of oil cost at the end of the embargo?", "nearly $12", 1),
        ("how many days of leave do i get", "28 days a year", 2),
        ("How do I reset the router?", "holding the small button", 3),
    ],
)
async def test_the_sentence_that_answers_is_shown_and_cited(
    embedder: LocalEmbedder, question: str, answer: str, cited: int
) -> None:
    text, _ = await ask(embedder, question, *ALL)

    assert answer in text
    assert check(text, (1, 2, 3)).citations[0] == cited
    assert holds(text, ALL)


@pytest.mark.parametrize(
    "question",
    [
        "Who won the football world cup in 2014?",
        "What is the capital of Mongolia?",
        "How do I bake sourdough bread?",
        "Welche Farbe hat der Himmel?",
    ],
)
async def test_a_question_about_something_else_is_refused(embedder: LocalEmbedder, question: str) -> None:
    text, tokens = await ask(embedder, question, *ALL)

    assert text == REFUSAL
    assert tokens[-1].usage == Usage()


async def test_no_passages_and_passages_without_words_are_refused(embedder: LocalEmbedder) -> None:
    assert (await ask(embedder, "When?"))[0] == REFUSAL
    assert (await ask(embedder, "When?", passage("\n --- \n…")))[0] == REFUSAL


async def test_every_sentence_stands_word_by_word_in_the_passage_it_cites(embedder: LocalEmbedder) -> None:
    _, tokens = await ask(embedder, "What happened to the price of oil in the 1973 oil crisis?", *ALL)

    shown = [token.text.strip() for token in tokens if token.text]
    assert 1 <= len(shown) <= MAX_SENTENCES
    for sentence in shown:
        found = re.fullmatch(r"(.*) \[(\d)\]([.!?]?)", sentence)
        assert found
        assert found[1] + found[3] in ALL[int(found[2]) - 1].hit.chunk.text.replace("[14]", "")


async def test_headings_and_questions_are_read_along_but_never_shown(embedder: LocalEmbedder) -> None:
    text, _ = await ask(embedder, "How many days of paid leave do I get?", LEAVE)

    assert "28 days" in text
    assert "Paid leave" not in text
    assert "?" not in text


async def test_the_length_bounds_further_sentences_but_not_the_best(embedder: LocalEmbedder) -> None:
    question = "What happened to the price of oil in the 1973 oil crisis?"

    text, tokens = await ask(embedder, question, OIL, max_tokens=1)

    assert len([token for token in tokens if token.text]) == 1
    assert text != REFUSAL


async def test_equal_input_gives_an_equal_answer(embedder: LocalEmbedder) -> None:
    question = "What was the oil crisis?"

    assert await ask(embedder, question, *ALL) == await ask(embedder, question, *ALL)


def test_a_long_context_is_cut_to_the_sentences_that_share_words_with_the_question() -> None:
    crowd = [passage(" ".join(f"Sentence {i} of {n} is filler." for i in range(30)), n) for n in range(1, 6)]
    wanted = passage("The zebra sleeps standing.", 6)

    found = shortlist(Question("How does a zebra sleep?"), [*crowd, wanted])

    assert len(found) == MAX_CANDIDATES
    assert found[0].text == "The zebra sleeps standing."


def test_a_table_is_taken_row_by_row() -> None:
    rows = "\n".join(
        f"Model: M{i}; Price: {i}00 EUR; Colour: red, green, blue, black, white and grey" for i in range(9)
    )

    found = shortlist(Question("What does the M7 cost?"), [passage(rows)])

    assert found[0].text.startswith("Model: M7; Price: 700 EUR")
    assert "\n" not in found[0].text


def test_prose_that_was_wrapped_stays_a_sentence() -> None:
    wrapped = (
        "The terms of the President and the Vice President shall end at noon on the 20th\n"
        "day of January, and the terms of Senators and Representatives at noon on the 3d day\n"
        "of January, of the years in which such terms would have ended if this article had\n"
        "not been ratified; and the terms of their successors shall then begin, as it is written down here."
    )

    (found,) = shortlist(Question("When do the terms of the President end?"), [passage(wrapped)])

    assert found.text == " ".join(wrapped.split())


def test_a_scrap_or_an_echo_of_the_question_says_nothing() -> None:
    page = passage("Welcome to Acme Motors Ltd.\n\nLtd.\n\nAcme Motors opening hours\n\n9 to 17", title="Acme Motors")

    found = shortlist(Question("What are the opening hours of Acme Motors?"), [page])

    assert {candidate.text for candidate in found} == {"Welcome to Acme Motors Ltd.", "9 to 17"}


@pytest.mark.parametrize(
    ("question", "yes", "no"),
    [
        ("When was it built?", "It was built in 1889.", "It was built of iron."),
        ("How many rooms are there?", "There are twelve rooms.", "There are rooms."),
        ("Who built it?", "It was built by Gustave Eiffel.", "It was built by workers."),
    ],
)
def test_the_kind_of_thing_that_is_asked_for_is_a_cue(question: str, yes: str, no: str) -> None:
    assert Question(question).cue(yes) == 1.0
    assert Question(question).cue(no) == -1.0
