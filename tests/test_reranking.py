"""The rerank step of a query, on the real engines: it orders what the guard let through, and never costs the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ragline.build import build, open_reranker
from ragline.errors import ConfigurationError
from ragline.settings import CacheSettings, RerankerSettings, Settings
from ragline.system import System
from ragline.types import Retrieved, SearchRequest
from tests.engines.played import HANG, Answer, Played, played
from tests.house import House

NOBODY: frozenset[str] = frozenset()
TOWNS = ("Bergen", "Cadiz", "Dover", "Emden", "Faro", "Genoa")


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Played]:
    async with played() as ours:
        yield ours


@pytest.fixture(scope="module")
async def system(server: Played, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    chosen = RerankerSettings(url=f"tei+{server.url}", candidates=4, deadline_ms=60_000)
    folder, off = tmp_path_factory.mktemp("data"), CacheSettings(url="off")  # the path behind it is looked at
    system = await build(Settings(data_dir=folder, reranker=chosen, cache=off))
    house = House(system)
    for town in TOWNS:
        await house.accept(f"{town}.txt", f"A lighthouse stands in {town}, a harbour.", groups=NOBODY)
    await house.accept("secret.txt", "A lighthouse stands in Zadar, a harbour.", groups=frozenset({"board"}))
    await house.work()
    yield system
    await system.aclose()


@pytest.fixture(autouse=True)
def _plays(server: Played) -> None:
    server.answer = lambda asked: Answer(
        [{"index": n, "score": float(ord(_town(text)[0]))} for n, text in enumerate(asked.body["texts"])]
    )
    server.asked.clear()


def _town(text: str) -> str:
    return text.split("stands in ")[1]


async def _search(system: System, top_k: int = 3, query: str = "lighthouse") -> Retrieved:
    return await system.search.search(SearchRequest(query, "default", NOBODY, top_k=top_k))


async def test_the_passages_are_the_best_of_the_candidates_with_the_rerankers_scores(
    system: System, server: Played
) -> None:
    found = await _search(system)
    (asked,) = server.asked
    assert len(asked.body["texts"]) == 4
    names = sorted((_town(text)[0] for text in asked.body["texts"]), reverse=True)
    assert [_town(passage.hit.chunk.text)[0] for passage in found.passages] == names[:3]
    assert [passage.hit.score for passage in found.passages] == [float(ord(name)) for name in names[:3]]
    assert {passage.hit.scale for passage in found.passages} == {"rerank:tei"}
    assert [passage.n for passage in found.passages] == [1, 2, 3]
    assert found.passages[0].hit.ranks
    assert found.degraded == ()
    assert "rerank" in found.timings_ms


async def test_what_the_caller_may_not_read_is_not_shown_to_the_reranker(system: System, server: Played) -> None:
    await _search(system, top_k=50)
    assert not any("Zadar" in text for asked in server.asked for text in asked.body["texts"])


async def test_passages_beyond_the_candidates_keep_their_place_and_scale(system: System) -> None:
    found = await _search(system, top_k=6)
    assert len(found.passages) == 6
    assert [passage.hit.scale for passage in found.passages] == ["rerank:tei"] * 4 + ["rrf"] * 2


async def test_the_reranker_sees_the_title_above_the_text(system: System, server: Played) -> None:
    await _search(system)
    assert all(text.split("\n")[0].endswith(".txt") for text in server.asked[0].body["texts"])


@pytest.mark.parametrize("answer", [HANG, Answer({}, 500), Answer({}, 429), Answer([]), b"", Answer(b"<html>")])
async def test_one_that_fails_or_is_late_leaves_the_fused_order(
    system: System, server: Played, monkeypatch: pytest.MonkeyPatch, answer: Answer | bytes | None
) -> None:
    reranking = system.query._reranking
    assert reranking
    monkeypatch.setattr(system.query, "_reranking", None)
    fused = await _search(system)
    monkeypatch.setattr(system.query, "_reranking", reranking)
    server.answer = lambda _: answer
    if answer is HANG:
        monkeypatch.setattr(reranking, "_deadline_s", 0.1)
        server.left.clear()
    found = await _search(system)
    assert found.degraded == ("rerank",)
    assert found.passages == fused.passages
    if answer is HANG:
        await server.left.wait()


async def test_one_leg_alone_keeps_its_own_scores(system: System, server: Played) -> None:
    request = SearchRequest("lighthouse", "default", NOBODY, top_k=3, legs=("keyword",))
    found = await system.search.search(request)
    assert {passage.hit.scale for passage in found.passages} == {"bm25"}
    assert server.asked == []


async def test_it_is_off_by_default(tmp_path: Path) -> None:
    assert await open_reranker(Settings(data_dir=tmp_path).reranker) is None


@pytest.mark.parametrize("url", ["https://example.org", "voyage+https://example.org", "tei+ftp://example.org"])
async def test_an_unknown_kind_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"reranker\.url"):
        await open_reranker(RerankerSettings(url=url, model="m"))
