"""An embedded document text is not embedded again, and nothing else changes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from ragline.embedders.local import LocalEmbedder
from ragline.protocols import Purpose, Vectors
from ragline.remembering import RememberingEmbedder
from ragline.types import Space


class Counting:
    """The real model, and what it was asked for."""

    def __init__(self, embedder: LocalEmbedder) -> None:
        self._embedder = embedder
        self.asked: list[list[str]] = []

    @property
    def space(self) -> Space:
        return self._embedder.space

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Vectors:
        self.asked.append(list(texts))
        return await self._embedder.embed(texts, purpose=purpose)

    def token_spans(self, text: str) -> Sequence[tuple[int, int]]:
        return self._embedder.token_spans(text)

    async def aclose(self) -> None:
        await self._embedder.aclose()


@pytest.fixture(scope="module")
async def model(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalEmbedder]:
    embedder = await LocalEmbedder.load(
        "all-MiniLM-L6-v2", source="package", cache_dir=tmp_path_factory.mktemp("models"), threads=1
    )
    yield embedder
    await embedder.aclose()


async def test_equal_texts_are_embedded_once_in_a_call_and_over_calls(model: LocalEmbedder) -> None:
    counting = Counting(model)
    remembering = RememberingEmbedder(counting)
    first = await remembering.embed(["a notice", "one", "a notice"], purpose="document")
    second = await remembering.embed(["two", "a notice"], purpose="document")
    third = await remembering.embed(["two", "one"], purpose="document")
    assert counting.asked == [["a notice", "one"], ["two"]]
    plain = await model.embed(["a notice", "one", "two"], purpose="document")
    for made, expected in ((first, plain[[0, 1, 0]]), (second, plain[[2, 0]]), (third, plain[[2, 1]])):
        assert np.abs(made - expected).max() < 1e-6
        assert made.dtype == np.float32


async def test_what_was_used_longest_ago_is_forgotten(model: LocalEmbedder) -> None:
    counting = Counting(model)
    remembering = RememberingEmbedder(counting, most_texts=2)
    for text in ("one", "two", "one", "three", "one", "two"):
        await remembering.embed([text], purpose="document")
    assert counting.asked == [["one"], ["two"], ["three"], ["two"]]


async def test_queries_are_not_remembered(model: LocalEmbedder) -> None:
    counting = Counting(model)
    remembering = RememberingEmbedder(counting)
    for _ in range(2):
        await remembering.embed(["who?"], purpose="query")
    assert counting.asked == [["who?"], ["who?"]]
    assert (await remembering.embed([], purpose="document")).shape == (0, 384)


async def test_a_failed_call_leaves_nothing_behind(model: LocalEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(model)
    remembering = RememberingEmbedder(counting)

    async def fail(texts: Sequence[str], *, purpose: Purpose) -> Vectors:
        raise OSError

    with monkeypatch.context() as patched:
        patched.setattr(counting, "embed", fail)
        with pytest.raises(OSError):  # noqa: PT011 (the one raised above)
            await remembering.embed(["one"], purpose="document")
    await remembering.embed(["one"], purpose="document")
    assert counting.asked == [["one"]]
