"""What stands around every request: its id, its span, its line in the log. Outermost, so that a defect's answer has them too.

Own lines, because OpenTelemetry's middleware records the whole URL, which holds the query of a GET, makes a span of every ASGI
message, and believes every caller (docs/adr/0023-traces.md).
"""

from __future__ import annotations

import logging
import re
import secrets
import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ragline.tracing import CURRENT, REQUEST_ID, Span, Tracer, parent_of

log = structlog.get_logger()
LINES = logging.getLogger(__name__)

GIVEN_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
"""Request ids that are taken from a caller: such as can stand in a log line and a header without harm."""

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))

ASKED_BY_MACHINES = ("/healthz", "/readyz", "/metrics")
"""Every few seconds; a trace of each says nothing."""


class Requests:
    """`tracer` None: requests have an id and a line, and no trace."""

    def __init__(self, app: ASGIApp, tracer: Tracer | None) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, status = time.perf_counter(), 0
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        given, parents = _given(scope)
        span = self._begun(scope, method, parents)
        request_id = given or (span.trace_id if span else secrets.token_hex(16))

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        failed: BaseException | None = None
        tokens = REQUEST_ID.set(request_id), CURRENT.set(span)
        try:
            await self._app(scope, receive, named)
        except BaseException as error:
            failed = error
            raise
        finally:
            route = getattr(scope.get("route"), "path", "other")
            # The route and not the path: a GET has its query in the path.
            took_ms = round((time.perf_counter() - began) * 1000, 1)
            if LINES.isEnabledFor(logging.DEBUG):  # asking costs a tenth of a line that is thrown away
                log.debug("request", method=method, route=route, status=status, took_ms=took_ms)
            if span is not None:
                _end(span, method, route, status, request_id, failed)
            REQUEST_ID.reset(tokens[0])
            CURRENT.reset(tokens[1])
        return None

    def _begun(self, scope: Scope, method: str, parents: list[bytes]) -> Span | None:
        if self._tracer is None or scope["path"] in ASKED_BY_MACHINES:
            return None
        parent = parent_of(parents[0].decode("latin-1")) if len(parents) == 1 else None
        return self._tracer.begin(method, "server", parent=parent, believed=False)


def _given(scope: Scope) -> tuple[str, list[bytes]]:
    """The caller's request id, empty where it sent none that can be used, and the traceparents that it sent."""
    id, parents = "", []
    for name, value in scope["headers"]:
        if name == b"x-request-id" and GIVEN_ID.fullmatch(value):
            id = value.decode("ascii")
        elif name == b"traceparent":
            parents.append(value)
    return id, parents


def _end(span: Span, method: str, route: str, status: int, request_id: str, failed: BaseException | None) -> None:
    span.rename(f"{method} {route}")
    span.note({
        "http.request.method": method, "http.route": route, "http.response.status_code": status,
        "ragline.request_id": request_id,
    })  # fmt: skip
    span.end(failed or (_ServerError() if status >= 500 else None))


class _ServerError(Exception):
    """Stands for an answer that says 500 or more, where nothing was raised."""
