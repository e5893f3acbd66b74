"""The OpenAI adapter against a server on a socket that answers as the API documents, and as networks do not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import SecretStr

from ragline.connections.model_server import retry_after_s
from ragline.errors import (
    ConfigurationError,
    EngineError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    Overloaded,
    RaglineError,
)
from ragline.generators.openai import OpenAIGenerator
from ragline.prompting import build_prompt
from ragline.settings import GeneratorSettings
from ragline.testing.generators import GeneratorContract
from ragline.testing.passages import passages
from ragline.types import Token, Usage
from tests.engines.played import Answer, Played, played

PROMPT = build_prompt("What is red?", passages("The secret apple is red."))
KEY = "sk-very-secret"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


class Hang:
    """In an answer's script: wait until the client goes."""


@dataclass
class Server:
    """One answer a request, from a script of bytes to write; keeps what it was asked, and counts clients that went."""

    script: list[Sequence[bytes | type[Hang]]] = field(default_factory=list)
    asked: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        self.asked.append((headers | {"": head[0]}, body))
        for step in self.script.pop(0):
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            else:
                await reader.read()
                self.left.set()
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    ours = Server()
    listener = await asyncio.start_server(ours.handle, "127.0.0.1", 0)
    ours.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    async with listener:
        yield ours


@pytest.fixture
async def make(server: Server) -> AsyncIterator[Callable[..., OpenAIGenerator]]:
    made: list[OpenAIGenerator] = []

    def make(**changes: object) -> OpenAIGenerator:
        given = {"url": server.url, "model": "small", "api_key": SecretStr(KEY), "timeout_s": 30.0} | changes
        made.append(OpenAIGenerator(GeneratorSettings.model_validate(given)))
        return made[-1]

    yield make
    for generator in made:
        await generator.aclose()
        await generator.aclose()


Make = Callable[..., OpenAIGenerator]


def event(text: str | None, **more: object) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


def usage(prompt: int, completion: int) -> bytes:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return b"data: " + json.dumps({"choices": [], "usage": counts}).encode() + b"\n\n"


def refusal(status: int, body: object = None, *headers: str) -> list[bytes]:
    text = json.dumps(body).encode() if body is not None else b"<html>the secret apple</html>"
    head = [
        f"HTTP/1.1 {status} X",
        f"Content-Length: {len(text)}",
        "Content-Type: text/html",
        "Connection: close",
        *headers,
    ]
    return ["\r\n".join(head).encode() + b"\r\n\r\n" + text]


DONE = b"data: [DONE]\n\n"


async def ask(generator: OpenAIGenerator) -> list[Token]:
    async with aclosing(generator.generate(PROMPT, max_tokens=7)) as tokens:
        return [token async for token in tokens]


class TestContract(GeneratorContract):
    @pytest.fixture
    async def answering(self) -> AsyncIterator[Played]:
        async with played() as ours:
            parts = [event(None), event("A lighthouse "), event("[1]."), usage(31, 5), DONE]
            ours.answer = lambda _: Answer(b"".join(parts), headers={"content-type": "text/event-stream"})
            yield ours

    @pytest.fixture
    def connect(self, answering: Played) -> Callable[[], OpenAIGenerator]:
        return lambda: OpenAIGenerator(GeneratorSettings(url=f"{answering.url}/v1", model="small", timeout_s=30.0))


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_answer_streams_and_ends_with_its_usage(server: Server, make: Make) -> None:
    server.script = [[STREAM, event(None), event("Apples "), event("are red [1]."), usage(31, 5), DONE]]

    assert await ask(make()) == [Token("Apples "), Token("are red [1]."), Token("", Usage(31, 5))]


async def test_the_request_is_what_the_protocol_asks_for(server: Server, make: Make) -> None:
    server.script = [[STREAM, DONE]]

    await ask(make())

    headers, body = server.asked[0]
    assert headers[""] == "POST /v1/chat/completions HTTP/1.1"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert body == {
        "model": "small",
        "messages": [{"role": "system", "content": PROMPT.system}, {"role": "user", "content": PROMPT.user}],
        "max_tokens": 7,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_no_key_sends_no_header(server: Server, make: Make) -> None:
    server.script = [[STREAM, DONE]]

    assert await ask(make(api_key=None)) == [Token("", Usage())]
    assert "authorization" not in server.asked[0][0]


async def test_however_the_bytes_are_cut_the_answer_is_the_same(server: Server, make: Make) -> None:
    whole = (
        b": ping\n\n"
        + event("é\u2028漢 [1]").replace(b"\\u2028", "\u2028".encode())
        + usage(1, 2)
        + b"data:[DONE]\r\n\r\n"
    )
    server.script = [[STREAM, *(whole[i : i + 1] for i in range(len(whole)))]]

    assert await ask(make()) == [Token("é\u2028漢 [1]"), Token("", Usage(1, 2))]


async def test_a_consumer_that_leaves_closes_the_connection(server: Server, make: Make) -> None:
    server.script = [[STREAM, event("one"), Hang]]

    async with aclosing(make().generate(PROMPT, max_tokens=7)) as tokens:
        assert await anext(tokens) == Token("one")

    await server.left.wait()


async def test_a_cancelled_call_closes_the_connection(server: Server, make: Make) -> None:
    server.script = [[STREAM, event("one"), Hang]]
    generator, first = make(), asyncio.Event()

    async def consume() -> None:
        async with aclosing(generator.generate(PROMPT, max_tokens=7)) as tokens:
            async for _ in tokens:
                first.set()

    task = asyncio.create_task(consume())
    await first.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert task.cancelled()
    await server.left.wait()


async def test_a_parameter_the_model_refuses_is_translated_and_remembered(server: Server, make: Make) -> None:
    def refuses(parameter: str) -> list[bytes]:
        return refusal(400, {"error": {"code": "unsupported_parameter", "param": parameter, "message": "no"}})

    server.script = [refuses("max_tokens"), refuses("temperature"), [STREAM, event("a"), DONE], [STREAM, DONE]]
    generator = make()

    assert (await ask(generator))[0] == Token("a")
    await ask(generator)

    for _, body in server.asked[2:]:
        assert body["max_completion_tokens"] == 7
        assert not {"max_tokens", "temperature"} & body.keys()
    assert len(server.asked) == 4


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────

QUOTA = {"error": {"type": "insufficient_quota", "code": "insufficient_quota", "message": "secret"}}
TOO_LONG = {"error": {"code": "context_length_exceeded", "param": "messages", "message": "secret"}}


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, TOO_LONG, EngineRejected),
        (400, {"error": {"param": "max_words"}}, EngineRejected),
        (401, {"error": {"message": f"Incorrect API key: {KEY}"}}, EngineRejected),
        (402, None, EngineRejected),
        (403, None, EngineRejected),
        (404, {"error": "no such model"}, EngineRejected),
        (408, None, EngineTimeout),
        (413, ["secret"], EngineRejected),
        (422, None, EngineRejected),
        (429, None, Overloaded),
        (429, QUOTA, EngineRejected),
        (500, None, EngineUnavailable),
        (502, None, EngineUnavailable),
        (503, {"error": {"type": "unavailable_error"}}, EngineUnavailable),
        (504, None, EngineTimeout),
        (529, None, EngineUnavailable),
        (302, None, EngineRejected),
    ],
)
async def test_every_status_has_its_error(
    server: Server, make: Make, status: int, body: object, error: type[RaglineError]
) -> None:
    server.script = [refusal(status, body)]

    with pytest.raises(error) as caught:
        await ask(make())

    assert type(caught.value) is error
    assert isinstance(caught.value, EngineError | Overloaded)
    for secret in (KEY, "secret", "apple"):
        assert secret not in str(caught.value)
        assert secret not in repr(caught.value)


VLLM = {
    "object": "error",
    "message": "This model's maximum context length is 8 tokens.",
    "type": "BadRequestError",
    "code": 400,
}
LLAMA_CPP = {"error": {"code": 400, "message": "the secret apple", "type": "exceed_context_size_error", "n_ctx": 8}}


@pytest.mark.parametrize("body", [TOO_LONG, VLLM, {"error": VLLM}, LLAMA_CPP])
async def test_whoever_says_that_the_prompt_is_too_long_the_step_names_the_setting(
    server: Server, make: Make, body: object
) -> None:
    server.script = [refusal(400, body)]

    with pytest.raises(EngineRejected) as caught:
        await ask(make())

    assert "RAGLINE_QUERY__CONTEXT_TOKENS" in caught.value.next_step


async def test_a_limit_carries_how_long_to_wait(server: Server, make: Make) -> None:
    server.script = [refusal(429, None, "Retry-After: 17")]

    with pytest.raises(Overloaded) as caught:
        await ask(make())

    assert caught.value.retry_after_s == 17


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0.5", 0.5),
        ("Mon, 01 Jan 2024 00:00:30 GMT", 30),
        ("Sun, 31 Dec 2023 00:00:00 GMT", 0),
        ("-3", 0),
        ("1e9", 600),
        ("nan", 5),
        ("soon", 5),
        ("", 5),
    ],
)
def test_retry_after_is_a_number_or_a_date(header: str, seconds: float) -> None:
    assert retry_after_s(header, now=datetime(2024, 1, 1, tzinfo=UTC)) == seconds


@pytest.mark.parametrize(
    "script",
    [
        [STREAM, event("half an")],
        [STREAM.replace(b"Connection: close", b"Content-Length: 999"), event("half an")],
        [STREAM, b"data: {not json}\n\n", DONE],
        [STREAM, b"data: [1]\n\n", DONE],
        [STREAM, b'data: {"choices": [{"delta": "text"}]}\n\n', DONE],
        [STREAM, b'data: {"choices": [{"delta": {"content": 7}}]}\n\n', DONE],
        [STREAM, b'data: {"usage": {"prompt_tokens": "many"}}\n\n', DONE],
        [STREAM, event("one"), b'data: {"error": {"message": "the secret apple"}}\n\n', DONE],
        [STREAM, b"data: " + b"x" * (3 << 20)],
        [STREAM.replace(b"text/event-stream", b"text/html"), b"<html>"],
        [b"no http at all\r\n\r\n"],
        [],
    ],
)
async def test_a_stream_that_breaks_or_is_none_is_an_engine_that_is_not_there(
    server: Server, make: Make, script: list[bytes | type[Hang]]
) -> None:
    server.script = [script]

    with pytest.raises(EngineUnavailable) as caught:
        await ask(make())

    assert "apple" not in str(caught.value)


async def test_what_came_before_a_break_was_delivered(server: Server, make: Make) -> None:
    server.script = [[STREAM, event("half"), event(" an")]]
    seen: list[str] = []

    async def consume() -> None:
        async with aclosing(make().generate(PROMPT, max_tokens=7)) as tokens:
            async for token in tokens:
                seen.append(token.text)

    with pytest.raises(EngineUnavailable):
        await consume()

    assert seen == ["half", " an"]


@pytest.mark.parametrize(
    "before", [[], [STREAM], [STREAM, event("one")], [b"HTTP/1.1 500 X\r\nContent-Length: 9\r\n\r\n"]]
)
async def test_a_server_that_falls_silent_is_given_up(server: Server, make: Make, before: list[bytes]) -> None:
    server.script = [[*before, Hang]]

    with pytest.raises(EngineUnavailable if b"500" in b"".join(before) else EngineTimeout):
        await ask(make(timeout_s=0.5))


async def test_a_server_that_drips_is_given_up_too(server: Server, make: Make) -> None:
    """Bytes keep coming, so no read times out; the whole has a limit of its own."""

    class Forever(list[bytes]):
        def __iter__(self) -> Any:
            yield STREAM
            while True:
                yield event("x")

    server.script = [Forever()]
    generator = make(timeout_s=0.5)

    with pytest.raises(EngineTimeout):
        await ask(generator)


async def test_nobody_there(make: Make) -> None:
    listener = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    listener.close()
    await listener.wait_closed()

    with pytest.raises(EngineUnavailable, match="cannot be reached"):
        await ask(make(url=f"http://127.0.0.1:{port}/v1"))


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_model_must_be_named(make: Make) -> None:
    with pytest.raises(ConfigurationError, match="no model"):
        make(model="")


def test_a_password_in_the_address_is_refused_and_not_shown(make: Make) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make(url=f"https://user:{KEY}@example.org/v1")

    assert KEY not in str(caught.value)


def test_the_name_says_what_answers_and_nothing_secret(make: Make) -> None:
    generator = make()

    assert generator.name == "openai:small"
    assert KEY not in repr(vars(generator)) + repr(vars(generator._server))
