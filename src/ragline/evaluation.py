"""How good a ranking or an answer is, in the figures that others publish, with their uncertainty.

`ragline evaluate` and `bench/quality.py` call it. Pure but for the loaders, which read a folder: a BEIR collection
(`corpus.jsonl`, `queries.jsonl`, `qrels/*.tsv`), or a corpus with questions (`corpus.jsonl`, `questions.jsonl`).
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ragline.errors import InvalidRequest

RESAMPLES = 10_000
"""Bootstrap resamples: the bounds of a 95 % interval then repeat to about 2 % of its width."""

LONGEST_ANSWER_WORDS = 12
"""A longer reference answer is prose, which no passage repeats word for word; looking for it would only count zeros."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Query:
    """Something to search for, and what should be found.

    grades:  document → how relevant it is, over 0. Documents that are judged irrelevant are left out.
    answers: strings any of which answers it; empty: none is known, or none can be looked for.
    evidence: texts of the documents that prove the answer.  answerable: whether the corpus answers it at all.
    """

    id: str
    text: str
    grades: Mapping[str, float]
    answers: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    answerable: bool = True


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over `n` queries, and the bootstrap's 95 % interval around it."""

    mean: float
    low: float
    high: float
    n: int


# ── rankings ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def ndcg(ranking: Sequence[str], grades: Mapping[str, float], *, k: int) -> float:
    """Discounted gain of the first `k` documents over that of the best possible order.

    Gain:    the grade itself (linear), divided by ``log2(rank + 1)``: trec_eval's `ndcg_cut`, which BEIR reports. Not
             the ``2 ** grade - 1`` that others use; for grades of 0 and 1 the two are equal.
    Source:  Järvelin & Kekäläinen, TOIS 2002; discount as in trec_eval 9.
    """
    best = _gain(sorted(grades.values(), reverse=True)[:k])
    return _gain([grades.get(document, 0.0) for document in ranking[:k]]) / best if best else 0.0


def recall(ranking: Sequence[str], grades: Mapping[str, float], *, k: int) -> float:
    """Share of the relevant documents that are among the first `k`."""
    return len(grades.keys() & set(ranking[:k])) / len(grades) if grades else 0.0


def reciprocal_rank(ranking: Sequence[str], grades: Mapping[str, float]) -> float:
    """1 / rank of the first relevant document; 0 when none was returned. Its mean is MRR."""
    return next((1 / rank for rank, document in enumerate(ranking, start=1) if document in grades), 0.0)


def hit(ranking: Sequence[str], grades: Mapping[str, float], *, k: int) -> float:
    """1 when any relevant document is among the first `k`."""
    return float(any(document in grades for document in ranking[:k]))


def _gain(grades: Iterable[float]) -> float:
    return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, start=1))


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def holds(text: str, answers: Iterable[str]) -> bool:
    """Whether any of `answers` stands in `text`, whole words, both normalised.

    Source:  the normalisation of SQuAD (Rajpurkar et al., EMNLP 2016): lower case, no punctuation, no articles; ours
             also folds compatibility forms and drops signs outside ASCII. Scripts without spaces match anywhere.
    """
    words = f" {_normalised(text)} "
    for answer in map(_normalised, answers):
        if answer and (f" {answer} " in words or (_WIDE.search(answer) and answer in words)):
            return True
    return False


_WIDE = re.compile("[぀-ヿ㐀-䶿一-鿿฀-๿]")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def _normalised(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).lower()
    kept = "".join(c for c in folded if unicodedata.category(c)[0] not in "PS")
    return " ".join(_ARTICLES.sub(" ", kept).split())


# ── uncertainty ──────────────────────────────────────────────────────────────────────────────────────────────────────


def bootstrap(values: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Mean of one value a query, and the interval that queries drawn anew would put around it.

    Method:  percentile bootstrap; the same seed gives the same interval.  Source: Efron & Tibshirani, 1993, ch. 13.
    Raises:  ValueError: no values.
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    sample = np.asarray(values, np.float64)
    low, high = np.quantile(_resampled_means(sample, seed, resamples), [0.025, 0.975])
    return Interval(float(sample.mean()), float(low), float(high), len(sample))


def paired_bootstrap(
    values: Sequence[float], others: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Interval of the mean of ``values - others``, query by query: is one system better than the other on these?

    Raises:  ValueError: not the same number of values.
    """
    if len(values) != len(others):
        raise ValueError(f"{len(values)} values cannot be paired with {len(others)}")
    return bootstrap(np.subtract(values, others).tolist(), seed=seed, resamples=resamples)


def _resampled_means(sample: NDArray[np.float64], seed: int, resamples: int) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    block = max(1, 4_000_000 // len(sample))  # 32 MB of indices at a time
    means = [
        sample[random.integers(0, len(sample), (min(block, resamples - start), len(sample)))].mean(axis=1)
        for start in range(0, resamples, block)
    ]
    return np.concatenate(means)


# ── folders ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def load_judged(folder: Path) -> list[Query]:
    """The queries of a BEIR folder that have a relevant document, in the order of `queries.jsonl`.

    Raises:  InvalidRequest: a file is missing, or a line of it is not what it should be; names both.
    """
    grades: dict[str, dict[str, float]] = {}
    for id, document, grade in _judgments(_qrels(folder)):
        if grade > 0:
            grades.setdefault(id, {})[document] = grade
    path = folder / "queries.jsonl"
    queries = [Query(line.text("_id"), line.text("text"), grades.get(line.text("_id"), {})) for line in _lines(path)]
    judged = [query for query in queries if query.grades]
    if not judged:
        raise _wrong(path, "no query has a relevant document", "Check that its ids are those of the qrels.")
    return judged


def load_questions(path: Path) -> list[Query]:
    """Questions with `answers`, and the documents that hold them: `gold_docs`, else the files that `evidence` names.

    Raises:  InvalidRequest, as `load_judged`.
    """
    questions = []
    for line in _lines(path):
        evidence = [part for name in ("evidence", "spans") for part in line.dicts(name)]
        named = [str(part[name]) for part in evidence for name in ("document", "filename") if part.get(name)]
        gold = line.texts("gold_docs") if "gold_docs" in line.value else named
        proof = [str(part[name]) for part in evidence for name in ("text", "content") if part.get(name)]
        questions.append(
            Query(
                line.text("id", default=str(line.number)),
                line.text("question"),
                dict.fromkeys(gold, 1.0),
                tuple(answer for answer in line.texts("answers") if len(answer.split()) <= LONGEST_ANSWER_WORDS),
                tuple(proof),
                answerable=not line.value.get("unanswerable", False),
            )
        )
    if not questions:
        raise _wrong(path, "the file is empty", 'Put one {"question": …, "answers": […], "gold_docs": […]} on a line.')
    return questions


def spread(items: Sequence[T], most: int | None) -> list[T]:
    """At most `most` of `items`, evenly spread: files are often sorted by topic, and a head of one is no sample."""
    if most is None or most >= len(items):
        return list(items)
    return [items[i * len(items) // most] for i in range(most)]


@dataclass(frozen=True, slots=True)
class _Line:
    """One JSON object of a JSONL file, with its place for the error message."""

    path: Path
    number: int
    value: dict[str, Any] = field(repr=False)

    def text(self, name: str, *, default: str | None = None) -> str:
        found = self.value.get(name, default)
        if not isinstance(found, str) or not found:
            raise self._wrong(f"`{name}` must be a string that is not empty")
        return found

    def texts(self, name: str) -> list[str]:
        found = self.value.get(name) or []
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise self._wrong(f"`{name}` must be a list of strings")
        return found

    def dicts(self, name: str) -> list[dict[str, Any]]:
        found = self.value.get(name) or []
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise self._wrong(f"`{name}` must be a list of objects")
        return found

    def _wrong(self, what: str) -> InvalidRequest:
        return _wrong(self.path, f"line {self.number}: {what}", "Correct that line.")


def _lines(path: Path) -> Iterator[_Line]:
    for number, text in _numbered(path):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _wrong(path, f"line {number}: not valid JSON: {error}", "Correct that line.") from error
        if not isinstance(value, dict):
            raise _wrong(path, f"line {number}: not a JSON object", "Correct that line.")
        yield _Line(path, number, value)


def _judgments(path: Path) -> Iterator[tuple[str, str, float]]:
    for number, text in _numbered(path):
        columns = text.split("\t")
        try:
            query, document, grade = columns
            yield query, document, float(grade)
        except ValueError as error:
            if number == 1 and columns[0] in ("query-id", "query_id", "qid"):
                continue
            raise _wrong(
                path, f"line {number}: not a query, a document and a grade, separated by tabs", "Correct that line."
            ) from error


def _numbered(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise _wrong(path, str(why), "Name a folder with corpus.jsonl and queries.jsonl or questions.jsonl.") from error


def _qrels(folder: Path) -> Path:
    found = sorted((folder / "qrels").glob("*.tsv"))
    test = [path for path in found if path.stem == "test"] or found
    if len(test) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise _wrong(folder / "qrels", f"one .tsv file is needed, or one named test.tsv; found: {names}", "Keep one.")
    return test[0]


def _wrong(path: Path, what: str, next_step: str) -> InvalidRequest:
    return InvalidRequest(f"{path}: {what}.", next_step=next_step, field="folder")
