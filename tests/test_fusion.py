from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.fusion import convex_combination, fuse, reciprocal_rank_fusion
from ragline.types import Chunk, Fusion, Hit, LegName

Method: TypeAlias = Literal["rrf", "convex"]
METHODS: tuple[Method, ...] = ("rrf", "convex")
EVEN: Mapping[LegName, float] = {"keyword": 1.0, "dense": 1.0}


def hit(name: str, score: float, scale: str = "bm25") -> Hit:
    chunk = Chunk(id=name, document="d", content=1, ordinal=0, text=name, start=0, end=len(name))
    return Hit(chunk=chunk, uri="u", title="t", score=score, scale=scale)


def ranking(*scored: tuple[str, float]) -> list[Hit]:
    return [hit(name, score) for name, score in scored]


def ids(hits: Sequence[Hit]) -> list[str]:
    return [h.chunk.id for h in hits]


rankings_of = st.dictionaries(
    st.sampled_from(["keyword", "dense"]),
    st.dictionaries(st.sampled_from("abcdefgh"), st.floats(-1, 100), max_size=8).map(
        lambda scores: ranking(*sorted(scores.items(), key=lambda item: (-item[1], item[0])))
    ),
)
weights_of = st.fixed_dictionaries({"keyword": st.floats(0, 10), "dense": st.floats(0, 10)})
methods = st.sampled_from(METHODS)


def test_reciprocal_rank_fusion_by_hand() -> None:
    rankings: dict[LegName, list[Hit]] = {
        "keyword": ranking(("a", 9.0), ("b", 8.0)),
        "dense": ranking(("b", 0.9), ("c", 0.8)),
    }
    merged = reciprocal_rank_fusion(rankings, weights=EVEN, top_k=10)
    assert ids(merged) == ["b", "a", "c"]
    assert merged[0].score == pytest.approx(1 / 62 + 1 / 61)
    assert merged[1].score == pytest.approx(1 / 61)
    assert merged[2].score == pytest.approx(1 / 62)
    assert merged[0].ranks == {"keyword": 2, "dense": 1}
    assert merged[1].ranks == {"keyword": 1}
    assert {h.scale for h in merged} == {"rrf"}


def test_convex_combination_by_hand() -> None:
    rankings: dict[LegName, list[Hit]] = {
        "keyword": ranking(("a", 10.0), ("b", 6.0), ("c", 2.0)),
        "dense": ranking(("c", 0.8), ("a", 0.4)),
    }
    merged = convex_combination(rankings, weights={"keyword": 1.0, "dense": 3.0}, top_k=10)
    assert [(h.chunk.id, h.score) for h in merged] == [("c", 0.75), ("a", 0.25), ("b", 0.125)]
    assert merged[0].ranks == {"keyword": 3, "dense": 1}
    assert {h.scale for h in merged} == {"convex"}


def test_a_missing_leg_leaves_the_other_in_order() -> None:
    alone = ranking(("b", 3.0), ("a", 2.0), ("c", 1.0))
    for method in METHODS:
        fusion = Fusion(method=method, weights={"keyword": 0.3, "dense": 0.7})
        assert ids(fuse({"dense": alone}, fusion, top_k=10)) == ["b", "a", "c"]
        assert ids(fuse({"keyword": [], "dense": alone}, fusion, top_k=10)) == ["b", "a", "c"]


def test_a_leg_alone_is_normalised_to_the_whole_scale() -> None:
    merged = convex_combination({"dense": ranking(("a", 0.9), ("b", 0.1))}, weights={"dense": 0.2}, top_k=2)
    assert [h.score for h in merged] == [1.0, 0.0]


@pytest.mark.parametrize("top_k", [0, -1])
def test_top_k_below_one_is_an_error(top_k: int) -> None:
    for merge in (reciprocal_rank_fusion, convex_combination):
        with pytest.raises(ValueError, match="top_k"):
            merge({}, weights=EVEN, top_k=top_k)


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_a_weight_that_is_no_weight_is_an_error(weight: float) -> None:
    for merge in (reciprocal_rank_fusion, convex_combination):
        with pytest.raises(ValueError, match="weight of leg dense"):
            merge({"dense": ranking(("a", 1.0))}, weights={"dense": weight}, top_k=1)


def test_negative_damping_is_an_error() -> None:
    with pytest.raises(ValueError, match="k must"):
        reciprocal_rank_fusion({}, weights=EVEN, top_k=1, k=-1)


@given(rankings_of, weights_of, methods, st.integers(1, 20))
def test_one_hit_per_chunk_best_first_ties_by_id(
    rankings: dict[LegName, list[Hit]], weights: dict[LegName, float], method: Method, top_k: int
) -> None:
    merged = fuse(rankings, Fusion(method=method, weights=weights), top_k=top_k)
    found = {h.chunk.id for hits in rankings.values() for h in hits}
    assert len(merged) == len(set(ids(merged))) == min(top_k, len(found))
    assert ids(merged) == [i for _, i in sorted((-h.score, h.chunk.id) for h in merged)]
    for h in merged:
        by_leg = {leg: ids(hits) for leg, hits in rankings.items()}
        assert h.ranks == {leg: names.index(h.chunk.id) + 1 for leg, names in by_leg.items() if h.chunk.id in names}


@given(rankings_of, weights_of, methods)
def test_the_order_of_the_legs_does_not_matter(
    rankings: dict[LegName, list[Hit]], weights: dict[LegName, float], method: Method
) -> None:
    fusion = Fusion(method=method, weights=weights)
    swapped = dict(reversed(rankings.items()))
    assert fuse(rankings, fusion, top_k=20) == fuse(swapped, fusion, top_k=20)


@given(rankings_of, weights_of)
def test_scores_stay_in_their_stated_range(rankings: dict[LegName, list[Hit]], weights: dict[LegName, float]) -> None:
    bound = sum(weights.values()) / 61 + 1e-12
    assert all(0 <= h.score <= bound for h in reciprocal_rank_fusion(rankings, weights=weights, top_k=20))
    assert all(0 <= h.score <= 1 + 1e-12 for h in convex_combination(rankings, weights=weights, top_k=20))


@given(rankings_of)
def test_rank_fusion_reads_ranks_only(rankings: dict[LegName, list[Hit]]) -> None:
    blind: dict[LegName, list[Hit]] = {
        leg: [hit(h.chunk.id, -float(n)) for n, h in enumerate(hits)] for leg, hits in rankings.items()
    }
    before = reciprocal_rank_fusion(rankings, weights=EVEN, top_k=20)
    after = reciprocal_rank_fusion(blind, weights=EVEN, top_k=20)
    assert [(h.chunk.id, h.score) for h in before] == [(h.chunk.id, h.score) for h in after]


@given(rankings_of, st.sampled_from([0.25, 8.0]), st.integers(-50, 50))
def test_convex_fusion_does_not_see_a_legs_scale(rankings: dict[LegName, list[Hit]], factor: float, shift: int) -> None:
    whole: dict[LegName, list[Hit]] = {
        leg: [hit(h.chunk.id, float(round(h.score))) for h in hits] for leg, hits in rankings.items()
    }
    moved = {leg: [hit(h.chunk.id, h.score * factor + shift) for h in hits] for leg, hits in whole.items()}
    before = convex_combination(whole, weights=EVEN, top_k=20)
    after = convex_combination(moved, weights=EVEN, top_k=20)
    assert ids(before) == ids(after)
    assert [h.score for h in before] == pytest.approx([h.score for h in after])
