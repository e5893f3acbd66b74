"""A collector of traces: a real HTTP server that takes OTLP, and the spans that it has got."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from ragline.connections.otlp import OtlpRecorder
from ragline.system import System


@dataclass(frozen=True)
class Got:
    name: str
    trace_id: str
    span_id: str
    parent: str
    attributes: dict[str, Any]
    failed: bool
    kind: int
    service: str


@dataclass
class Collector:
    url: str = ""
    spans: list[Got] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    status: int = 200

    def trees(self) -> dict[str, list[Any]]:
        """Trace → its spans as nested ``name`` or ``[name, child, …]``, by name; a span whose parent did not come is a root."""
        return {id: self.tree(id) for id in dict.fromkeys(span.trace_id for span in self.spans)}

    def tree(self, trace_id: str) -> list[Any]:
        mine = [span for span in self.spans if span.trace_id == trace_id]
        here = {span.span_id for span in mine}

        def below(parent: Got) -> Any:
            children = sorted((one for one in mine if one.parent == parent.span_id), key=lambda one: one.name)
            return [parent.name, *map(below, children)] if children else parent.name

        return [below(one) for one in sorted(mine, key=lambda one: one.name) if one.parent not in here]

    def one(self, name: str, trace_id: str | None = None) -> Got:
        (found,) = [one for one in self.spans if one.name == name and trace_id in (None, one.trace_id)]
        return found


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Takes(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            collector.headers.append({name.lower(): value for name, value in self.headers.items()})
            if collector.status == 200:
                assert self.path == "/v1/traces"
                collector.bodies.append(body)
                collector.spans.extend(_spans(ExportTraceServiceRequest.FromString(body)))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(collector.status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Takes)
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def flush(system: System) -> None:
    """What has ended is with the collector when this returns."""
    assert system.tracer
    recorder = system.tracer._recorder
    assert isinstance(recorder, OtlpRecorder)
    await asyncio.to_thread(recorder._provider.force_flush)


def _spans(request: ExportTraceServiceRequest) -> Iterator[Got]:
    for resource in request.resource_spans:
        about = _values(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Got(
                    span.name, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(),
                    _values(span.attributes), span.status.code == 2, span.kind, str(about["service.name"]),
                )  # fmt: skip


def _values(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)
