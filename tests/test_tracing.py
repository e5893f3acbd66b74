"""What is believed of a traceparent, what is recorded, and that a process without traces knows nothing of them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field

import pytest
from pydantic import SecretStr

from ragline import tracing
from ragline.connections.otlp import endpoint, header_pairs
from ragline.errors import ConfigurationError
from ragline.serialisation import dump_request, load_request, load_traceparent
from ragline.tracing import CURRENT, Kind, Parent, Span, Tracer, Value, parent_of, traceparent
from ragline.types import SearchRequest

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


@dataclass
class Kept:
    """A span that is remembered by its recorder."""

    name: str
    trace_id: str
    span_id: str
    parent: str
    ended: list[str]
    recorded: bool = True
    error: BaseException | None = None
    notes: dict[str, Value] = field(default_factory=dict)

    def child(self, name: str) -> Span:
        return Kept(name, self.trace_id, f"{hash(name) & (2**64 - 1):016x}", self.span_id, self.ended)

    def note(self, values: Mapping[str, Value]) -> None:
        self.notes.update(values)

    def text(self, name: str, words: str) -> None:
        raise AssertionError

    def rename(self, name: str) -> None:
        self.name = name

    def end(self, error: BaseException | None = None) -> None:
        self.ended.append(self.name if error is None else f"{self.name}: {type(error).__name__}")


class Keeping:
    def __init__(self) -> None:
        self.ended: list[str] = []

    def begin(self, name: str, kind: Kind, trace_id: str, parent: str) -> Span:
        return Kept(name, trace_id, "0123456789abcdef", parent, self.ended)

    async def aclose(self) -> None:
        return None


@pytest.mark.parametrize(
    "given",
    [
        "", "-", "00", GOOD.upper(), f" {GOOD}", f"{GOOD} ", f"{GOOD}\n", f"ff-{TRACE}-{SPAN}-01", f"{GOOD}-more",
        f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE[:-1]}g-{SPAN}-01", f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}", f"01-{TRACE}-{SPAN}-01-" + "x" * 10_000, f"00-{TRACE}-{SPAN}-٠١",
        "00-${jndi:ldap://x}-01", "\x00" * 55,
    ],
)  # fmt: skip
def test_a_traceparent_that_is_none_begins_a_new_trace(given: str) -> None:
    assert parent_of(given) is None


def test_a_traceparent_says_whose_part_it_is() -> None:
    assert parent_of(GOOD) == Parent(TRACE, SPAN, sampled=True)
    assert parent_of(f"00-{TRACE}-{SPAN}-00") == Parent(TRACE, SPAN, sampled=False)
    assert parent_of(f"00-{TRACE}-{SPAN}-02") == Parent(TRACE, SPAN, sampled=False)
    assert parent_of(f"cc-{TRACE}-{SPAN}-01-what the future holds") == Parent(TRACE, SPAN, sampled=True)


def test_the_ratio_is_kept_and_all_processes_decide_alike() -> None:
    one, other = (Tracer(Keeping(), ratio=0.1, callers_per_s=0) for _ in range(2))
    drawn = [one.begin("document", of=f"document {n} 1").recorded for n in range(20_000)]
    assert 1800 < sum(drawn) < 2200
    assert drawn == [other.begin("document", of=f"document {n} 1").recorded for n in range(20_000)]
    assert not Tracer(Keeping(), ratio=0, callers_per_s=0).begin("x").recorded
    assert Tracer(Keeping(), ratio=1, callers_per_s=0).begin("x").recorded


def test_what_a_caller_does_not_record_is_not_recorded() -> None:
    tracer = Tracer(Keeping(), ratio=1, callers_per_s=10)
    span = tracer.begin("GET", parent=Parent(TRACE, SPAN, sampled=False), believed=False)
    assert (span.recorded, span.trace_id) == (False, TRACE)


def test_callers_cannot_make_us_record_everything() -> None:
    now = 0.0
    tracer = Tracer(Keeping(), ratio=0, callers_per_s=10, now=lambda: now)
    asks = Parent(TRACE, SPAN, sampled=True)

    def recorded(times: int, *, believed: bool = True) -> int:
        return sum(tracer.begin("GET", parent=asks, believed=believed).recorded for _ in range(times))

    assert recorded(1000, believed=False) == 10
    now += 0.5
    assert recorded(1000, believed=False) == 5
    assert recorded(1000) == 1000  # a process of ours
    nobody = Tracer(Keeping(), ratio=0, callers_per_s=0)
    assert not nobody.begin("GET", parent=asks, believed=False).recorded


def test_a_block_is_a_part_of_the_current_trace_and_fails_with_it() -> None:
    recorder = Keeping()
    tracer = Tracer(recorder, ratio=1, callers_per_s=0)

    def work() -> None:
        with tracing.begun(tracer, "job", traceparent=GOOD) as span:
            assert (span.trace_id, traceparent()) == (TRACE, f"00-{TRACE}-{span.span_id}-01")
            with tracing.span("inside"):
                pass
            raise KeyError("words that are nobody's business")

    with pytest.raises(KeyError):
        work()
    assert recorder.ended == ["inside", "job: KeyError"]
    assert CURRENT.get() is None


async def test_what_a_consumer_does_between_two_items_is_not_the_generators() -> None:
    recorder = Keeping()
    tracer = Tracer(recorder, ratio=1, callers_per_s=0)
    seen: list[str] = []

    async def items() -> AsyncGenerator[int, None]:
        for n in range(3):
            current = CURRENT.get()
            assert isinstance(current, Kept)
            seen.append(current.name)
            yield n

    with tracing.begun(tracer, "answer"):
        generating = tracing.child("generate")
        async for _ in tracing.within(generating, items()):
            current = CURRENT.get()
            assert isinstance(current, Kept)
            seen.append(current.name)
    assert seen == ["generate", "answer"] * 3


async def test_a_task_goes_on_with_the_trace() -> None:
    async def told() -> str:
        return tracing.headers()["traceparent"]

    with tracing.begun(Tracer(Keeping(), ratio=0, callers_per_s=0), "job", traceparent=f"00-{TRACE}-{SPAN}-00"):
        assert (await asyncio.create_task(told())).startswith(f"00-{TRACE}-")
    assert tracing.headers() == {}


def test_a_request_keeps_its_trace_beside_it() -> None:
    request = SearchRequest("what is a traceparent?", "default", frozenset({"hr"}), filters={"traceparent": "no"})
    data = dump_request(request, GOOD)
    assert (load_request(data), load_traceparent(data)) == (request, GOOD)
    assert load_traceparent(data.decode()) == GOOD
    assert load_traceparent(dump_request(request)) == ""  # of a version, or a process, without traces
    assert load_traceparent(json.dumps({"traceparent": {"a": 1}})) == ""


@pytest.mark.parametrize(
    "url", ["collector:4318", "ftp://c", "http://", "http://[", "https://c?token=x", "http://u:p@c"]
)
def test_an_address_that_is_none_stops_the_start(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"traces\.url"):
        endpoint(url)


def test_addresses_and_headers() -> None:
    assert endpoint("http://c:4318") == endpoint("http://c:4318/v1/traces") == "http://c:4318/v1/traces"
    assert endpoint("https://c/otlp/") == "https://c/otlp/v1/traces"
    assert header_pairs(SecretStr("API-Key=a=b, X=1")) == {"api-key": "a=b", "x": "1"}
    with pytest.raises(ConfigurationError) as raised:
        header_pairs(SecretStr("api-key=1,hush hush"))
    assert "hush" not in str(raised.value)


WITHOUT = """
import asyncio, sys, tempfile
from pathlib import Path
import httpx
from ragline.api.app import gateway
from ragline.build import build
from ragline.settings import Settings

async def main(folder):
    system = await build(Settings(data_dir=Path(folder)))
    app = gateway(system, owner_token="t")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        found = await client.post("/v1/search", json={"query": "herons"}, headers={"Authorization": "Bearer t"})
        assert found.status_code == 200, found.text
    await system.aclose()

with tempfile.TemporaryDirectory() as folder:
    asyncio.run(main(folder))
ours = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto", "requests", "ragline.connections.otlp")
print([name for name in sys.modules if name.startswith(ours)])
"""
"""FastAPI imports `opentelemetry.trace` by itself."""


def test_without_a_url_nothing_of_it_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


MISSING = """
import sys
sys.modules["opentelemetry"] = None
from ragline.build import open_tracer
from ragline.settings import Settings, TracesSettings
open_tracer(Settings(traces=TracesSettings(url="http://127.0.0.1:4318")))
"""


def test_without_its_packages_the_start_says_which() -> None:
    done = subprocess.run([sys.executable, "-c", MISSING], capture_output=True, text=True, check=False)
    assert "MissingDependency" in done.stderr
    assert "pip install 'ragline[otel]'" in done.stderr
