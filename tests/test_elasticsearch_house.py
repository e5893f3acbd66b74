"""The whole of ingest and query with both stores on Elasticsearch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog

from ragline.build import ONE_DOMAIN, build
from ragline.errors import EngineRejected
from ragline.keywords.elasticsearch import ElasticsearchKeywordIndex
from ragline.settings import Settings
from ragline.system import System
from ragline.types import SearchRequest
from ragline.vectors.elasticsearch import ElasticsearchVectorStore
from tests.engines.elasticsearch import Elasticsearch
from tests.engines.elasticsearch_door import door
from tests.engines.played import Answer, nowhere, played
from tests.house import House


@pytest.fixture(scope="module")
def settings(elasticsearch: Elasticsearch, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    url = elasticsearch.url()
    return Settings(data_dir=tmp_path_factory.mktemp("data"), vectors=url, keywords=url)


@pytest.fixture(scope="module")
async def system(settings: Settings) -> AsyncIterator[System]:
    """In place of the embedded one."""
    system = await build(settings)
    yield system
    await system.namespaces.delete("default")
    await system.epochs.drop_retired()
    for room in (system.vectors, system.keywords):
        for collection in await room.collections():
            await room.drop(collection)
    await system.aclose()


@pytest.fixture
def lines() -> Iterator[list[structlog.typing.EventDict]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


async def _legs(house: House, query: str, *, groups: frozenset[str] = frozenset()) -> dict[str, list[str]]:
    """What each leg alone finds."""
    found = {}
    for leg in ("keyword", "dense"):
        request = SearchRequest(query=query, namespace="default", groups=groups, top_k=3, legs=(leg,))
        retrieved = await house.system.search.search(request)
        assert retrieved.degraded == ()
        found[leg] = [passage.hit.chunk.text for passage in retrieved.passages]
    return found


async def test_both_rooms_are_on_one_client(system: System) -> None:
    assert isinstance(system.vectors, ElasticsearchVectorStore)
    assert isinstance(system.keywords, ElasticsearchKeywordIndex)
    assert system.vectors.server is system.keywords.server


async def test_a_document_is_found_by_both_legs_updated_and_deleted(house: House) -> None:
    first = await house.accept("vault.txt", "The vault opens at dawn, and only with two keys.")
    await house.accept("tides.txt", "High water at the old pier is at noon.")
    await house.work()
    for leg, found in (await _legs(house, "When does the vault open?")).items():
        assert found[0] == "The vault opens at dawn, and only with two keys.", leg
    await house.accept("vault.txt", "The vault opens at dusk since last week.")
    await house.work()
    for found in (await _legs(house, "When does the vault open?")).values():
        assert found[0] == "The vault opens at dusk since last week."
        assert not any("dawn" in text for text in found)
    await house.system.documents.delete("default", first.id)
    await house.work()
    assert not any("vault" in text for found in (await _legs(house, "vault")).values() for text in found)
    assert len(await house.held()) == 1


async def test_groups_bind_in_both_legs(house: House) -> None:
    text = "The board meets in the harbour house."
    await house.accept("secret.txt", text, groups=frozenset({"board"}))
    await house.work()
    assert await house.found("Where does the board meet?") == []
    assert (await _legs(house, "board", groups=frozenset({"board"}))) == {"keyword": [text], "dense": [text]}
    await house.accept("secret.txt", text, groups=frozenset({"staff"}))
    await house.work()
    assert (await _legs(house, "board", groups=frozenset({"board"}))) == {"keyword": [], "dense": []}
    assert (await _legs(house, "board", groups=frozenset({"staff"}))) == {"keyword": [text], "dense": [text]}


async def test_a_reindex_cuts_over(house: House) -> None:
    documents = [await house.accept(f"{n}.txt", f"Chapter {n} tells of herons.") for n in range(10)]
    await house.work()
    system = house.system
    before = (await system.namespaces.get("default")).epoch
    await system.epochs.begin("default")
    await house.accept("3.txt", "Chapter 3 tells of storks now.")
    await system.documents.delete("default", documents[7].id)
    await house.work()
    await system.epochs.fill("default")
    after = await system.namespaces.get("default")
    assert after.building is None
    assert after.epoch.label != before.label
    assert len(await house.held()) == 9
    assert "Chapter 3 tells of storks now." in await house.found("tells of storks")
    expire = "UPDATE epochs SET drop_after = 1 WHERE drop_after > 1"
    await system.database.write(lambda c: c.exec_driver_sql(expire).rowcount)
    await system.epochs.drop_retired()
    assert before.vectors not in await system.vectors.collections()
    assert before.keywords not in await system.keywords.collections()


async def test_the_audit_agrees(house: House) -> None:
    for n in range(5):
        await house.accept(f"{n}.txt", f"Chapter {n} tells of herons.")
    await house.work()
    report = await house.system.audit.look({"default"})
    assert (report.chunks, report.findings) == (5, [])


# ── at the start ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_one_cluster_for_both_is_said_at_the_start(
    elasticsearch: Elasticsearch, tmp_path: Path, lines: list[structlog.typing.EventDict]
) -> None:
    url = elasticsearch.url(host=f"user:secret@{elasticsearch.host}")
    system = await build(Settings(data_dir=tmp_path, vectors=url, keywords=url))
    namespace = await system.namespaces.get("default")
    await system.vectors.drop(namespace.epoch.vectors)
    await system.keywords.drop(namespace.epoch.keywords)
    await system.aclose()
    (warning,) = [line for line in lines if line["event"] == "one failure domain"]
    assert warning["log_level"] == "warning"
    assert (warning["vectors_and_keywords"], warning["consequence"]) == (elasticsearch.host, ONE_DOMAIN)
    assert "secret" not in str(lines)


async def test_one_room_alone_is_no_reason_to_warn(
    elasticsearch: Elasticsearch, tmp_path: Path, lines: list[structlog.typing.EventDict]
) -> None:
    system = await build(Settings(data_dir=tmp_path, keywords=elasticsearch.url()))
    await system.keywords.drop((await system.namespaces.get("default")).epoch.keywords)
    await system.aclose()
    assert [line for line in lines if line["event"] == "one failure domain"] == []


async def test_a_server_that_cannot_serve_stops_the_start(elasticsearch: Elasticsearch, tmp_path: Path) -> None:
    async with door(elasticsearch.host, user="ragline", password="right") as ours:
        url = elasticsearch.url(host=f"ragline:secret@{ours.host}")
        with pytest.raises(EngineRejected, match="user and password in the URL"):
            await build(Settings(data_dir=tmp_path, vectors=url))
    async with played() as server:
        server.answer = lambda asked: Answer(
            {"version": {"number": "8.19.0"}}, headers={"X-Elastic-Product": "Elasticsearch"}
        )
        with pytest.raises(EngineRejected, match=r"8\.19\.0 is older"):
            await build(Settings(data_dir=tmp_path, keywords=server.url.replace("http", "elasticsearch")))


async def test_one_that_is_away_does_not(
    elasticsearch: Elasticsearch, tmp_path: Path, lines: list[structlog.typing.EventDict]
) -> None:
    url = elasticsearch.url()
    system = await build(Settings(data_dir=tmp_path, keywords=url))
    epoch = (await system.namespaces.get("default")).epoch
    await system.keywords.drop(epoch.keywords)
    await system.aclose()
    away = nowhere().replace("http", "elasticsearch")
    system = await build(Settings(data_dir=tmp_path, keywords=away))
    await system.aclose()
    assert [line["setting"] for line in lines if line["event"] == "store does not answer yet"] == ["keywords"]
