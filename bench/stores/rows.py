"""What every store is given: sentences of real documents with their vectors, and questions; perturbed copies beyond these."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.serving.corpora import perturbed, questions, real_texts
from ragline.build import open_embedder
from ragline.protocols import Vectors
from ragline.sentences import sentences
from ragline.settings import Settings
from ragline.types import AnyOf, Chunk, FieldType, Record, Scope

FIELD = "shelf"
SHELVES = 1_000
"""A search on one shelf sees 0.1 % of the chunks."""
FIELDS = {FIELD: FieldType.KEYWORD}
QUERIES = 100
A_DOCUMENT = 20
"""Chunks."""


@dataclass(frozen=True, slots=True)
class Rows:
    """`vectors` and `asked`: of unit length, a row for each of `records` and of `texts`.  real: how many were embedded."""

    records: Sequence[Record]
    vectors: Vectors
    texts: Sequence[str]
    asked: Vectors
    real: int

    def exact(self, query: int, top_k: int, scope: Scope) -> set[str]:
        """Ids of the nearest, by a full scan."""
        scores = self.vectors @ self.asked[query]
        for condition in scope.conditions:
            assert isinstance(condition, AnyOf)
            on = np.array([one.fields[FIELD] in condition.values for one in self.records])
            scores = np.where(on, scores, -2.0)
        best = np.argsort(-scores)[:top_k]
        return {self.records[at].chunk.id for at in best if scores[at] > -2.0}


def rows(data: Path, work: Path, count: int, most_real: int) -> Rows:
    """`work`: where vectors are kept for the next run."""
    texts = [text for document in real_texts(data) for text in _sentences(document)][:most_real]
    asked = questions(data)[:QUERIES]
    held = work / f"vectors-{len(asked)}-{len(texts)}.npy"
    if not held.exists():
        work.mkdir(parents=True, exist_ok=True)
        np.save(held, asyncio.run(_embedded(texts, asked)))
    everything: Vectors = np.load(held)
    queries, real = everything[: len(asked)], everything[len(asked) :][:count]
    vectors = real
    if count > len(real):
        vectors = np.concatenate([real, perturbed(real, count - len(real), np.random.default_rng(5))])
    records = [_record(n, texts[n % len(texts)]) for n in range(count)]
    return Rows(records, np.ascontiguousarray(vectors), asked, queries, len(real))


def one_shelf(query: int) -> Scope:
    return Scope(conditions=(AnyOf(FIELD, (f"s{7 * query % SHELVES}",)),))


def _record(n: int, text: str) -> Record:
    chunk = Chunk(str(uuid.UUID(int=n + 1)), f"d{n // A_DOCUMENT}", 1, n % A_DOCUMENT, text, 0, len(text), None, ())
    uri = f"file:///d{n // A_DOCUMENT}.txt"
    return Record(chunk, uri, "", frozenset(), {FIELD: f"s{n % SHELVES}"}, text)


def _sentences(text: str) -> Iterator[str]:
    return (" ".join(text[start:end].split()) for start, end in sentences(text) if 20 <= end - start <= 400)


async def _embedded(texts: Sequence[str], asked: Sequence[str]) -> Vectors:
    embedder = await open_embedder(Settings())
    try:
        parts = [await embedder.embed(asked, purpose="query")]
        for start in range(0, len(texts), 1_000):
            parts.append(await embedder.embed(texts[start : start + 1_000], purpose="document"))
            print(f"embedded {start + len(parts[-1]):,} of {len(texts):,} sentences", flush=True)
        return np.concatenate(parts)
    finally:
        await embedder.aclose()
