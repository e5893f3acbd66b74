"""The contract of `Embedder`, as tests.

class TestMine(EmbedderContract):
    @pytest.fixture
    def connect(self):
        return lambda: MyEmbedder.connect(...)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import ClassVar

import numpy as np
import pytest
import pytest_asyncio

from ragline.errors import EngineError
from ragline.protocols import Embedder, Vectors

STRANGE = (
    "", " ", "\n\t", "\0", "\ud83d half a pair", "漢字とかな", "שלום עולם", "👩‍👩‍👧 family",
    "e\u0301 and é", "a\u2028b", "x" * 3_000,
)  # fmt: skip

TEXTS = tuple(f"Parcel {n} left harbour {n % 7} with {n * n} letters." for n in range(150))
"""More than most servers take in a request, of several lengths."""


@pytest.mark.asyncio
class EmbedderContract:
    tolerance: ClassVar[float] = 1e-5
    """How far a vector's components may move with what else is in the call. A larger one wants a reason."""

    @pytest.fixture
    def connect(self) -> Callable[[], Awaitable[Embedder]]:
        """Yours: an async function that opens the adapter."""
        raise NotImplementedError

    @pytest_asyncio.fixture
    async def embedder(self, connect: Callable[[], Awaitable[Embedder]]) -> AsyncIterator[Embedder]:
        embedder = await connect()
        yield embedder
        await embedder.aclose()

    def same(self, found: Vectors, expected: Vectors) -> None:
        np.testing.assert_allclose(found, expected, rtol=0, atol=self.tolerance)

    async def test_no_texts_have_no_vectors(self, embedder: Embedder) -> None:
        for purpose in ("query", "document"):
            vectors = await embedder.embed([], purpose=purpose)
            assert vectors.shape == (0, embedder.space.dim)
            assert vectors.dtype == np.float32

    async def test_vectors_are_of_the_space_and_of_unit_length(self, embedder: Embedder) -> None:
        assert embedder.space.dim > 0
        assert embedder.space.model
        assert embedder.space.revision
        for purpose in ("query", "document"):
            vectors = await embedder.embed(["one", "two words"], purpose=purpose)
            assert vectors.shape == (2, embedder.space.dim)
            assert vectors.dtype == np.float32
            assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-4)

    async def test_they_come_in_order_and_do_not_depend_on_each_other(self, embedder: Embedder) -> None:
        together = await embedder.embed(TEXTS, purpose="document")
        self.same(await embedder.embed(TEXTS[::-1], purpose="document"), together[::-1])
        for n in (0, 31, 32, 149):
            self.same(await embedder.embed([TEXTS[n]], purpose="document"), together[n : n + 1])
        assert len({tuple(vector.round(3)) for vector in together}) == len(TEXTS)

    async def test_many_queries_at_once_each_get_their_own(self, embedder: Embedder) -> None:
        one_by_one = [await embedder.embed([text], purpose="query") for text in TEXTS[:20]]
        at_once = await asyncio.gather(*(embedder.embed([text], purpose="query") for text in TEXTS[:20]))
        self.same(np.concatenate(at_once), np.concatenate(one_by_one))
        self.same(await embedder.embed(TEXTS[:20], purpose="query"), np.concatenate(one_by_one))

    async def test_the_same_text_has_the_same_vector(self, embedder: Embedder) -> None:
        first, second = await embedder.embed(["ships at sea", "ships at sea"], purpose="document")
        self.same(first, second)
        self.same((await embedder.embed(["ships at sea"], purpose="document"))[0], first)

    @pytest.mark.parametrize("text", STRANGE, ids=[ascii(text)[:16] for text in STRANGE])
    async def test_any_text_has_a_vector(self, embedder: Embedder, text: str) -> None:
        for purpose in ("query", "document"):
            (vector, _) = await embedder.embed([text, "and an ordinary one"], purpose=purpose)
            assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-4)

    async def test_a_text_is_cut_at_the_models_length(self, embedder: Embedder) -> None:
        long = "salt copper letters " * embedder.space.max_tokens
        for purpose in ("query", "document"):
            one, more = await embedder.embed([long, long + "and an end that nobody reads"], purpose=purpose)
            self.same(one, more)

    async def test_what_means_the_same_is_near(self, embedder: Embedder) -> None:
        (query,) = await embedder.embed(["How many days of holiday do I have?"], purpose="query")
        near, far = await embedder.embed(
            ["Everyone has 28 days of paid leave a year.", "The pump runs at 40 bar."], purpose="document"
        )
        assert query @ near > query @ far

    async def test_a_call_that_was_left_leaves_the_others_alone(self, embedder: Embedder) -> None:
        left = [asyncio.create_task(embedder.embed(TEXTS, purpose="document")) for _ in range(3)]
        stays = asyncio.create_task(embedder.embed(["ships at sea"], purpose="document"))
        await asyncio.sleep(0)
        for task in left:
            task.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*left, return_exceptions=True)
        )
        assert (await stays).shape == (1, embedder.space.dim)
        assert (await embedder.embed(TEXTS[:2], purpose="query")).shape == (2, embedder.space.dim)

    async def test_spans_of_tokens_are_in_order_and_hold_no_white_space(self, embedder: Embedder) -> None:
        text = "Ships, 1,234 of them:\n\n  sailed\tfor naïve 漢字 – “Übermut” 👩‍👩‍👧 x_y. " * 3
        spans = embedder.token_spans(text)
        assert list(spans) == sorted(spans)
        assert all(0 <= start < end <= len(text) and not set(text[start:end]) & set(" \t\n") for start, end in spans)
        covered = {at for start, end in spans for at in range(start, end)}
        assert {at for at, sign in enumerate(text) if sign.isalnum()} <= covered
        assert embedder.token_spans("") == []

    async def test_tokens_do_not_depend_on_what_stands_beyond_white_space(self, embedder: Embedder) -> None:
        begins, ends = "Nine ships sailed ", "unbelievably 1,234 times."
        whole, first = embedder.token_spans(begins + ends), embedder.token_spans(begins)
        shifted = [(start + len(begins), end + len(begins)) for start, end in embedder.token_spans(ends)]
        assert list(whole) == [*first, *shifted]

    async def test_a_closed_one_says_so(self, connect: Callable[[], Awaitable[Embedder]]) -> None:
        embedder = await connect()
        await embedder.aclose()
        await embedder.aclose()
        for purpose in ("query", "document"):
            with pytest.raises(EngineError) as refused:
                await embedder.embed(["too late"], purpose=purpose)
            assert refused.value.next_step
