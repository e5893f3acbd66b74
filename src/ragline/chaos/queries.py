"""What is asked: a list of queries, a few of them often and most of them seldom, as people ask.

Pure but for the file that is read.
"""

from __future__ import annotations

import json
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from random import Random

from ragline.chaos.target import CouldNotRun
from ragline.words import content_words

MOST_QUERIES = 1000
"""Made of titles: more than a cache's entry of each would be asked again in a minute at 50 a second."""

WORDS = (2, 4)
"""Fewest and most words of a query that is made of several titles."""


class Zipf:
    """Ranks from 0, rank r as often as 1 / (r + 1) ** `exponent`; an exponent of 0 makes all alike."""

    def __init__(self, count: int, exponent: float) -> None:
        """Raises ValueError: `count` < 1, or `exponent` < 0."""
        if count < 1 or exponent < 0:
            raise ValueError("a Zipf distribution needs a rank, and an exponent of 0 or more")
        self._sums = list(accumulate(1 / (rank + 1) ** exponent for rank in range(count)))

    def draw(self, dice: Random) -> int:
        return bisect(self._sums, dice.random() * self._sums[-1], hi=len(self._sums) - 1)


def queries_of(titles: Sequence[str], *, seed: int, most: int = MOST_QUERIES) -> list[str]:
    """The titles in a shuffled order, which is that of how often they are asked, and then words of several of them.

    Equal titles and an equal seed give equal queries. Raises CouldNotRun: the titles hold no word.
    """
    dice = Random(f"queries:{seed}")
    found = dict.fromkeys(sorted({" ".join(title.split()) for title in titles if content_words(title)}))
    words = sorted({word for title in found for word in content_words(title)})
    if not words:
        raise CouldNotRun(
            "The namespace has no document whose title could be asked for.",
            next_step="Ingest documents, name another one with --namespace, or give --queries FILE.",
        )
    queries = list(found)
    dice.shuffle(queries)
    for _ in range(2 * most):  # few words make few queries
        if len(queries) >= most:
            break
        made = " ".join(dice.sample(words, min(len(words), dice.randint(*WORDS))))
        if made not in found:
            found[made] = None
            queries.append(made)
    return queries[:most]


def read_queries(path: Path) -> list[str]:
    """A line a query, the most frequent first; of a line that is a JSON object its `text` or `question`.

    Raises:  CouldNotRun: no such file, or no query in it.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise CouldNotRun(f"{path} cannot be read: {error}.", next_step="Give --queries a text file.") from error
    if found := [query for line in lines if (query := _query(line.strip()))]:
        return found
    raise CouldNotRun(f"{path} holds no query.", next_step="Write one on each line.")


def _query(line: str) -> str:
    if not line.startswith("{"):
        return line
    try:
        said = json.loads(line)
    except ValueError:
        return line
    return str(said.get("text") or said.get("question") or "")
