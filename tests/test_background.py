"""What may wait is done between queries: in what order, and how many at a time. Never how long it took."""

from __future__ import annotations

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ragline import background
from ragline.background import Background, Queries
from ragline.connections.database import Database, sqlite_url
from ragline.registry.migrations import SCHEMA
from ragline.system import System
from ragline.types import Hit, SearchRequest
from tests.house import House

LONG_S = 60.0
"""Longer than any test here: who waits so long waits for ever."""


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> Queries:
    monkeypatch.setattr(background, "YIELD_S", LONG_S)
    return Queries()


@pytest.fixture
def pieces() -> _Pieces:
    return _Pieces()


class _Pieces:
    """Work that tells whether two of it were ever inside together."""

    def __init__(self) -> None:
        self.together = threading.Event()
        self._lock, self._inside = threading.Lock(), 0

    def __call__(self, within_s: float) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 2:
                self.together.set()
        self.together.wait(within_s)
        with self._lock:
            self._inside -= 1


async def test_what_may_wait_begins_when_the_last_query_has_ended(queries: Queries) -> None:
    order: list[str] = []
    waiting = Background(queries)
    with queries.under_way():
        with queries.under_way():
            piece = asyncio.create_task(waiting.run(lambda: order.append("piece")))
            await asyncio.sleep(0.02)  # enough for a piece that does not wait
        order.append("first query")
        await asyncio.sleep(0.02)
        order.append("second query")
    await piece
    await waiting.aclose()
    assert order == ["first query", "second query", "piece"]


async def test_a_query_that_fails_has_ended_too(queries: Queries) -> None:
    with pytest.raises(ZeroDivisionError), queries.under_way():
        raise ZeroDivisionError
    waiting = Background(queries)
    assert await waiting.run(lambda: "done") == "done"
    await waiting.aclose()


async def test_one_piece_at_a_time_while_queries_come(
    queries: Queries, pieces: _Pieces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "QUIET_S", LONG_S)
    with queries.under_way():
        pass
    waiting = Background(queries)
    await asyncio.gather(*(waiting.run(lambda: pieces(0.1)) for _ in range(2)))
    await waiting.aclose()
    assert not pieces.together.is_set()


async def test_several_pieces_at_a_time_when_none_come(queries: Queries, pieces: _Pieces) -> None:
    waiting = Background(queries)
    await asyncio.gather(*(waiting.run(lambda: pieces(LONG_S)) for _ in range(2)))
    await waiting.aclose()
    assert pieces.together.is_set()


def test_a_flood_of_queries_does_not_stop_what_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "YIELD_S", 0.01)
    queries, turn, done = Queries(), threading.Lock(), 0
    with queries.under_way():
        for _ in range(20):
            with queries.between(turn):
                done += 1
    assert done == 20


def test_who_has_waited_in_vain_lets_others_go_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, turn, waits = Queries(), threading.Lock(), list[float]()
    monkeypatch.setattr(queries._none, "wait", lambda within_s: waits.append(within_s))  # None: in vain
    monkeypatch.setattr(background, "YIELD_S", LONG_S)
    with queries.under_way():
        for _ in range(5):
            with queries.between(turn):
                pass
    assert waits == [LONG_S]


async def test_an_error_reaches_who_asked(queries: Queries) -> None:
    def piece() -> None:
        raise FileNotFoundError

    waiting = Background(queries)
    with pytest.raises(FileNotFoundError):
        await waiting.run(piece)
    await waiting.aclose()
    await waiting.aclose()
    with pytest.raises(RuntimeError):
        await waiting.run(lambda: None)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no priority of its own")
async def test_the_background_runs_at_low_priority(queries: Queries) -> None:
    import os

    waiting = Background(queries)
    mine = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    low = await waiting.run(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    await waiting.aclose()
    assert low > mine or mine == 19


async def test_commits_go_between_queries(queries: Queries, tmp_path: Path) -> None:
    database = await Database.open(sqlite_url(tmp_path / "registry.sqlite"), SCHEMA, queries)
    order: list[str] = []
    with queries.under_way():
        commit = asyncio.create_task(database.write(lambda connection: order.append("commit")))
        await asyncio.sleep(0.02)
        order.append("query")
    await commit
    await database.aclose()
    assert order == ["query", "commit"]


async def test_a_search_is_under_way_until_its_passages_are_there(
    system: System, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, int] = {}
    search, look = system.keywords.search, system.query._guard.look

    async def keyword(*args: object, **kwargs: object) -> list[Hit]:
        seen["leg"] = system.query._queries._count
        return await search(*args, **kwargs)  # type: ignore[arg-type]

    async def guard(*args: object) -> object:
        seen["guard"] = system.query._queries._count
        return await look(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(system.keywords, "search", keyword)
    monkeypatch.setattr(system.query._guard, "look", guard)
    await house.accept("a.txt", "Wings in supersonic flow.")
    await house.work()
    await system.search.search(SearchRequest("wings", "default", frozenset()))
    assert seen["leg"] > 0
    assert seen["guard"] == 1
    assert system.query._queries._count == 0


async def test_one_count_of_queries_for_the_whole_house(system: System) -> None:
    """Else ingest would not wait for what it does not hear of."""
    counted = system.query._queries
    assert system.database._driver._queries is counted  # type: ignore[attr-defined]
    assert system.ingest._background._queries is counted
    local = system.embedder._embedder._embedder  # type: ignore[attr-defined]
    assert local._under_way is counted


def test_threads_wait_on_one_turn(queries: Queries, pieces: _Pieces, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two turns do not wait for each other: a model call takes long, and a commit must not wait for its end."""
    monkeypatch.setattr(background, "QUIET_S", LONG_S)
    with queries.under_way():
        pass
    one, other = threading.Lock(), threading.Lock()

    def piece(turn: threading.Lock) -> None:
        with queries.between(turn):
            pieces(LONG_S)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(piece, [one, other]))
    assert pieces.together.is_set()
