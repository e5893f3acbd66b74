"""The contract of `Reranker`, as tests.

class TestMine(RerankerContract):
    @pytest.fixture
    def connect(self):
        return lambda: MyReranker.load(...)
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import ClassVar

import pytest
import pytest_asyncio

from ragline.errors import EngineError
from ragline.protocols import Reranker

QUERY = "How many ships left the harbour?"
TEXTS = tuple(f"Ship {n} left harbour {n % 7} with {n * n} letters." for n in range(40))
STRANGE = (
    "", " ", "\0", "\ud83d half a pair", "漢字とかな", "שלום עולם", "👩‍👩‍👧 family", "a\u2028b", "x" * 3_000, "salt " * 3_000,
)  # fmt: skip


@pytest.mark.asyncio
class RerankerContract:
    tolerance: ClassVar[float] = 1e-4
    """How far a score may move with what else is in the call. A larger one wants a reason."""

    @pytest.fixture
    def connect(self) -> Callable[[], Awaitable[Reranker]]:
        """Yours: an async function that opens the adapter."""
        raise NotImplementedError

    @pytest_asyncio.fixture
    async def reranker(self, connect: Callable[[], Awaitable[Reranker]]) -> AsyncIterator[Reranker]:
        reranker = await connect()
        yield reranker
        await reranker.aclose()

    async def test_its_scale_is_its_own(self, reranker: Reranker) -> None:
        assert reranker.name
        assert reranker.scale == f"rerank:{reranker.name}"

    async def test_no_texts_have_no_scores(self, reranker: Reranker) -> None:
        assert await reranker.rerank(QUERY, []) == []

    async def test_scores_come_in_order_and_do_not_depend_on_each_other(self, reranker: Reranker) -> None:
        together = await reranker.rerank(QUERY, TEXTS)
        assert len(together) == len(TEXTS)
        assert len({round(score, 6) for score in together}) > 1
        assert await reranker.rerank(QUERY, TEXTS[::-1]) == pytest.approx(together[::-1], abs=self.tolerance)
        for n in (0, 17, 39):
            assert await reranker.rerank(QUERY, [TEXTS[n]]) == pytest.approx([together[n]], abs=self.tolerance)

    async def test_the_same_text_has_the_same_score(self, reranker: Reranker) -> None:
        first, second = await reranker.rerank(QUERY, [TEXTS[3], TEXTS[3]])
        assert first == pytest.approx(second, abs=self.tolerance)

    @pytest.mark.parametrize("text", STRANGE, ids=[ascii(text)[:16] for text in STRANGE])
    async def test_any_text_has_a_score(self, reranker: Reranker, text: str) -> None:
        for query in (QUERY, text or "?"):
            scores = await reranker.rerank(query, [text, "and an ordinary one"])
            assert len(scores) == 2
            assert all(map(math.isfinite, scores))

    async def test_many_at_once_each_get_their_own(self, reranker: Reranker) -> None:
        one_by_one = [await reranker.rerank(text, TEXTS[:3]) for text in TEXTS[:8]]
        at_once = await asyncio.gather(*(reranker.rerank(text, TEXTS[:3]) for text in TEXTS[:8]))
        for found, expected in zip(at_once, one_by_one, strict=True):
            assert found == pytest.approx(expected, abs=self.tolerance)

    async def test_a_call_that_was_left_leaves_the_others_alone(self, reranker: Reranker) -> None:
        left = [asyncio.create_task(reranker.rerank(QUERY, TEXTS)) for _ in range(3)]
        stays = asyncio.create_task(reranker.rerank(QUERY, TEXTS[:2]))
        await asyncio.sleep(0)
        for task in left:
            task.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*left, return_exceptions=True)
        )
        assert len(await stays) == 2

    async def test_a_closed_one_says_so(self, connect: Callable[[], Awaitable[Reranker]]) -> None:
        reranker = await connect()
        await reranker.aclose()
        await reranker.aclose()
        with pytest.raises(EngineError) as refused:
            await reranker.rerank(QUERY, ["too late"])
        assert refused.value.next_step
