"""Which fusion ranks a user's own questions best, and whether that is more than luck. `ragline tune` calls it; pure.

Each question comes with the whole ranking of each leg, so a setting is tried by fusing them anew, as the query path does.
What is chosen on some of the questions is judged on the others (cross-validation), so that the figure that decides is
one of questions the choice has not seen.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ragline.errors import InvalidRequest
from ragline.evaluation import Interval, bootstrap, ndcg, paired_bootstrap
from ragline.fusion import fuse
from ragline.types import Fusion, Hit, LegName

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Weights of the keyword leg that are tried; the dense leg has the rest."""

CANDIDATES = (50, 100, 200)
"""Hits a leg that are tried."""

FOLDS = 5

LEAST_QUESTIONS = 20
"""Below this a fold holds three questions, and no interval says anything."""

DEPTH = 10
"""nDCG@10 is the figure that is tuned: what a reader, or a generator, gets."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A setting that can be tried. `chunk_tokens` None: as the namespace has it."""

    fusion: Fusion
    candidates: int
    chunk_tokens: int | None = None

    def words(self) -> str:
        weights = ", ".join(f"{leg} {weight:g}" for leg, weight in sorted(self.fusion.weights.items()))
        chunks = f", chunks of {self.chunk_tokens} tokens" if self.chunk_tokens else ""
        return f"{self.fusion.method} ({weights}), {self.candidates} candidates{chunks}"


@dataclass(frozen=True, slots=True)
class Ranked:
    """A question's judged documents, and the ranking of each leg: the leg's own scores, best first."""

    grades: Mapping[str, float]
    legs: Mapping[LegName, Sequence[Hit]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`chosen` is the best on all questions. `held_out`: what choosing gains on questions it has not seen, as an interval.

    `better`: the whole interval is above zero. `now`, `best`: means of the present and of the chosen setting, on all.
    """

    now: Interval
    best: Interval
    held_out: Interval
    chosen: Choice
    better: bool


def choices(now: Choice, *, chunk_tokens: Sequence[int] = ()) -> list[Choice]:
    """Everything that is tried, the present setting first, so that it wins a tie."""
    depths = sorted({*CANDIDATES, now.candidates})
    tried = [
        Choice(Fusion(method, {"keyword": share, "dense": round(1 - share, 2)}), depth, size)
        for size in (now.chunk_tokens, *chunk_tokens)
        for method in ("rrf", "convex")
        for share in SHARES
        for depth in depths
    ]
    return [now, *tried]


def scores(questions: Sequence[Ranked], tried: Sequence[Choice]) -> NDArray[np.float64]:
    """nDCG@10 of every question under every choice. Shapes: (len(tried), len(questions)). CPU only: run it off the loop."""
    return np.array([[_score(question, choice) for question in questions] for choice in tried])


def check_enough(count: int) -> None:
    """Raises InvalidRequest: so many questions with judged documents are too few. Before anything is ingested for them."""
    if count < LEAST_QUESTIONS:
        raise InvalidRequest(
            f"{count} questions with judged documents are too few to tune on.",
            next_step=f"Give at least {LEAST_QUESTIONS}; some hundred tell small differences.",
            field="folder",
        )


def judge(table: NDArray[np.float64], tried: Sequence[Choice], *, seed: int = 0) -> Verdict:
    """Choose among `tried` by cross-validation; its first is the present setting.

    Shapes:  table as `scores` makes it.
    Raises:  InvalidRequest: too few questions to tell anything.
    """
    count = table.shape[1]
    check_enough(count)
    order = random.Random(seed).sample(range(count), count)
    held_out = np.zeros(count)
    for fold in range(FOLDS):
        unseen = order[fold::FOLDS]
        seen = np.setdiff1d(np.arange(count), unseen)
        held_out[unseen] = table[_best(table[:, seen]), unseen]
    best, now = table[_best(table)], table[0]
    gain = paired_bootstrap(held_out.tolist(), now.tolist())
    return Verdict(bootstrap(now.tolist()), bootstrap(best.tolist()), gain, tried[_best(table)], gain.low > 0)


def _best(table: NDArray[np.float64]) -> int:
    return int(np.argmax(table.mean(axis=1).round(9)))  # of equal ones the first


def _score(question: Ranked, choice: Choice) -> float:
    rankings = {leg: hits[: choice.candidates] for leg, hits in question.legs.items()}
    fused = fuse(rankings, choice.fusion, top_k=sum(map(len, rankings.values())) or 1)
    documents = list(dict.fromkeys(hit.uri for hit in fused))
    return ndcg(documents[:DEPTH], question.grades, k=DEPTH)
