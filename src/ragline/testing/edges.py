"""The contract of `Edge`, as tests.

class TestMine(EdgeContract):
    @pytest.fixture
    def edge(self): ...
    @pytest.fixture
    def dropped(self): ...
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

import pytest

from ragline.errors import EngineError
from ragline.protocols import Edge

UID = "0123abcd"


def keys(count: int) -> list[str]:
    """As documents have them."""
    return [f"d-{number:024x}" for number in range(count)]


@pytest.mark.asyncio
class EdgeContract:
    """`edge`: yours, before an API that acknowledges.   `dropped`: says which keys it has been told to drop so far.
    `away`: yours, before one that is not there."""

    @pytest.fixture
    def edge(self) -> Edge:
        raise NotImplementedError

    @pytest.fixture
    def away(self) -> Edge:
        raise NotImplementedError

    @pytest.fixture
    def dropped(self) -> Callable[[], Collection[str]]:
        raise NotImplementedError

    async def test_what_is_purged_is_told(self, edge: Edge, dropped: Callable[[], Collection[str]]) -> None:
        await edge.purge([f"n-{UID}"], namespace=UID, visible=1)
        assert set(dropped()) == {f"n-{UID}"}

    @pytest.mark.parametrize("count", [1, 100, 101, 256, 257, 1_000])
    async def test_any_number_of_keys(self, edge: Edge, dropped: Callable[[], Collection[str]], count: int) -> None:
        await edge.purge(keys(count), namespace=UID, visible=1)
        assert sorted(dropped()) == keys(count), "each once"

    async def test_a_key_that_is_named_twice_is_told_once(
        self, edge: Edge, dropped: Callable[[], Collection[str]]
    ) -> None:
        await edge.purge(["d-1", "d-2", "d-1"], namespace=UID, visible=1)
        assert sorted(dropped()) == ["d-1", "d-2"]

    async def test_no_keys_are_no_call(self, edge: Edge, dropped: Callable[[], Collection[str]]) -> None:
        await edge.purge([], namespace=UID, visible=1)
        assert list(dropped()) == []

    async def test_purges_at_once(self, edge: Edge, dropped: Callable[[], Collection[str]]) -> None:
        await asyncio.gather(*(edge.purge([key], namespace=UID, visible=1) for key in keys(20)))
        assert sorted(dropped()) == keys(20)

    async def test_labels_name_every_key(self, edge: Edge) -> None:
        labels = edge.labels(keys(200), namespace=UID, visible=7)
        assert labels is not None
        line = " ".join(labels.values())
        assert all(key in line for key in keys(200))
        assert all(value.isascii() and "\n" not in value for value in labels.values())

    async def test_labels_are_whole_or_there_are_none(self, edge: Edge) -> None:
        assert edge.labels(keys(5_000), namespace=UID, visible=7) is None

    async def test_one_that_is_away_is_no_acknowledgement(self, away: Edge) -> None:
        with pytest.raises(EngineError):
            await away.purge(["d-1"], namespace=UID, visible=1)

    async def test_closed_twice(self, edge: Edge) -> None:
        await edge.aclose()
        await edge.aclose()
        with pytest.raises(EngineError):
            await edge.purge(["d-1"], namespace=UID, visible=1)
