"""Faults that are played: as the file says, until it says something else."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from ragline import faults
from ragline.clock import SystemClock
from ragline.errors import ConfigurationError, EngineRejected, EngineUnavailable
from tests.clock import HandClock


class Store:
    def __init__(self) -> None:
        self.asked = 0

    async def search(self, query: str) -> str:
        self.asked += 1
        return query

    upsert = update_payload = delete = search


class Guard:
    """Says at each look how many there were."""

    def __init__(self) -> None:
        self.looks = 0

    async def look(self, namespace: str, ids: list[str]) -> int:
        self.looks += 1
        return self.looks


class Embedder:
    async def embed(self, texts: list[str], *, purpose: str) -> list[str]:
        return texts


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "faults.json"


@pytest.fixture
def store(file: Path) -> Store:
    store = Store()
    faults.arm(file, {"vectors": store, "clock": HandClock(), "cache": None})
    return store


def _say(file: Path, **said: Any) -> None:
    new = file.with_suffix(".new")
    new.write_text(json.dumps(said))
    new.replace(file)


async def test_without_a_word_nothing_fails(store: Store, file: Path) -> None:
    assert await store.search("a") == "a"
    _say(file)
    assert await store.search("b") == "b"


async def test_what_hangs_goes_on_when_the_fault_is_lifted(store: Store, file: Path) -> None:
    _say(file, vectors={"kind": "hang"})
    hanging = asyncio.create_task(store.search("a"))
    await asyncio.wait([hanging], timeout=3 * faults.LOOK_S)
    assert (hanging.done(), store.asked) == (False, 0)
    _say(file)
    assert await hanging == "a"


async def test_what_refuses_says_that_it_is_played(store: Store, file: Path) -> None:
    _say(file, vectors={"kind": "refuse"})
    with pytest.raises(EngineUnavailable, match="a fault is played"):
        await store.search("a")
    assert store.asked == 0
    _say(file)
    assert await store.search("a") == "a"


async def test_what_rejects_is_there_and_will_not_have_it(store: Store, file: Path) -> None:
    _say(file, vectors={"kind": "reject"})
    with pytest.raises(EngineRejected, match="a fault is played"):
        await store.search("a")
    assert store.asked == 0


async def test_an_index_that_misses_finds_every_second_neighbour(store: Store, file: Path) -> None:
    _say(file, vectors={"kind": "miss"})
    assert await store.search("abcde") == "bd"
    assert await store.upsert("abcde") == "abcde"
    _say(file)
    assert await store.search("abcde") == "abcde"


async def test_what_lags_says_again_what_it_said_first(file: Path) -> None:
    guard = Guard()
    faults.arm(file, {"guard": guard, "clock": HandClock()})
    _say(file, guard={"kind": "stale"})
    assert [await guard.look("a", ["1"]), await guard.look("a", ["1"]), await guard.look("a", ["2"])] == [1, 1, 2]
    _say(file)
    assert await guard.look("a", ["1"]) == 3
    _say(file, guard={"kind": "stale"})
    assert await guard.look("a", ["1"]) == 4, "what was told under another fault is forgotten"


async def test_a_caller_that_leaves_a_hanging_call_has_not_made_it(store: Store, file: Path) -> None:
    _say(file, vectors={"kind": "hang"})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await store.search("a")
    _say(file)
    assert store.asked == 0


async def test_embedding_is_told_apart_by_what_it_is_for(file: Path) -> None:
    embedder = Embedder()
    faults.arm(file, {"embedder": embedder, "clock": SystemClock()})
    _say(file, **{"embedder.query": {"kind": "refuse"}})
    assert await embedder.embed(["a"], purpose="document") == ["a"]
    with pytest.raises(EngineUnavailable):
        await embedder.embed(["a"], purpose="query")


def test_a_clock_is_skewed_and_comes_back(file: Path) -> None:
    clock = HandClock()
    faults.arm(file, {"clock": clock})
    at, since = clock.now(), clock.monotonic()
    _say(file, clock={"kind": "skew", "by_s": -3600})
    assert (clock.now(), clock.monotonic()) == (at - 3600, since)
    _say(file)
    assert clock.now() == at


@pytest.mark.parametrize(
    "said",
    ["[]", "{", '{"vectors": {"kind": "burn"}}', '{"moon": {"kind": "hang"}}', '{"vectors": {}}', '{"vectors": {"kind": "skew"}}',
     '{"clock": {"kind": "hang"}}', '{"vectors": {"kind": "hang", "for": 1}}'],
)  # fmt: skip
def test_what_is_no_fault_is_refused(said: str) -> None:
    with pytest.raises(ConfigurationError, match="faults: "):
        faults.parse(said)
