"""Spans to a collector: OpenTelemetry's SDK, and OTLP over HTTP. Imported only where `traces.url` is set.

The SDK gathers and sends in a thread of its own, in batches. What waits is bounded by us, because the SDK does not count what it
throws away; a collector that is away costs spans, which are counted, never a request. `tracing.Tracer` decides what is recorded.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as VendorSpan
from opentelemetry.trace import Tracer as VendorTracer
from pydantic import SecretStr

from ragline import __version__, metrics
from ragline.errors import ConfigurationError
from ragline.settings import TracesSettings
from ragline.tracing import Kind, Value

log = structlog.get_logger()

logging.getLogger("opentelemetry").setLevel(
    logging.CRITICAL + 1
)  # it tells of every try; `_Sending` tells of the first

PATH = "/v1/traces"
BATCH = 512
EVERY_MS = 2000
FLUSH_S = 3.0
"""What the last spans get when the process stops."""

MOST_TEXT_CHARS = 4096
MOST_ATTRIBUTES = 64
SAMPLED = TraceFlags(TraceFlags.SAMPLED)
KINDS: dict[Kind, SpanKind] = {
    "server": SpanKind.SERVER, "consumer": SpanKind.CONSUMER, "internal": SpanKind.INTERNAL
}  # fmt: skip


class OtlpRecorder:
    """Raises ConfigurationError: the URL is none, or a header."""

    def __init__(self, settings: TracesSettings) -> None:
        exporter = OTLPSpanExporter(
            endpoint=endpoint(settings.url), headers=header_pairs(settings.headers), timeout=settings.timeout_s,
            compression=Compression.Gzip,
        )  # fmt: skip
        self._sending = _Sending(exporter)
        processor = _Bounded(self._sending, settings.most_waiting)
        self._ids = _Ids()
        about = {
            "service.name": settings.service, "service.version": __version__,
            "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
        }  # fmt: skip
        limits = SpanLimits(max_span_attributes=MOST_ATTRIBUTES, max_span_attribute_length=MOST_TEXT_CHARS)
        self._provider = TracerProvider(
            ALWAYS_ON, Resource(about), shutdown_on_exit=False, id_generator=self._ids, span_limits=limits
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("ragline", __version__)
        self._texts = settings.texts

    def begin(self, name: str, kind: Kind, trace_id: str, parent: str) -> _Recorded:
        context = Context()
        if parent:
            known = SpanContext(int(trace_id, 16), int(parent, 16), is_remote=True, trace_flags=SAMPLED)
            context = set_span_in_context(NonRecordingSpan(known), context)
        self._ids.wanted = int(trace_id, 16)
        return _Recorded(self._tracer, self._tracer.start_span(name, context, KINDS[kind]), texts=self._texts)

    async def aclose(self) -> None:
        """Off the event loop, and not for longer than FLUSH_S; what is not sent then is lost."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces-flush", daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, FLUSH_S)
        if closing.is_alive():
            self._sending.shutdown()  # ends its waiting between tries


class _Recorded:
    __slots__ = ("_span", "_texts", "_tracer", "span_id", "trace_id")
    recorded = True

    def __init__(self, tracer: VendorTracer, span: VendorSpan, *, texts: bool) -> None:
        self._tracer = tracer
        self._span = span
        self._texts = texts
        context = span.get_span_context()
        self.trace_id = f"{context.trace_id:032x}"
        self.span_id = f"{context.span_id:016x}"

    def child(self, name: str) -> _Recorded:
        context = set_span_in_context(self._span, Context())
        return _Recorded(self._tracer, self._tracer.start_span(name, context), texts=self._texts)

    def note(self, values: Mapping[str, Value]) -> None:
        self._span.set_attributes(values)

    def text(self, name: str, words: str) -> None:
        if self._texts:
            self._span.set_attribute(name, words.encode("utf-8", "replace").decode())

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def end(self, error: BaseException | None = None) -> None:
        if error is not None:
            self._span.set_attribute("error.type", type(error).__name__)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class _Ids(RandomIdGenerator):
    """A trace that begins here has the id that `tracing` chose."""

    wanted = 0

    def generate_trace_id(self) -> int:
        return self.wanted


class _Sending(SpanExporter):
    """Counts what became of spans, and says in one line when the collector is away, and when it is back."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._away = False
        self._lock = threading.Lock()
        self.waiting = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 (counted and told: whatever it is, it cost spans and nothing else)
            log.warning("spans not encoded", error=type(error).__name__)
            result = SpanExportResult.FAILURE
        self.left(len(spans))
        sent = result is SpanExportResult.SUCCESS
        metrics.spans_total.labels("sent" if sent else "not taken").inc(len(spans))
        if sent == self._away:
            self._away = not sent
            if sent:
                log.info("the collector of traces takes spans again")
            else:
                log.warning("the collector of traces takes no spans; they are dropped", setting="traces.url")
        return result

    def came(self, most: int) -> bool:
        """Whether there is room for one more span. From any thread."""
        with self._lock:
            if self.waiting >= most:
                return False
            self.waiting += 1
            return True

    def left(self, many: int) -> None:
        with self._lock:
            self.waiting -= many

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _Bounded(SpanProcessor):
    """The SDK's batches, with a bound that drops the newest and counts it."""

    def __init__(self, sending: _Sending, most: int) -> None:
        self._sending = sending
        self._most = most
        self._batches = BatchSpanProcessor(
            sending, max_queue_size=max(most, BATCH), schedule_delay_millis=EVERY_MS, max_export_batch_size=BATCH,
            export_timeout_millis=int(FLUSH_S * 1000),
        )  # fmt: skip

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None:
        self._batches.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        if self._sending.came(self._most):
            self._batches.on_end(span)
        else:
            metrics.spans_total.labels("no room").inc()

    def shutdown(self) -> None:
        self._batches.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._batches.force_flush(timeout_millis)


def endpoint(url: str) -> str:
    """Where spans go: the collector's address, with OTLP's path behind it. Raises ConfigurationError."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query
    except ValueError:
        fits = False
    if not fits:
        raise ConfigurationError(
            "traces.url is no address of a collector.", next_step="Write it as http://HOST:4318 or https://HOST."
        )
    if parts.username or parts.password:
        raise ConfigurationError(
            "traces.url carries credentials, which would be shown.", next_step="Move them to traces.headers."
        )
    return url if parts.path.endswith(PATH) else url.rstrip("/") + PATH


def header_pairs(given: SecretStr | None) -> dict[str, str]:
    """Of ``name=value,name=value``. Raises ConfigurationError, without their values."""
    found: dict[str, str] = {}
    for n, pair in enumerate(filter(None, (given.get_secret_value() if given else "").split(",")), start=1):
        name, is_pair, value = pair.partition("=")
        if not is_pair or not name.strip() or not pair.isascii() or not pair.isprintable():
            raise ConfigurationError(
                f"traces.headers: the part {n} is not NAME=VALUE.", next_step="Write them as NAME=VALUE,NAME=VALUE."
            )
        found[name.strip().lower()] = value.strip()
    return found
