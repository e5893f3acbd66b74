"""Merge the legs' rankings, whose scores cannot be compared, into one.

A cosine and a BM25 score live on different scales, so they are never added: the default merges by rank, the option by
scores that each leg has normalised on its own. Pure; the query path calls `fuse` between retrieval and the guard.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ragline.types import Fusion, Hit, LegName

RRF_K = 60
"""Damping, in ranks; 60 is the value the paper fixed."""


def fuse(rankings: Mapping[LegName, Sequence[Hit]], fusion: Fusion, *, top_k: int) -> list[Hit]:
    """Merge by the namespace's method and weights. A leg that failed is left out of `rankings`, or empty in it."""
    merge = convex_combination if fusion.method == "convex" else reciprocal_rank_fusion
    return merge(rankings, weights=fusion.weights, top_k=top_k)


def reciprocal_rank_fusion(
    rankings: Mapping[LegName, Sequence[Hit]], *, weights: Mapping[LegName, float], top_k: int, k: int = RRF_K
) -> list[Hit]:
    """Merge `rankings` by summing ``weight / (k + rank)`` for each chunk over the legs that returned it, rank from 1.

    Shapes:  rankings: best hit first, lengths free, a chunk at most once per leg.
             Returns at most `top_k` hits, best first, one per chunk, each with its rank in every leg that returned it.
    Units:   `k` in ranks; scores in 1/ranks, in [0, sum of weights / (k + 1)], scale "rrf".
    Weights: of a leg that has none: 1. The paper has no weights; with 1 everywhere this is its formula.
    Ties:    by chunk id, so equal input gives equal output on every replica.
    Raises:  ValueError: `top_k` < 1, `k` < 0, or a weight that is negative or not finite.
    Source:  Cormack, Clarke & Buettcher, SIGIR 2009.
    """
    if k < 0:
        raise ValueError(f"k must be at least 0, not {k}")
    shares = _weights(rankings, weights)
    points = {
        leg: [shares[leg] / (k + rank) for rank in range(1, len(ranking) + 1)] for leg, ranking in rankings.items()
    }
    return _merge(rankings, points, scale="rrf", top_k=top_k)


def convex_combination(
    rankings: Mapping[LegName, Sequence[Hit]], *, weights: Mapping[LegName, float], top_k: int
) -> list[Hit]:
    """Merge `rankings` by the weighted mean of scores that are min-max normalised within each leg.

    Shapes:  as for `reciprocal_rank_fusion`; every score finite.
    Units:   scores in [0, 1], scale "convex". A leg's best hit counts 1 × its weight, its last 0; a chunk that a leg
             did not return counts 0 there; where all scores of a leg are equal, each counts 1.
    Weights: of a leg that has none: 1. They are divided by their sum over the legs that returned something.
    Ties:    by chunk id.
    Raises:  ValueError: `top_k` < 1, or a weight that is negative or not finite.
    Source:  Bruch, Gai & Ingber, TOIS 2023, with the observed minimum (their "MM", not the theoretical one).
    """
    answered: dict[LegName, Sequence[Hit]] = {leg: ranking for leg, ranking in rankings.items() if ranking}
    shares = _weights(answered, weights)
    total = sum(shares[leg] for leg in sorted(answered)) or 1.0
    points = {
        leg: [shares[leg] / total * x for x in _normalised([hit.score for hit in ranking])]
        for leg, ranking in answered.items()
    }
    return _merge(answered, points, scale="convex", top_k=top_k)


def _weights(rankings: Mapping[LegName, Sequence[Hit]], weights: Mapping[LegName, float]) -> dict[LegName, float]:
    shares: dict[LegName, float] = {leg: weights.get(leg, 1.0) for leg in rankings}
    for leg, share in shares.items():
        if not (math.isfinite(share) and share >= 0):
            raise ValueError(f"the weight of leg {leg} must be finite and at least 0, not {share}")
    return shares


def _normalised(scores: Sequence[float]) -> list[float]:
    lowest, highest = min(scores), max(scores)
    if highest == lowest:
        return [1.0] * len(scores)
    return [(score - lowest) / (highest - lowest) for score in scores]


def _merge(
    rankings: Mapping[LegName, Sequence[Hit]], points: Mapping[LegName, Sequence[float]], *, scale: str, top_k: int
) -> list[Hit]:
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    hits: dict[str, Hit] = {}
    scores: dict[str, float] = {}
    places: dict[LegName, dict[str, int]] = {}
    for leg in sorted(rankings):  # in a fixed order: which leg answered first must not move a score's last bit
        ids = [hit.chunk.id for hit in rankings[leg]]
        places[leg] = {chunk_id: rank for rank, chunk_id in enumerate(ids, start=1)}
        hits = dict(zip(ids, rankings[leg], strict=True)) | hits
        for chunk_id, gain in zip(ids, points[leg], strict=True):
            scores[chunk_id] = scores.get(chunk_id, 0.0) + gain
    best = [i for _, i in sorted([(-score, chunk_id) for chunk_id, score in scores.items()])[:top_k]]
    return [
        Hit(hits[i].chunk, hits[i].uri, hits[i].title, scores[i], scale,
            {leg: ranks[i] for leg, ranks in places.items() if i in ranks})
        for i in best
    ]  # fmt: skip
