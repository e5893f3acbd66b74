"""One request is one trace, with the stages of the metrics; what no trace and no log line may hold is in none."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from ragline import logs, metrics
from ragline.build import build
from ragline.connections import otlp
from ragline.connections.model_server import ModelServer
from ragline.errors import EngineUnavailable
from ragline.settings import Settings, TracesSettings
from ragline.tracing import Tracer, begun
from tests.api.conftest import OWNER, Api
from tests.collector import Collector, collecting, flush
from tests.test_tracing import Keeping

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TEXT = "# Herons\n\nA heron wades through the shallow water of Quibblewick and waits for a fish.\n"
QUERY = "Where does a heron wade zanzibarically?"
WITHIN_S = 60.0

SEARCHED = ["search", "cache", ["total", ["dense", "embed"], "fuse", "guard", "keyword"]]
"""As in docs/tracing.md."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@asynccontextmanager
async def serving(folder: Path, **traces: Any) -> AsyncIterator[Api]:
    system = await build(Settings(data_dir=folder, traces=TracesSettings(**traces)))
    work = asyncio.create_task(system.work())
    try:
        yield Api(system)
    finally:
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work
        await system.aclose()


@pytest.fixture(scope="module")
async def traced(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    async with serving(
        tmp_path_factory.mktemp("traced"), url=collector.url, sample_ratio=1, headers="x-token=hush-hush", service="api"
    ) as api:
        await api.upload(("herons.md", TEXT))
        yield api


async def asked(api: Api, method: str, path: str, **kwargs: Any) -> httpx.Response:
    async with api.client() as client:
        return await client.request(method, path, **kwargs)


async def test_one_search_is_one_trace(traced: Api, collector: Collector) -> None:
    response = await asked(traced, "POST", "/v1/search", json={"query": QUERY, "top_k": 3})
    await flush(traced.system)
    trace_id = response.headers["x-request-id"]
    assert collector.tree(trace_id) == [["POST /v1/search", SEARCHED]]
    server, search = collector.one("POST /v1/search", trace_id), collector.one("search", trace_id)
    assert server.attributes == {
        "http.request.method": "POST", "http.route": "/v1/search", "http.response.status_code": 200,
        "ragline.request_id": trace_id,
    }  # fmt: skip
    assert (server.kind, server.service, server.parent, server.failed) == (2, "api", "", False)
    assert search.attributes == {
        "ragline.namespace": "default", "ragline.top_k": 3, "ragline.epoch": response.json()["epoch"],
        "ragline.degraded": [], "ragline.cached": False, "ragline.joined": False, "ragline.passages": 1,
    }  # fmt: skip

    async def kept() -> httpx.Response | None:
        assert traced.system.hot_tier
        await traced.system.hot_tier.written()
        found = await asked(traced, "POST", "/v1/search", json={"query": QUERY, "top_k": 3})
        return found if found.json()["cached"] else None

    async with asyncio.timeout(WITHIN_S):  # what the upload has left to sweep ends a first entry
        while (again := await kept()) is None:
            pass
    await flush(traced.system)
    assert collector.tree(again.headers["x-request-id"]) == [["POST /v1/search", ["search", "cache", "guard"]]]
    assert collector.one("search", again.headers["x-request-id"]).attributes["ragline.cached"] is True
    assert collector.headers[-1]["x-token"] == "hush-hush"


async def test_a_callers_trace_goes_on(traced: Api, collector: Collector) -> None:
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "X-Request-Id": "mine-1"}
    response = await asked(traced, "POST", "/v1/search", json={"query": "a fish"}, headers=headers)
    await flush(traced.system)
    server = collector.one("POST /v1/search", TRACE)
    assert (server.parent, server.attributes["ragline.request_id"]) == (SPAN, "mine-1")
    assert response.headers["x-request-id"] == "mine-1"


@pytest.mark.parametrize(
    "headers",
    [
        [("traceparent", "00-evil")],
        [("traceparent", f"00-{TRACE}-{SPAN}-01"), ("traceparent", f"00-{TRACE}-{SPAN}-00")],
        [("traceparent", "\xff" * 8000)],
        [("x-request-id", "a\x7fb"), ("traceparent", "0" * 55)],
        [("x-request-id", "x" * 129)],
    ],
)
async def test_hostile_headers_begin_a_new_trace(
    traced: Api, collector: Collector, headers: list[tuple[str, str]]
) -> None:
    async with traced.client() as client:
        given = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        response = await client.request(
            "POST", "/v1/search", json={"query": "a fish"}, headers=[*client.headers.raw, *given]
        )
    assert response.status_code == 200
    await flush(traced.system)
    id = response.headers["x-request-id"]
    assert id != TRACE
    assert collector.one("POST /v1/search", id).parent == ""


async def test_an_answer_says_who_generated_it(traced: Api, collector: Collector) -> None:
    for stream in (False, True):
        body = {"query": f"Where does a heron wade? {stream}", "stream": stream}
        response = await asked(traced, "POST", "/v1/answers", json=body)
        assert response.status_code == 200
        await flush(traced.system)
        id = response.headers["x-request-id"]
        assert collector.tree(id) == [["POST /v1/answers", "cache", "generate", SEARCHED]]
        assert collector.one("POST /v1/answers", id).attributes["ragline.generator"] == "extractive"
        assert collector.one("generate", id).attributes == {"ragline.generator": "extractive"}


async def test_a_document_is_one_trace(traced: Api, collector: Collector) -> None:
    response = await asked(
        traced, "POST", "/v1/namespaces/default/documents", files=[("file", ("cranes.md", b"# Cranes\n\nThey dance."))],
        params={"wait": "true"},
    )  # fmt: skip
    await flush(traced.system)
    accept = collector.one("accept", response.headers["x-request-id"])
    trace_id = str(accept.attributes["ragline.document_trace"])
    assert await until(lambda: collector.tree(trace_id), traced) == [["document", "embed", "index", "parse"]]
    assert collector.one("document", trace_id).attributes["ragline.document"] == accept.attributes["ragline.document"]


async def test_a_job_is_one_trace_from_the_api_to_its_workers(traced: Api, collector: Collector) -> None:
    response = await asked(traced, "POST", "/v1/queries", json={"query": "Where is a heron, later?"})
    assert response.status_code == 202
    job = response.json()["job_id"]
    async with asyncio.timeout(WITHIN_S):
        while (await traced.call("GET", f"/v1/jobs/{job}"))["state"] not in ("done", "failed"):
            await asyncio.sleep(0.02)
    id = response.headers["x-request-id"]

    def ended() -> Any:
        return collector.tree(id) if any(one.name == "job generation" for one in collector.spans) else None

    generation = ["job generation", ["generation", "generate"]]
    retrieval = ["job retrieval", ["retrieval", SEARCHED]]
    assert await until(ended, traced) == [["POST /v1/queries", generation, retrieval]]


async def test_an_error_names_its_request(traced: Api, collector: Collector) -> None:
    response = await asked(traced, "POST", "/v1/search", json={"query": "x", "namespace": "nowhere"})
    await flush(traced.system)
    assert response.status_code == 404
    id = response.headers["x-request-id"]
    assert response.json()["request_id"] == id
    server = collector.one("POST /v1/search", id)
    assert (server.failed, server.attributes["http.response.status_code"]) == (False, 404)


async def test_a_defect_has_an_id_too(traced: Api, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError(QUERY)

    monkeypatch.setattr(type(traced.system.search), "search", broken)
    response = await asked(traced, "POST", "/v1/search", json={"query": QUERY})
    await flush(traced.system)
    assert response.status_code == 500
    id = response.headers["x-request-id"]
    assert response.json()["request_id"] == id
    server = collector.one("POST /v1/search", id)
    assert server.failed
    assert server.attributes["error.type"] == "ZeroDivisionError"


async def test_an_unknown_method_and_path_make_no_names(traced: Api, collector: Collector) -> None:
    response = await asked(traced, "BREW", "/coffee/4711?q=secret")
    await flush(traced.system)
    assert collector.one("_OTHER other", response.headers["x-request-id"]).attributes["http.route"] == "other"
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await asked(traced, "GET", path)).headers["x-request-id"]
    await flush(traced.system)
    assert not [one.name for one in collector.spans if "healthz" in one.name or "metrics" in one.name]


async def test_a_model_server_is_told_of_the_trace() -> None:
    told: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    asks = ModelServer(f"http://127.0.0.1:{port}/v1", role="embedder", setting="embedder", engine="e", api_key=None)
    span = begun(Tracer(Keeping(), ratio=1, callers_per_s=0), "embed", traceparent=f"00-{TRACE}-{SPAN}-01")
    with pytest.raises(EngineUnavailable), span:
        await asks.post("embeddings", {}, timeout_s=30)
    with pytest.raises(EngineUnavailable):
        await asks.post("embeddings", {}, timeout_s=30)
    await asks.aclose()
    server.close()
    assert f"traceparent: 00-{TRACE}-0123456789abcdef-01" in told[0]
    assert "traceparent" not in told[-1]


async def test_texts_are_in_no_span_unless_a_setting_says_so(traced: Api, collector: Collector, tmp_path: Path) -> None:
    await asked(traced, "POST", "/v1/answers", json={"query": QUERY})
    await asked(traced, "GET", "/v1/search", params={"q": QUERY})
    await flush(traced.system)
    sent = b"".join(collector.bodies)
    for secret in ("zanzibarically", "Quibblewick", OWNER, "hush-hush", "herons.md"):
        assert secret.encode() not in sent
    with collecting() as other:
        async with serving(tmp_path, url=other.url, sample_ratio=1, texts=True) as api:
            await api.upload(("herons.md", TEXT))
            await api.search(QUERY)
            await flush(api.system)
        assert other.one("search").attributes["ragline.query"] == QUERY
        assert b"Quibblewick" not in b"".join(other.bodies)


async def test_what_is_not_drawn_is_not_sent_and_has_ids(tmp_path: Path) -> None:
    with collecting() as other:
        async with serving(tmp_path, url=other.url, sample_ratio=0, callers_per_s=0) as api:
            response = await asked(
                api, "POST", "/v1/search", json={"query": "x"}, headers={"traceparent": f"00-{TRACE}-{SPAN}-01"}
            )
            await flush(api.system)
        assert response.headers["x-request-id"] == TRACE
        assert other.spans == []


def _spans(outcome: str) -> float:
    return float(metrics.spans_total.labels(outcome)._value.get())


async def test_a_collector_that_is_away_costs_spans_and_nothing_else(tmp_path: Path) -> None:
    async with serving(tmp_path, url="http://127.0.0.1:9", sample_ratio=1, most_waiting=3, timeout_s=0.2) as api:
        before = _spans("no room"), _spans("not taken")
        for n in range(3):
            await api.search(f"heron {n}")
        assert _spans("no room") > before[0]
    assert _spans("not taken") > before[1]  # as the process ended


async def test_a_silent_collector_holds_no_end_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection, and says nothing: the process ends while the last batch still waits for its answer."""
    monkeypatch.setattr(otlp, "FLUSH_S", 0.05)
    writers: list[asyncio.StreamWriter] = []

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with serving(tmp_path, url=url, sample_ratio=1, timeout_s=3600) as api:
        await api.search("heron")
    (flushing,) = [thread for thread in threading.enumerate() if thread.name == "traces-flush"]
    server.close()
    for writer in writers:
        writer.close()
    await asyncio.to_thread(flushing.join, WITHIN_S)
    assert not flushing.is_alive()


async def test_no_log_line_holds_a_text_or_a_key(collector: Collector, tmp_path: Path) -> None:
    handlers, level = logging.getLogger().handlers, logging.getLogger().level
    lines = io.StringIO()
    logs.configure("debug")
    handler = logging.getLogger().handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(lines)
    try:
        async with serving(tmp_path, url=collector.url, sample_ratio=1, headers="x-token=hush-hush") as api:
            key = await api.new_key(role="write")
            await api.upload(("herons.md", TEXT), key=key)
            searched = await asked(api, "POST", "/v1/search", json={"query": QUERY})
            await asked(api, "GET", "/v1/search", params={"q": QUERY})
            await api.call("POST", "/v1/answers", json={"query": QUERY})
            failing = await asked(api, "POST", "/v1/search", json={"query": QUERY, "namespace": "nowhere"})
            await asked(api, "POST", "/v1/search", json={"query": QUERY, "top_k": "many"})
            await asked(api, "POST", "/v1/search", content=QUERY, headers={"Authorization": "Bearer rgl_wrongwrong"})
            structlog.get_logger().info("beside any request")
    finally:
        logging.getLogger().handlers = handlers
        logging.getLogger().setLevel(level)
        structlog.reset_defaults()  # as a test finds it
    said = lines.getvalue()
    for secret in ("zanzibarically", "Quibblewick", OWNER, key, "rgl_wrongwrong", "hush-hush"):
        assert secret not in said
    found = [json.loads(line) for line in said.splitlines()]
    requests = {line["request_id"]: line for line in found if line["event"] == "request"}
    for response in (searched, failing):
        line = requests[response.headers["x-request-id"]]
        assert line["trace_id"] == response.headers["x-request-id"]
        assert (line["route"], line["status"]) == ("/v1/search", response.status_code)
    assert "request_id" not in next(line for line in found if line["event"] == "beside any request")


async def until(look: Any, api: Api) -> Any:
    """What `look` finds, once it finds something: a worker's span ends after what it has written is seen."""
    give_up_at = time.monotonic() + WITHIN_S
    while not (found := look()) and time.monotonic() < give_up_at:
        await asyncio.sleep(0.02)
        await flush(api.system)
    return found
