"""The query path on the real engines: what fails is left out and named; what may not be seen is not."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog.testing

from ragline.build import _asked, build
from ragline.errors import EngineRejected, EngineTimeout, EngineUnavailable
from ragline.settings import CacheSettings, Settings
from ragline.system import System
from ragline.types import LegName, NamespaceSettings, Retrieved, SearchRequest, Upload

NOBODY: frozenset[str] = frozenset()


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("data"),
        cache=CacheSettings(url="off"),  # the path behind it is looked at
    )
    system = await build(settings)
    work = asyncio.create_task(system.work())
    namespace = await system.namespaces.get("default")
    texts = {"open.txt": NOBODY, "board.txt": frozenset({"board"})}
    for uri, groups in texts.items():
        await system.ingest.accept(namespace, Upload(uri, f"{uri} tells of lighthouses.".encode(), groups=groups))
    assert await system.documents.settled("default", len(texts), deadline_s=60)
    yield system
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work
    await system.aclose()


async def _search(system: System, **words: Any) -> Retrieved:
    request = SearchRequest(query="lighthouses", namespace="default", groups=frozenset({"board"}))
    return await system.search.search(SearchRequest(**{**_words(request), **words}))


def _words(request: SearchRequest) -> dict[str, Any]:
    return {name: getattr(request, name) for name in SearchRequest.__dataclass_fields__}


async def _down(*_: Any, **__: Any) -> Any:
    raise EngineUnavailable("It is away.", next_step="Wait.", engine="test")


async def _stuck(*_: Any, **__: Any) -> Any:
    await asyncio.Event().wait()


def _uris(found: Retrieved) -> set[str]:
    return {passage.hit.uri for passage in found.passages}


@pytest.mark.parametrize("fault", [_down, _stuck])
@pytest.mark.parametrize(
    ("part", "verb", "lost", "left"),
    [
        ("vectors", "search", "dense", "keyword"),
        ("keywords", "search", "keyword", "dense"),
        ("embedder", "embed", "dense", "keyword"),
    ],
)
async def test_a_leg_that_fails_or_hangs_leaves_the_other_one_answering(
    system: System, monkeypatch: Any, fault: Any, part: str, verb: str, lost: LegName, left: str
) -> None:
    monkeypatch.setattr(getattr(system, part), verb, fault)
    monkeypatch.setattr(system.query.legs[lost], "_cap_s", 0.05)  # the other one has a minute
    found = await _search(system)
    assert found.degraded == (lost,)
    assert _uris(found) == {"open.txt", "board.txt"}
    assert all(set(passage.hit.ranks) == {left} for passage in found.passages)
    monkeypatch.undo()
    assert (await _search(system)).degraded == ()


async def test_once_one_leg_is_in_the_other_gets_only_the_grace(system: System, monkeypatch: Any) -> None:
    monkeypatch.setattr(system.vectors, "search", _stuck)
    monkeypatch.setattr(system.query, "_settings", system.settings.query.model_copy(update={"grace_ms": 1}))
    found = await _search(system, query="lighthouses in grace")
    assert found.degraded == ("dense",)
    assert _uris(found) == {"open.txt", "board.txt"}


async def test_with_every_leg_down_the_error_says_so_and_is_retryable(system: System, monkeypatch: Any) -> None:
    monkeypatch.setattr(system.vectors, "search", _down)
    monkeypatch.setattr(system.keywords, "search", _down)
    with pytest.raises(EngineUnavailable) as caught:
        await _search(system)
    assert caught.value.retryable


async def test_with_the_registry_down_only_what_was_open_and_seen_is_shown(system: System, monkeypatch: Any) -> None:
    assert _uris(await _search(system)) == {"open.txt", "board.txt"}
    monkeypatch.setattr(system.database, "read", _down)
    monkeypatch.setattr(system.database, "commits", -1)  # else nothing needs to be read
    found = await _search(system)
    assert found.degraded == ("guard",)
    assert _uris(found) == {"open.txt"}


async def test_with_the_registry_silent_a_query_waits_for_it_only_so_long(system: System, monkeypatch: Any) -> None:
    assert _uris(await _search(system)) == {"open.txt", "board.txt"}
    monkeypatch.setattr(system.database, "read", _stuck)
    monkeypatch.setattr(system.database, "commits", -1)
    monkeypatch.setattr("ragline.snapshots.READ_S", 0.001)
    monkeypatch.setattr("ragline.snapshots.KEEP_S", 0.0)  # else no newer one is wanted
    for bound in ("_cap_s", "_floor_s"):
        monkeypatch.setattr(system.query._guard, bound, 0.001)
    found = await _search(system)
    assert found.degraded == ("guard",)
    assert _uris(found) == {"open.txt"}


async def test_no_step_may_hang_beyond_the_deadline_of_the_whole(system: System, monkeypatch: Any) -> None:
    monkeypatch.setattr(system.query, "_fusion", _stuck)
    monkeypatch.setattr(system.query, "_settings", system.settings.query.model_copy(update={"deadline_ms": 50}))
    with pytest.raises(EngineTimeout, match="not done within 50 ms"):
        await _search(system)


async def test_a_start_does_not_ask_a_leg_that_is_away_for_each_namespace(system: System, monkeypatch: Any) -> None:
    asked = 0

    async def down(*_: Any, **__: Any) -> Any:
        nonlocal asked
        asked += 1
        raise EngineUnavailable("It is away.", next_step="Wait.", engine="test")

    for name in ("one", "two"):
        await system.epochs.create_namespace(name, NamespaceSettings())
    monkeypatch.setattr(system.keywords, "search", down)
    await system.warm()
    assert asked == 1


@pytest.mark.parametrize(("part", "silent"), [("keywords", "keyword"), ("vectors", "dense")])
async def test_a_start_waits_for_a_silent_leg_only_so_long_and_opens_the_other(
    system: System, monkeypatch: Any, part: str, silent: str
) -> None:
    other: Any = {"keywords": system.vectors, "vectors": system.keywords}[part]
    opened: list[str] = []
    search = other.search

    async def opens(collection: str, *args: Any, **words: Any) -> Any:
        opened.append(collection)
        return await search(collection, *args, **words)

    await system.epochs.create_namespace(f"beside-{part}", NamespaceSettings())
    monkeypatch.setattr(getattr(system, part), "search", _stuck)
    monkeypatch.setattr(other, "search", opens)
    monkeypatch.setattr("ragline.system.OPEN_S", 3.0)
    with structlog.testing.capture_logs() as lines:
        await system.warm()
    assert [(line["leg"], line["waited_s"]) for line in lines if line["event"] == "a leg does not answer yet"] == [
        (silent, 3.0)
    ]
    assert len(opened) == len(await system.namespaces.all()), "one collection a namespace"


async def test_a_start_waits_for_the_first_word_of_a_store_only_so_long(monkeypatch: Any) -> None:
    async def refuses() -> None:
        raise EngineRejected("It is too old.", next_step="Use a newer one.", engine="test")

    monkeypatch.setattr("ragline.build.ASK_S", 0.01)
    async with asyncio.timeout(60.0):
        await _asked("vectors", _stuck)
        await _asked("vectors", _down)
    with pytest.raises(EngineRejected):
        await _asked("vectors", refuses)


async def test_a_hit_of_a_content_that_is_not_live_is_dropped(system: System) -> None:
    namespace = await system.namespaces.get("default")
    accepted = await system.ingest.accept(namespace, Upload("stale.txt", b"Old words about zeppelins."))
    assert await system.documents.settled("default", accepted.sequence, deadline_s=60)
    (document,) = await system.documents.page("default", after="", most=1, state=None, uri="stale.txt")
    assert len((await _search(system, query="zeppelins", legs=("keyword",))).passages) == 1
    await system.database.write(
        lambda c: c.exec_driver_sql("UPDATE documents SET live = live + 1 WHERE uri = 'stale.txt'").rowcount
    )
    assert _uris(await _search(system, query="zeppelins", legs=("keyword",))) == set()
    await system.documents.delete("default", document.id)


async def test_identical_queries_in_flight_together_search_once(system: System, monkeypatch: Any) -> None:
    real, calls = system.vectors.search, 0

    async def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return await real(*args, **kwargs)

    monkeypatch.setattr(system.vectors, "search", counted)
    results = await asyncio.gather(*(_search(system, query="lighthouses together") for _ in range(20)))
    assert calls == 1
    assert all(result is results[0] for result in results)
    await asyncio.gather(
        _search(system, query="lighthouses apart"), _search(system, query="lighthouses apart", groups=NOBODY)
    )
    assert calls == 3


async def test_a_query_from_another_space_is_not_ranked_with_this_ones_vectors(
    system: System, monkeypatch: Any
) -> None:
    namespace = await system.snapshots.get("default")
    other = dataclasses.replace(namespace.epoch, space=dataclasses.replace(namespace.epoch.space, precision="other"))
    moved = dataclasses.replace(namespace, epoch=other)

    async def get(_: str) -> Any:
        return moved

    monkeypatch.setattr(system.snapshots, "get", get)
    found = await _search(system, query="lighthouses elsewhere")
    assert found.degraded == ("dense",)
    assert found.passages
