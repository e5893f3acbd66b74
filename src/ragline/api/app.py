"""The application: which routes a process serves, and what stands around them all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ragline import __version__, metrics
from ragline.api import (
    answers,
    audit,
    backup,
    cache,
    documents,
    embeddings,
    health,
    jobs,
    keys,
    namespaces,
    problems,
    redrive,
    search,
    sources,
    status,
    wakes,
    webhooks,
)
from ragline.api.access import Access
from ragline.api.requests import Requests
from ragline.clock import Clock
from ragline.errors import RaglineError, TooLarge
from ragline.protocols import Embedder, PushedJobQueue
from ragline.registry.keys import Keys
from ragline.settings import HttpSettings
from ragline.system import System
from ragline.tracing import Tracer

READY_S = 2.0
"""Longest that an engine is asked for `/readyz`."""

NO_TELEMETRY = dict.fromkeys(("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False)
"""Of FastAPI's own, which a variable of the environment could turn on: it would record the query of a GET, and the words of what
was refused. An older FastAPI has none, and passes this over."""

DESCRIPTION = "Documents in, cited answers out. Errors are RFC 9457 problem details that say what to do next."


def gateway(system: System, *, owner_token: str) -> FastAPI:
    """Every route."""
    app = _app(system.settings.http, system.keys, system.clock, owner_token, _ready(system), system.tracer)
    app.state.system, app.state.embedder = system, system.embedder
    # Routes are tried in this order, and most requests are searches; none shadows another.
    for module in (
        search, answers, jobs, webhooks, namespaces, documents, sources, keys, audit, backup, cache, redrive, status,
        embeddings,
    ):  # fmt: skip
        app.include_router(module.router, responses=problems.RESPONSES)
    _take_wakes(app, system)
    return app


def retriever(system: System, *, owner_token: str) -> FastAPI:
    """`/v1/search` only."""
    app = _app(system.settings.http, system.keys, system.clock, owner_token, _ready(system), system.tracer)
    app.state.system = system
    app.include_router(search.router, responses=problems.RESPONSES)
    return app


def worker(system: System, *, owner_token: str) -> FastAPI:
    """Health and metrics only, and the wakes of a queue that pushes."""
    app = _app(system.settings.http, system.keys, system.clock, owner_token, _ready(system), system.tracer)
    app.state.system = system
    _take_wakes(app, system)
    return app


def _take_wakes(app: FastAPI, system: System) -> None:
    if isinstance(system.job_queue, PushedJobQueue):
        app.state.pushed = system.job_queue
        app.include_router(wakes.router)


def embedder(
    served: Embedder, http: HttpSettings, keys: Keys, clock: Clock, *, owner_token: str, tracer: Tracer | None = None
) -> FastAPI:
    """`/v1/embeddings` only."""

    async def ready() -> list[str]:
        return []

    app = _app(http, keys, clock, owner_token, ready, tracer)
    app.state.embedder = served
    app.include_router(embeddings.router, responses=problems.RESPONSES)
    return app


def _app(
    http: HttpSettings, keys: Keys, clock: Clock, owner_token: str, ready: Callable[[], Awaitable[list[str]]],
    tracer: Tracer | None,
) -> FastAPI:  # fmt: skip
    # /docs with its script and style from the package, not from a CDN: it must open without the internet
    app = FastAPIOffline(
        title="Ragline", version=__version__, description=DESCRIPTION, redoc_url=None, telemetry=NO_TELEMETRY
    )
    # Middleware that is added stands inside of what answers for a defect, and would not see that answer.
    stack = app.build_middleware_stack
    app.build_middleware_stack = lambda: Requests(stack(), tracer)  # type: ignore[method-assign]
    app.state.access = Access(keys, clock, owner_token=owner_token, origins=http.cors_origins)
    app.state.ready = ready
    problems.install(app)
    app.include_router(health.router)
    app.add_api_route("/", _front, include_in_schema=False)
    app.add_middleware(_Limits, http=http)
    if http.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(http.cors_origins), allow_methods=["*"], allow_headers=["*"]
        )
    return app


async def _front() -> RedirectResponse:
    return RedirectResponse("docs")


def _ready(system: System) -> Callable[[], Awaitable[list[str]]]:
    async def missing() -> list[str]:
        """What does not answer; asked of the engines themselves, all at once."""
        engines: dict[str, Callable[[], Awaitable[object]]] = {
            "registry": system.documents.waiting, "vectors": system.vectors.collections,
            "keywords": system.keywords.collections,
        }  # fmt: skip
        if system.log is not None:
            engines["log"] = system.log.lag
        engines["jobs"] = system.jobs.store.lengths
        found = await asyncio.gather(*(_trouble(name, ask) for name, ask in engines.items()))
        return [words for words in found if words]

    return missing


async def _trouble(name: str, ask: Callable[[], Awaitable[object]]) -> str:
    """Of an engine, in words; empty: none."""
    try:
        async with asyncio.timeout(READY_S):
            await ask()
    except RaglineError as error:
        return f"{name}: {error}"
    except TimeoutError:
        return f"{name}: it says nothing within {READY_S:g} s."
    return ""


def _not_for_caches(message: Message, *, has_key: bool) -> None:
    """What does not say that it may be stored is not to be, errors neither: caches would guess."""
    headers: list[tuple[bytes, bytes]] = message.setdefault("headers", [])
    if not any(name.lower() == b"cache-control" for name, _ in headers):
        headers.append((b"cache-control", b"private, no-store" if has_key else b"no-store"))


class _Limits:
    """Bounds the body of a request while it is read, and counts requests by route and status."""

    def __init__(self, app: ASGIApp, http: HttpSettings) -> None:
        self._app = app
        self._http = http

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = dict(scope["headers"])
        upload = headers.get(b"content-type", b"").startswith(b"multipart/")
        limit = self._http.max_upload_bytes if upload else self._http.max_body_bytes
        setting = "http.max_upload_bytes" if upload else "http.max_body_bytes"
        too_large = TooLarge(
            f"The request's body is over {limit} bytes.",
            next_step=f"Send less in one request, or raise {setting}.",
            field="body",
        )
        read = 0

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                # FastAPI makes a 400 of whatever else breaks off the reading of a body
                raise HTTPException(too_large.status, too_large.message) from too_large
            return message

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                if scope["path"].startswith("/v1"):
                    _not_for_caches(message, has_key=b"authorization" in headers)
                route = getattr(scope.get("route"), "path", "other")
                metrics.http_requests_total.labels(route, message["status"]).inc()
            await send(message)

        if int(headers.get(b"content-length", b"0") or 0) > limit:
            return await problems.problem(too_large)(scope, receive, counted)
        return await self._app(scope, bounded, counted)
