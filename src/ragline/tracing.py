"""Which request is it, and where does its time go: spans, and the ids that go along from process to process.

    begin (HTTP, a job, a document) ─▶ current span ─▶ its children: `metrics.stage`, `span` ─▶ a recorder, in `connections.otlp`

Nothing here knows a vendor or the settings. Without a tracer nothing is ever current, and every part below costs one look at a
context variable. A trace that is not recorded has ids all the same: for log lines, and so that whoever is called records none.
"""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Literal, ParamSpec, Protocol, TypeAlias, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

Value: TypeAlias = str | bool | int | float | Sequence[str]
Kind: TypeAlias = Literal["server", "consumer", "internal"]

TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
"""https://www.w3.org/TR/trace-context-1/#traceparent-header"""

MOST_CHARS = 512
"""Of a traceparent that is looked at: later versions may be longer than ours, not without end."""


class Span(Protocol):
    """A part of a trace that is under way. Ids in lower hexadecimal digits: 32 of a trace, 16 of a span."""

    @property
    def trace_id(self) -> str: ...

    @property
    def span_id(self) -> str: ...

    @property
    def recorded(self) -> bool: ...

    def child(self, name: str) -> Span: ...

    def note(self, values: Mapping[str, Value]) -> None:
        """Attributes. Never a query, a text of a document, a key: see `text`."""
        ...

    def text(self, name: str, words: str) -> None:
        """An attribute that is a text of a user: kept only where `traces.texts` says so."""
        ...

    def rename(self, name: str) -> None: ...

    def end(self, error: BaseException | None = None) -> None:
        """Of `error` only its type is kept: its words may hold what a user has written."""
        ...


class Unrecorded:
    """Ids, and nothing else."""

    __slots__ = ("span_id", "trace_id")
    recorded = False

    def __init__(self, trace_id: str, span_id: str) -> None:
        self.trace_id = trace_id
        self.span_id = span_id

    def child(self, name: str) -> Span:
        return self

    def note(self, values: Mapping[str, Value]) -> None:
        return None

    def text(self, name: str, words: str) -> None:
        return None

    def rename(self, name: str) -> None:
        return None

    def end(self, error: BaseException | None = None) -> None:
        return None


NOTHING: Span = Unrecorded("", "")
"""What a block gets that is not traced."""

CURRENT: ContextVar[Span | None] = ContextVar("span", default=None)
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Of the HTTP request that is being answered; empty: there is none."""


@dataclass(frozen=True, slots=True)
class Parent:
    """What a traceparent says."""

    trace_id: str
    span_id: str
    sampled: bool


def parent_of(traceparent: str) -> Parent | None:
    """None: it is none, and a new trace begins; nobody is told, as the standard has it."""
    found = TRACEPARENT.fullmatch(traceparent) if len(traceparent) <= MOST_CHARS else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return Parent(trace_id, span_id, bool(int(flags, 16) & 1))


def traceparent_of(span: Span) -> str:
    return f"00-{span.trace_id}-{span.span_id}-{'01' if span.recorded else '00'}"


def traceparent() -> str:
    """Of the current span, for whoever goes on with the work; empty: there is none."""
    span = CURRENT.get()
    return "" if span is None else traceparent_of(span)


def headers() -> dict[str, str]:
    """For a request to a server that may know traces."""
    found = traceparent()
    return {"traceparent": found} if found else {}


def trace_id_of(name: str) -> str:
    """The trace of what has a name, such as a revision of a document: every process knows it without being told."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class Recorder(Protocol):
    def begin(self, name: str, kind: Kind, trace_id: str, parent: str) -> Span:
        """`parent`: a span id; empty: the trace begins here."""
        ...

    async def aclose(self) -> None: ...


class Tracer:
    """Decides what is recorded. By the trace's id, so that all processes decide alike.

    ratio:          of the traces that begin here.
    callers_per_s:  traces that are recorded because a caller's traceparent asks for it: beyond that the ratio decides, so
                    that no client makes us record everything.
    """

    def __init__(
        self, recorder: Recorder, *, ratio: float, callers_per_s: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._recorder = recorder
        self._bound = int(ratio * (1 << 64))
        self._callers_per_s = callers_per_s
        self._now = now
        self._room, self._looked_at = max(1.0, callers_per_s), now()

    def begin(
        self, name: str, kind: Kind = "internal", *, parent: Parent | None = None, of: str = "", believed: bool = True
    ) -> Span:
        """`parent`: whose part this is; else `of`: the name that the trace's id is made from; else a new one. `believed`: it is a
        process of ours that says whether it is recorded."""
        if parent is None:
            trace_id = trace_id_of(of) if of else f"{random.getrandbits(128) or 1:032x}"
            recorded = self._drawn(trace_id)
        else:
            trace_id = parent.trace_id
            recorded = parent.sampled and (believed or self._has_room() or self._drawn(trace_id))
        if not recorded:
            return Unrecorded(trace_id, f"{random.getrandbits(64) or 1:016x}")
        return self._recorder.begin(name, kind, trace_id, parent.span_id if parent else "")

    async def aclose(self) -> None:
        """Send what is recorded, within a bound."""
        await self._recorder.aclose()

    def _drawn(self, trace_id: str) -> bool:
        """As OpenTelemetry's TraceIdRatioBased: by the last 64 bits."""
        return int(trace_id[16:], 16) < self._bound

    def _has_room(self) -> bool:
        now = self._now()
        self._room = min(max(1.0, self._callers_per_s), self._room + (now - self._looked_at) * self._callers_per_s)
        self._looked_at = now
        if not self._callers_per_s or self._room < 1:
            return False
        self._room -= 1
        return True


class span:
    """The block is a part of the current trace, if there is one that is recorded. A class: see `metrics.stage`."""

    __slots__ = ("_name", "_span", "_token")

    def __init__(self, name: str) -> None:
        self._name = name
        self._span: Span | None = None

    def __enter__(self) -> Span:
        parent = CURRENT.get()
        if parent is None or not parent.recorded:
            return NOTHING
        self._span = parent.child(self._name)
        self._token = CURRENT.set(self._span)
        return self._span

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._span is not None:
            CURRENT.reset(self._token)
            self._span.end(error)


def spanned(name: str) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
    """Every call is a part of the current trace."""

    def around(call: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        @wraps(call)
        async def traced(*args: P.args, **kwargs: P.kwargs) -> T:
            with span(name):
                return await call(*args, **kwargs)

        return traced

    return around


@contextmanager
def under(found: Span | None) -> Iterator[None]:
    """What the block does is done in that span, which somebody else ends. None: it is nobody's."""
    token = CURRENT.set(found)
    try:
        yield
    finally:
        CURRENT.reset(token)


@contextmanager
def begun(
    tracer: Tracer | None, name: str, kind: Kind = "consumer", *, traceparent: str = "", of: str = ""
) -> Iterator[Span]:
    """The block is work that another process has asked for: a part of its trace, or one of its own."""
    if tracer is None:
        yield NOTHING
        return
    found = tracer.begin(name, kind, parent=parent_of(traceparent), of=of)
    failed: BaseException | None = None
    try:
        with under(found):
            yield found
    except BaseException as error:
        failed = error
        raise
    finally:
        found.end(failed)


async def within(found: Span, items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The same items, each made in that span; what their consumer does meanwhile is not. A block around a `yield` would be the
    consumer's as well."""
    while True:
        with under(found):
            try:
                item = await anext(items)
            except StopAsyncIteration:
                return
        yield item


def child(name: str) -> Span:
    """Of the current span, for whoever ends it; never current by itself."""
    parent = CURRENT.get()
    return NOTHING if parent is None or not parent.recorded else parent.child(name)


def note(values: Mapping[str, Value]) -> None:
    """Attributes of the current span."""
    found = CURRENT.get()
    if found is not None and found.recorded:
        found.note(values)
