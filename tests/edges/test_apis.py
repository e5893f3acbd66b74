"""Fastly and Cloudflare, held to their published APIs by a server that checks each request; none of them was asked itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

import pytest
from pydantic import SecretStr

from ragline.connections.model_server import Busy
from ragline.edges.cloudflare import CloudflareEdge
from ragline.edges.fastly import FastlyEdge
from ragline.edges.varnish import VarnishEdge
from ragline.errors import (
    ConfigurationError,
    EngineDenied,
    EngineError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
)
from ragline.protocols import Edge
from ragline.testing.edges import UID, EdgeContract
from tests.engines.played import HANG, Answer, Asked, Played, nowhere, played

SERVICE, ZONE, TOKEN = "SU1Z0isxPaozGVKXdv0eY", "023e105f4ecef8ad9ca31a8372d0c353", "very-secret"


def fastly(asked: Asked) -> Answer:
    """POST /service/{service_id}/purge: up to 256 keys of at most 1,024 bytes; answers {key: id of the purge}."""
    assert (asked.method, asked.path) == ("POST", f"/service/{SERVICE}/purge")
    assert asked.headers["fastly-key"] == TOKEN
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers["accept"] == "application/json"
    assert asked.headers.get("fastly-soft-purge", "1") == "1"
    assert asked.body.keys() == {"surrogate_keys"}
    keys = asked.body["surrogate_keys"]
    assert 1 <= len(keys) <= 256
    assert all(isinstance(key, str) and key and " " not in key and len(key) <= 1024 for key in keys)
    return Answer({key: f"108-1391560174-{number}" for number, key in enumerate(keys)})


def cloudflare(asked: Asked) -> Answer:
    """POST /zones/{zone_id}/purge_cache: up to 100 tags of at most 1,024 characters, without spaces and commas."""
    assert (asked.method, asked.path) == ("POST", f"/zones/{ZONE}/purge_cache")
    assert asked.headers["authorization"] == f"Bearer {TOKEN}"
    assert asked.headers["content-type"] == "application/json"
    assert asked.body.keys() == {"tags"}
    tags = asked.body["tags"]
    assert 1 <= len(tags) <= 100
    assert all(isinstance(tag, str) and tag and not set(tag) & set(" ,") and len(tag) <= 1024 for tag in tags)
    return Answer({"success": True, "errors": [], "messages": [], "result": {"id": ZONE}})


def varnish(asked: Asked) -> Answer:
    """As our VCL takes it; the real one is in test_varnish.py."""
    assert (asked.method, asked.path) == ("PURGE", "/")
    assert len(asked.headers["surrogate-key"]) < 8_000
    assert asked.headers["ragline-namespace"] == UID
    assert asked.headers["ragline-visible"].isdecimal()
    return Answer(b"")


PLAYS = {"fastly": fastly, "cloudflare": cloudflare, "varnish": varnish}


def opened(vendor: str, url: str, *, words: str = "", timeout_s: float = 20.0) -> Edge:
    token = SecretStr(TOKEN)
    match vendor:
        case "fastly":
            return FastlyEdge(f"fastly://{SERVICE}?api={url}{words}", token=token, timeout_s=timeout_s)
        case "cloudflare":
            return CloudflareEdge(f"cloudflare://{ZONE}?api={url}{words}", token=token, timeout_s=timeout_s)
    return VarnishEdge(url.replace("http://", "varnish://"), token=None, timeout_s=timeout_s)


@pytest.fixture(params=["fastly", "cloudflare", "varnish"])
def vendor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def server(vendor: str) -> AsyncIterator[Played]:
    async with played() as ours:
        ours.answer = PLAYS[vendor]
        yield ours


@pytest.fixture
async def edge(vendor: str, server: Played) -> AsyncIterator[Edge]:
    edge = opened(vendor, server.url)
    yield edge
    await edge.aclose()


def named(asked: Asked) -> list[str]:
    if asked.body:
        return list(asked.body.get("surrogate_keys") or asked.body["tags"])
    return asked.headers["surrogate-key"].split(" ")


class TestEdges(EdgeContract):
    @pytest.fixture
    def edge(self, edge: Edge) -> Edge:
        return edge

    @pytest.fixture
    async def away(self, vendor: str) -> AsyncIterator[Edge]:
        away = opened(vendor, nowhere())
        yield away
        await away.aclose()

    @pytest.fixture
    def dropped(self, server: Played) -> Callable[[], Collection[str]]:
        return lambda: [key for asked in server.asked for key in named(asked)]


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (301, {}, EngineRejected), (400, {}, EngineRejected), (401, {}, EngineDenied), (403, {}, EngineDenied),
        (404, {}, EngineRejected), (408, {}, EngineTimeout), (429, {}, Busy), (429, {"retry-after": "17"}, Busy),
        (500, {}, EngineError), (502, {}, EngineUnavailable), (503, {}, EngineUnavailable),
        (503, {"retry-after": "17"}, Busy), (504, {}, EngineTimeout), (204, {}, EngineRejected),
    ],
)  # fmt: skip
async def test_what_is_no_acknowledgement_is_an_error_of_ours(
    edge: Edge, server: Played, status: int, headers: dict[str, str], error: type[EngineError]
) -> None:
    server.answer = lambda _: Answer({"secret": TOKEN}, status=status, headers=headers)
    with pytest.raises(EngineError) as raised:
        await edge.purge(["d-1"], namespace=UID, visible=1)
    assert type(raised.value) is error
    assert TOKEN not in str(raised.value)
    assert raised.value.engine == f"edge:{edge.name}"
    if isinstance(raised.value, Busy):
        assert raised.value.retry_after_s == (17.0 if headers else None)


async def test_a_connection_that_breaks_off(edge: Edge, server: Played) -> None:
    server.answer = lambda _: b""
    with pytest.raises(EngineUnavailable):
        await edge.purge(["d-1"], namespace=UID, visible=1)


async def test_no_answer_at_all(vendor: str, server: Played) -> None:
    server.answer = lambda _: HANG
    edge = opened(vendor, server.url, timeout_s=0.2)
    with pytest.raises(EngineTimeout, match=r"0\.2 s"):
        await edge.purge(["d-1"], namespace=UID, visible=1)
    await server.left.wait()
    await edge.aclose()


async def test_whoever_leaves_leaves_no_request_behind(edge: Edge, server: Played) -> None:
    server.answer = lambda _: HANG
    purging = asyncio.create_task(edge.purge(["d-1"], namespace=UID, visible=1))
    await server.arrived.wait()
    purging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await purging
    await server.left.wait()


async def test_cloudflare_says_no_in_an_answer_that_looks_good() -> None:
    async with played() as server:
        server.answer = lambda _: Answer(
            {"success": False, "errors": [{"code": 1134, "message": "no"}], "result": None}
        )
        edge = opened("cloudflare", server.url)
        with pytest.raises(EngineRejected):
            await edge.purge(["d-1"], namespace=UID, visible=1)
        await edge.aclose()


async def test_fastly_purges_softly_when_told() -> None:
    async with played() as server:
        server.answer = fastly
        for words, soft in (("", None), ("&soft=true", "1"), ("&soft=false", None)):
            edge = opened("fastly", server.url, words=words)
            await edge.purge(["d-1"], namespace=UID, visible=1)
            assert server.asked[-1].headers.get("fastly-soft-purge") == soft
            await edge.aclose()


def test_labels_are_what_each_reads() -> None:
    labels: dict[str, Any] = {
        vendor: opened(vendor, "http://127.0.0.1:1").labels(["n-1", "d-2"], namespace="1", visible=7)
        for vendor in PLAYS
    }
    assert labels == {
        "fastly": {"Surrogate-Key": "n-1 d-2"},
        "cloudflare": {"Cache-Tag": "n-1,d-2"},
        "varnish": {"Surrogate-Key": "n-1 d-2", "Ragline-Namespace": "1", "Ragline-Visible": "7"},
    }


@pytest.mark.parametrize(
    ("opens", "url"),
    [
        (FastlyEdge, "fastly://"), (FastlyEdge, "fastly://a/b"), (FastlyEdge, "fastly://a?sofd=true"),
        (FastlyEdge, "fastly://a?soft=1"), (CloudflareEdge, "cloudflare://"), (CloudflareEdge, "cloudflare://example.com"),
        (CloudflareEdge, f"cloudflare://{ZONE}?soft=true"),
    ],
)  # fmt: skip
def test_wrong_urls_are_told(opens: Callable[..., Edge], url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"edge\.url"):
        opens(url, token=SecretStr(TOKEN), timeout_s=1.0)


@pytest.mark.parametrize(("opens", "url"), [(FastlyEdge, "fastly://a"), (CloudflareEdge, f"cloudflare://{ZONE}")])
@pytest.mark.parametrize("token", [None, SecretStr(""), SecretStr(" ")])
def test_a_token_is_needed(opens: Callable[..., Edge], url: str, token: SecretStr | None) -> None:
    with pytest.raises(ConfigurationError, match=r"edge\.token"):
        opens(url, token=token, timeout_s=1.0)
