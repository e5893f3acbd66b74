"""The rows and queries that every engine gets, and who truly is nearest to them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.vector_engines.engine import Row

QUERIES = 500
GROUPS = 2_000
GROUPS_PER_CHUNK = 4
"""Half of the chunks are private, each readable by 4 of 2,000 groups: one group reads 0.1 % of all chunks."""


@dataclass(frozen=True, slots=True)
class Data:
    rows: list[Row]
    queries: np.ndarray


def read_data(folder: Path, rows: int) -> Data:
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    if len(vectors) < rows + QUERIES:
        raise SystemExit(
            f"{folder} holds {len(vectors)} vectors, {rows + QUERIES} are needed (rows + {QUERIES} queries)"
        )
    order = np.random.default_rng(7).permutation(len(vectors))
    corpus, asked = np.sort(order[:rows]), order[-QUERIES:]
    with (folder / "sentences.jsonl").open() as lines:
        sentences = [json.loads(line) for line in lines]
    chance, result = random.Random(7), []
    taken = np.ascontiguousarray(vectors[corpus], np.float32)
    for n, place in enumerate(corpus):
        private = chance.random() < 0.5
        groups = tuple(f"group-{g}" for g in chance.sample(range(GROUPS), GROUPS_PER_CHUNK)) if private else ()
        sentence, shelf = sentences[place], "private" if private else "public"
        result.append(Row(f"chunk-{n}", taken[n], sentence["document"], 1, shelf, groups, sentence["text"]))
    return Data(result, np.ascontiguousarray(vectors[asked], np.float32))


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The ten chunks nearest to each query, by a full scan; fewer where fewer may be read."""

    open: list[set[str]]
    group: list[set[str]]
    """Among the chunks that the query's group reads."""
    group_or_everyone: list[set[str]]


def true_neighbours(data: Data, asked: Sequence[str]) -> Neighbours:
    """`asked`: for each query the group that asks it."""
    matrix, ids = np.array([row.vector for row in data.rows]), np.array([row.chunk_id for row in data.rows])
    private = np.array([bool(row.groups) for row in data.rows])
    members: dict[str, list[int]] = {}
    for place, row in enumerate(data.rows):
        for group in row.groups:
            members.setdefault(group, []).append(place)
    truth = Neighbours([], [], [])
    for scores, group in zip(data.queries @ matrix.T, asked, strict=True):
        mine = np.zeros(len(ids), bool)
        mine[members.get(group, [])] = True
        truth.open.append(_top_10(ids, scores))
        truth.group.append(_top_10(ids, np.where(mine, scores, BARRED)))
        truth.group_or_everyone.append(_top_10(ids, np.where(mine | ~private, scores, BARRED)))
    return truth


BARRED = -9
"""Below every inner product of unit vectors."""


def _top_10(ids: np.ndarray, scores: np.ndarray) -> set[str]:
    top = np.argpartition(-scores, 10)[:10]
    return {ids[t] for t in top if scores[t] > BARRED}
