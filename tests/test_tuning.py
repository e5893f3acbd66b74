"""A choice is believed only where questions that it has not seen agree."""

from __future__ import annotations

import random

import numpy as np
import pytest

from ragline.errors import InvalidRequest
from ragline.tuning import CANDIDATES, SHARES, Choice, Ranked, choices, judge, scores
from ragline.types import Chunk, Fusion, Hit, LegName

NOW = Choice(Fusion(), 50)


def hit(document: str, score: float) -> Hit:
    return Hit(Chunk(f"chunk-{document}", document, 0, 0, "", 0, 0), document, "", score, "raw")


def question(keyword: str, dense: str, right: str) -> Ranked:
    legs: dict[LegName, list[Hit]] = {
        "keyword": [hit(document, 9.0 - rank) for rank, document in enumerate(keyword)],
        "dense": [hit(document, 0.9 - rank / 10) for rank, document in enumerate(dense)],
    }
    return Ranked({right: 1.0}, legs)


def test_every_choice_is_tried_and_the_present_one_stands_first() -> None:
    tried = choices(NOW, chunk_tokens=[100])
    assert tried[0] == NOW
    assert len(tried) == 1 + 2 * 2 * len(SHARES) * len(CANDIDATES)
    assert {choice.chunk_tokens for choice in tried} == {None, 100}


def test_a_score_is_that_of_the_fused_ranking() -> None:
    keyword_only = Choice(Fusion("rrf", {"keyword": 1.0, "dense": 0.0}), 50)
    dense_only = Choice(Fusion("convex", {"keyword": 0.0, "dense": 1.0}), 50)
    table = scores([question("ab", "ba", right="a")], [keyword_only, dense_only])
    assert table.tolist() == [[1.0], [pytest.approx(1 / np.log2(3))]]
    shallow = Choice(Fusion(), 1)
    assert scores([question("ab", "bc", right="c")], [shallow]).tolist() == [[0.0]], "beyond the candidates"


def test_a_leg_that_is_right_throughout_is_found_out() -> None:
    random.seed(1)
    questions = []
    for _ in range(100):
        right, *wrong = random.sample("abcdefgh", 6)
        questions.append(question("".join(wrong), "".join([right, *wrong]), right))
    tried = choices(NOW)
    verdict = judge(scores(questions, tried), tried)
    assert verdict.better
    assert verdict.held_out.low > 0
    assert verdict.chosen.fusion.weights["keyword"] < 0.5


def test_luck_is_not_believed() -> None:
    """Settings that differ by chance alone: the best one gains on the questions it was chosen on, and not on others.

    A 95 % interval lies above zero once in forty times by chance; choosing must not make that more.
    """
    tried = [NOW] * 66
    verdicts = [judge(np.random.default_rng(seed).random((66, 120)), tried) for seed in range(40)]
    assert all(verdict.best.mean >= verdict.now.mean for verdict in verdicts)
    assert sum(verdict.better for verdict in verdicts) <= 3
    assert sum(verdict.best.mean - verdict.now.mean > 0.02 for verdict in verdicts) > 30, (
        "which trust would have believed"
    )


def test_what_is_equal_stays_as_it_is() -> None:
    tried = choices(NOW)
    verdict = judge(np.ones((len(tried), 40)), tried)
    assert (verdict.chosen, verdict.better) == (NOW, False)
    assert verdict.held_out.mean == 0


def test_too_few_questions_tell_nothing() -> None:
    with pytest.raises(InvalidRequest, match="12 questions with judged documents are too few"):
        judge(np.ones((2, 12)), [NOW, NOW])
