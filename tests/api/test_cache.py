"""The hot cache as a user of the API meets it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ragline.build import build, open_cache
from ragline.clock import SystemClock
from ragline.errors import ConfigurationError
from ragline.settings import CacheSettings, Settings
from tests.engines.redis import Redis, server

from .conftest import Api

TEXT = "Otters crack mussels on a flat stone. "


@pytest.fixture(scope="module")
async def otters(api: Api) -> str:
    """A document with ten chunks at least; its id."""
    pages = "\n\n".join(f"## Part {n}\n\n{TEXT * 12} Number {n}." for n in range(12))
    accepted = await api.upload(("otters.md", pages))
    return str(accepted["documents"][0]["id"])


def _fresh(api: Api) -> None:
    """The snapshot is newer than any change; else what is found is served, and not kept."""
    api.system.snapshots.forget("default")


async def _cached(api: Api, query: str, **words: object) -> dict[str, object]:
    _fresh(api)
    await api.search(query, **words)  # type: ignore[arg-type]
    tier = api.system.hot_tier
    assert tier
    await tier.written()
    return await api.search(query, **words)  # type: ignore[arg-type, no-any-return]


async def test_a_search_says_whether_it_is_cached(api: Api, otters: str) -> None:
    _fresh(api)
    first = await api.search("What do otters crack?", top_k=3)
    again = await _cached(api, "  What do otters\tcrack? ", top_k=3)
    assert (first["cached"], again["cached"]) == (False, True)
    assert again["passages"] == first["passages"]
    assert set(again["timings_ms"]) == {"cache", "guard", "total"}  # type: ignore[call-overload]


async def test_answers_too_and_a_stream_has_the_same_events(api: Api, otters: str) -> None:
    _fresh(api)
    body = {"query": "What do otters crack on a stone?", "top_k": 3}
    first = await api.call("POST", "/v1/answers", json=body)
    assert api.system.hot_tier
    await api.system.hot_tier.written()
    again = await api.call("POST", "/v1/answers", json=body)
    assert (first["cached"], again["cached"]) == (False, True)
    for name in ("answer", "citations", "passages", "generator", "grounded", "usage"):
        assert again[name] == first[name]
    streamed = await api.call("POST", "/v1/answers", json={**body, "stream": True})
    names = [line.removeprefix("event: ") for line in streamed.text.splitlines() if line.startswith("event: ")]
    assert names == ["passages", "token", "done"]
    assert '"cached": true' in streamed.text


async def test_an_unanswered_question_is_answered_as_soon_as_a_document_does(api: Api, otters: str) -> None:
    body = {"query": "What colour is the Zanzibar lighthouse?", "top_k": 3}
    first = await api.call("POST", "/v1/answers", json=body)
    assert not first["grounded"]
    await api.upload(("zanzibar.txt", "The colour of the Zanzibar lighthouse is orange."))
    now = await api.call("POST", "/v1/answers", json=body)
    assert (now["cached"], "orange" in now["answer"]) == (False, True)


async def test_stats_forget_and_clear_are_for_admins(api: Api, otters: str) -> None:
    reader = await api.new_key(role="write")
    for method, path in (
        ("GET", "/v1/cache"),
        ("DELETE", "/v1/namespaces/default/cache"),
        ("DELETE", f"/v1/namespaces/default/cache/documents/{otters}"),
    ):
        await api.call(method, path, key=reader, status=403)
    stats = await api.call("GET", "/v1/cache")
    assert (stats["cache"], stats["left_out"]) == ("memory", False)
    assert stats["requests"]["search"]["hit"] >= 1
    assert (await _cached(api, "flat stone", top_k=2))["cached"]
    forgotten = await api.call("DELETE", f"/v1/namespaces/default/cache/documents/{otters}")
    assert (forgotten["uri"], forgotten["state"]) == ("otters.md", "indexed")
    assert not (await api.search("flat stone", top_k=2))["cached"]
    assert (await _cached(api, "flat stone", top_k=2))["cached"]
    cleared = await api.call("DELETE", "/v1/namespaces/default/cache")
    assert cleared["entries"] >= 1
    assert (await api.call("GET", "/v1/cache"))["entries"] == 0
    assert not (await api.search("flat stone", top_k=2))["cached"]
    await api.call("DELETE", "/v1/namespaces/default/cache/documents/unknown", status=404)
    await api.call("DELETE", "/v1/namespaces/nowhere/cache", status=404)


async def test_a_bad_request_is_refused_as_without_a_cache(api: Api, otters: str) -> None:
    for body in ({"query": " "}, {"query": "x", "top_k": 0}, {"query": "x", "filters": {"nofield": 1}}):
        await api.call("POST", "/v1/search", json=body, status=422)


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────

SERVERS = {
    "registry": "postgresql://one/house", "vectors": "milvus://one", "keywords": "elasticsearch://one",
    "blobs": "s3://bucket",
}  # fmt: skip


def test_a_cache_of_one_process_is_refused_where_several_share_the_engines(tmp_path: Path) -> None:
    def opened(url: str, **engines: str) -> str | None:
        settings = Settings(data_dir=tmp_path, cache=CacheSettings(url=url), **engines)  # type: ignore[arg-type]
        cache = open_cache(settings, SystemClock())
        return cache.name if cache else None

    assert opened("") == opened("memory://") == "memory"
    assert opened("off") is None
    assert opened("", **SERVERS) is None
    assert opened("redis://one", **SERVERS) == "redis"
    with pytest.raises(ConfigurationError, match="memory:// is a cache of one process") as refused:
        opened("memory://", **SERVERS)
    assert "redis://HOST:6379" in refused.value.next_step


async def test_a_redis_that_is_away_holds_up_no_start_and_one_that_refuses_us_does(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with server(tmp_path, "--requirepass", "right-secret") as locked:
        port = locked.address[1]
        with pytest.raises(ConfigurationError, match=r"cache\.url: Redis") as refused:
            await build(Settings(data_dir=tmp_path / "one", cache=CacheSettings(url=f"redis://127.0.0.1:{port}")))
        assert "secret" not in str(refused.value)
    system = await build(Settings(data_dir=tmp_path / "two", cache=CacheSettings(url=f"redis://127.0.0.1:{port}")))
    assert system.hot_tier
    await system.aclose()
    await system.aclose()


async def test_two_processes_share_a_redis(redis: Redis, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, cache=CacheSettings(url=redis.url(), deadline_ms=60_000))
    one, other = await build(settings), await build(settings)
    try:
        await Api(one).search("nothing is here yet")
        assert one.hot_tier
        await one.hot_tier.written()
        found = await Api(other).search("nothing is here yet")
        assert found["cached"]
    finally:
        await one.aclose()
        await other.aclose()
