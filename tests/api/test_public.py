"""Public namespaces over HTTP: who may search them, and what caches are told."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest

from ragline.build import build
from ragline.settings import EdgeSettings, QuerySettings, Settings
from ragline.system import System
from tests.api.conftest import Api

ZONE = "0" * 32
SEARCH = "/v1/search"


@contextlib.asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[Api]:
    system = await build(settings)
    work = asyncio.create_task(system.ingest_worker.run())
    yield Api(system)
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work
    await system.aclose()


@pytest.fixture(scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """With an edge that nobody asks: no purge is brought to it here."""
    edge = EdgeSettings(url="varnish://127.0.0.1:1", popular_after=3)
    folder = tmp_path_factory.mktemp("public")
    async with working(Settings(data_dir=folder, edge=edge, query=QuerySettings(max_top_k=1_000))) as api:
        await api.new_key(role="admin")
        for name, public in (("open", True), ("closed", False)):
            await api.call("PUT", f"/v1/namespaces/{name}", json={"public": public}, status=201)
            await api.upload(("ships.txt", "Seven ships left the harbour."), namespace=name)
            await api.upload(("navy.txt", "Secret ships of the navy."), namespace=name, groups=["navy"])
        yield api


async def ask(api: Api, query: str, headers: Mapping[str, str] | None = None, **params: Any) -> httpx.Response:
    async with api.client(None, peer="192.0.2.7") as client:
        return await client.get(SEARCH, params={"q": query, "namespace": "open", **params}, headers=headers or {})


async def popular(api: Api, query: str, **params: Any) -> httpx.Response:
    for _ in range(3):
        response = await ask(api, query, **params)
    return response


async def test_anybody_searches_a_public_namespace_and_sees_what_is_open_to_all(api: Api) -> None:
    found = (await ask(api, "ships")).json()
    assert [passage["uri"] for passage in found["passages"]] == ["ships.txt"]


@pytest.mark.parametrize(
    ("method", "path", "sends"),
    [
        ("GET", "/v1/search?q=ships&namespace=closed", {}),
        ("GET", "/v1/search?q=ships&namespace=nowhere", {}),
        ("GET", "/v1/search?q=ships&namespace=closed&namespace=open&namespace=closed", {}),
        ("POST", "/v1/search", {"json": {"query": "ships", "namespace": "open"}}),
        ("POST", "/v1/answers", {"json": {"query": "ships", "namespace": "open"}}),
        ("GET", "/v1/namespaces", {}),
        ("GET", "/v1/namespaces/open", {}),
        ("GET", "/v1/namespaces/open/documents", {}),
        ("PATCH", "/v1/namespaces/closed", {"json": {"public": True}}),
    ],
)  # fmt: skip
async def test_all_else_needs_a_key_and_is_for_no_cache(
    api: Api, method: str, path: str, sends: dict[str, Any]
) -> None:
    async with api.client(None, peer="192.0.2.7") as client:
        response = await client.request(method, path, **sends)
    assert response.status_code == 401
    assert response.headers["cache-control"] == "no-store"


async def test_only_one_namespace_is_searched_however_often_it_is_named(api: Api) -> None:
    async with api.client(None, peer="192.0.2.7") as client:
        response = await client.get("/v1/search?q=ships&namespace=closed&namespace=open")
    assert response.status_code == 200
    assert len(response.json()["passages"]) == 1


async def test_a_wrong_key_is_not_taken_for_none(api: Api) -> None:
    refused = await ask(api, "ships", headers={"Authorization": "Bearer rgl_wrong"})
    assert (refused.status_code, refused.headers["cache-control"]) == (401, "private, no-store")


async def test_a_key_gets_its_own_answer_for_no_cache(api: Api) -> None:
    key = await api.new_key(role="read", groups=["navy"])
    for _ in range(5):
        mine = await ask(api, "ships", headers={"Authorization": f"Bearer {key}"})
        assert mine.headers["cache-control"] == "private, no-store"
        assert "surrogate-key" not in mine.headers
        assert {passage["uri"] for passage in mine.json()["passages"]} == {"ships.txt", "navy.txt"}


async def test_groups_in_the_address_change_nothing(api: Api) -> None:
    found = (await ask(api, "ships", groups="navy", principal="owner", role="admin")).json()
    assert [passage["uri"] for passage in found["passages"]] == ["ships.txt"]


async def test_what_is_asked_often_may_be_stored(api: Api) -> None:
    seen = [(await ask(api, "harbour ships")).headers for _ in range(4)]
    told = [headers["cache-control"] for headers in seen]
    assert told[:2] == ["no-store"] * 2
    for words in told[2:]:  # what the hot cache has had for a while, for so much less
        lasts = re.fullmatch(r"public, max-age=0, s-maxage=(\d+)", words)
        assert lasts
        assert 0 < int(lasts[1]) <= 300
    assert [("etag" in headers, "surrogate-key" in headers) for headers in seen] == [(False, False)] * 2 + [
        (True, True)
    ] * 2
    namespace = await api.system.namespaces.get("open")
    (document,) = {one["document"] for one in (await ask(api, "harbour ships")).json()["passages"]}
    assert seen[3]["surrogate-key"].split(" ") == [f"n-{namespace.uid}", f"d-{document}"]
    assert seen[3]["ragline-visible"] == str(namespace.visible)
    assert seen[3]["vary"] == "Authorization"
    assert "set-cookie" not in seen[3]


async def test_an_answer_without_passages_carries_the_namespace(api: Api) -> None:
    response = await popular(api, "zebra", legs="keyword")
    assert response.json()["passages"] == []
    assert response.headers["surrogate-key"] == f"n-{(await api.system.namespaces.get('open')).uid}"


async def test_white_space_and_order_make_no_other_question(api: Api) -> None:
    for query in ("left  the harbour", " left the harbour", "left the harbour "):
        response = await ask(api, query)
    assert "s-maxage" in response.headers["cache-control"]


async def test_whoever_has_it_gets_a_304(api: Api) -> None:
    tag = (await popular(api, "seven ships")).headers["etag"]
    assert tag.startswith('W/"')
    for header in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
        same = await ask(api, "seven ships", headers={"If-None-Match": header})
        assert (same.status_code, same.content) == (304, b"")
        assert same.headers["etag"] == tag
        assert {"cache-control", "surrogate-key", "vary"} <= set(same.headers)
    assert (await ask(api, "seven ships", headers={"If-None-Match": '"other"'})).status_code == 200
    await api.upload(("ships.txt", "Seven ships left the harbour, and one came back."), namespace="open")
    changed = await ask(api, "seven ships", headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag
    await api.upload(("ships.txt", "Seven ships left the harbour."), namespace="open")


async def test_what_asks_for_new_changes_is_not_stored(api: Api) -> None:
    response = await popular(api, "ships", min_sequence=1)
    assert (response.status_code, response.headers["cache-control"]) == (200, "no-store")


async def test_a_degraded_answer_is_not_stored(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await popular(api, "degraded ships")
    system: System = api.system

    async def broken(*_: object, **__: object) -> None:
        from ragline.errors import EngineUnavailable

        raise EngineUnavailable("gone", next_step="wait", engine="vectors")

    monkeypatch.setattr(system.vectors, "search", broken)
    assert system.hot_tier  # it has the whole answer, and would give that
    await system.hot_tier.written()
    await system.hot_tier.cache.clear((await system.namespaces.get("open")).uid)
    response = await ask(api, "degraded ships")
    assert response.json()["degraded"] == ["dense"]
    assert response.headers["cache-control"] == "no-store"


async def test_an_error_is_not_stored(api: Api) -> None:
    for params in ({"top_k": 0}, {"filters": "{"}, {"filters": '{"unknown": 1}'}):
        response = await ask(api, "ships", **params)
        assert response.status_code == 422
        assert response.headers["cache-control"] == "no-store"


async def test_private_answers_are_for_no_cache(api: Api) -> None:
    async with api.client() as client:
        response = await client.get(SEARCH, params={"q": "ships", "namespace": "closed"})
    assert (response.status_code, response.headers["cache-control"]) == (200, "private, no-store")


async def test_public_is_shown_and_can_be_taken_back(api: Api) -> None:
    await api.call("PUT", "/v1/namespaces/brief", json={"public": True}, status=201)
    assert (await api.call("GET", "/v1/namespaces/brief"))["settings"]["public"] is True
    assert (await ask(api, "ships", namespace="brief")).status_code == 200
    changed = await api.call("PATCH", "/v1/namespaces/brief", json={"candidates": 20})
    assert changed["settings"]["public"] is True, "what is not named stays"
    await api.call("PATCH", "/v1/namespaces/brief", json={"public": False})
    assert (await ask(api, "ships", namespace="brief")).status_code == 401


async def test_without_an_edge_nothing_is_stored(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = Settings(data_dir=tmp_path_factory.mktemp("no_edge"), edge=EdgeSettings(popular_after=1))
    async with working(settings) as api:
        await api.call("PUT", "/v1/namespaces/open", json={"public": True}, status=201)
        for _ in range(3):
            response = await ask(api, "ships")
            assert (response.status_code, response.headers["cache-control"]) == (200, "no-store")
