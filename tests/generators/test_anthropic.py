"""The Anthropic adapter, against a server that plays what Anthropic documents, in the types of Anthropic's own SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import anthropic
import pytest
from anthropic._constants import ANTHROPIC_API_VERSION
from anthropic.types import (
    Message,
    MessageDeltaUsage,
    RawContentBlockDeltaEvent,
    RawContentBlockStartEvent,
    RawContentBlockStopEvent,
    RawMessageDeltaEvent,
    RawMessageStartEvent,
    RawMessageStopEvent,
    TextBlock,
    TextDelta,
    ThinkingDelta,
    Usage,
)
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from anthropic.types.raw_message_delta_event import Delta
from pydantic import BaseModel, TypeAdapter

from ragline.build import open_generator
from ragline.embedders.local import LocalEmbedder
from ragline.errors import (
    ConfigurationError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    Overloaded,
    RaglineError,
)
from ragline.generators.anthropic import AnthropicGenerator
from ragline.settings import GeneratorSettings
from ragline.testing.generators import PROMPT, GeneratorContract, ask
from ragline.types import Token
from ragline.types import Usage as Counts
from tests.engines.played import HANG, Answer, Asked, Played, nowhere, played

KEY = "sk-ant-very-secret"
REQUEST: TypeAdapter[Any] = TypeAdapter(MessageCreateParamsStreaming)
STREAM = {"content-type": "text/event-stream; charset=utf-8"}
PING = b'event: ping\ndata: {"type": "ping"}\n\n'


def event(one: BaseModel) -> bytes:
    return f"event: {one.type}\ndata: {one.model_dump_json()}\n\n".encode()  # type: ignore[attr-defined]


def start() -> bytes:
    message = Message(
        id="msg_1",
        content=[],
        model="claude",
        role="assistant",
        type="message",
        usage=Usage(input_tokens=31, output_tokens=1),
    )
    block = RawContentBlockStartEvent(
        index=0, type="content_block_start", content_block=TextBlock(text="", type="text")
    )
    return event(RawMessageStartEvent(message=message, type="message_start")) + event(block) + PING


def text(piece: str) -> bytes:
    return event(
        RawContentBlockDeltaEvent(delta=TextDelta(text=piece, type="text_delta"), index=0, type="content_block_delta")
    )


def thinking(piece: str) -> bytes:
    delta = ThinkingDelta(thinking=piece, type="thinking_delta")
    return event(RawContentBlockDeltaEvent(delta=delta, index=0, type="content_block_delta"))


def end(reason: Any = "end_turn") -> bytes:
    usage = MessageDeltaUsage(output_tokens=5)
    delta = RawMessageDeltaEvent(delta=Delta(stop_reason=reason), type="message_delta", usage=usage)
    stop = event(RawMessageStopEvent(type="message_stop"))
    return event(RawContentBlockStopEvent(index=0, type="content_block_stop")) + event(delta) + stop


def streams(*parts: bytes) -> Callable[[Asked], Answer]:
    def answer(asked: Asked) -> Answer:
        assert (asked.method, asked.path) == ("POST", "/v1/messages")
        assert asked.headers["authorization"] == f"Bearer {KEY}"
        assert asked.headers["anthropic-version"] == ANTHROPIC_API_VERSION
        REQUEST.validate_python(asked.body)
        return Answer(b"".join(parts), headers=STREAM)

    return answer


GOOD = (start(), thinking("Let me see: Dover."), text("A lighthouse "), text("[1].\u2028漢"), end())


@pytest.fixture
async def server() -> AsyncIterator[Played]:
    async with played() as ours:
        ours.answer = streams(*GOOD)
        yield ours


Make = Callable[..., AnthropicGenerator]


@pytest.fixture
async def make(server: Played) -> AsyncIterator[Make]:
    made: list[AnthropicGenerator] = []

    def make(**changes: Any) -> AnthropicGenerator:
        given = {"url": f"anthropic+{server.url}/v1", "model": "claude", "api_key": KEY, "timeout_s": 30.0} | changes
        made.append(AnthropicGenerator(GeneratorSettings.model_validate(given)))
        return made[-1]

    yield make
    for generator in made:
        await generator.aclose()


class TestContract(GeneratorContract):
    @pytest.fixture
    def connect(self, make: Make) -> Callable[[], AnthropicGenerator]:
        return make


async def test_the_vendors_own_client_reads_the_same(server: Played, make: Make) -> None:
    ours = await ask(make())
    async with anthropic.AsyncAnthropic(api_key=KEY, base_url=server.url) as client:
        message = await client.messages.create(
            model="claude", max_tokens=16, messages=[{"role": "user", "content": "x"}], stream=True
        )
        pieces = [
            one.delta.text
            async for one in message
            if one.type == "content_block_delta" and one.delta.type == "text_delta"
        ]
    assert ours == [*(Token(piece) for piece in pieces), Token("", Counts(31, 5))]
    assert pieces == ["A lighthouse ", "[1].\u2028漢"]


async def test_the_request_is_what_the_protocol_asks_for(server: Played, make: Make) -> None:
    await ask(make(), max_tokens=7)
    assert server.asked[0].body == {
        "model": "claude",
        "system": PROMPT.system,
        "messages": [{"role": "user", "content": PROMPT.user}],
        "max_tokens": 7,
        "stream": True,
    }
    assert server.asked[0].body.keys() <= MessageCreateParamsStreaming.__annotations__.keys() | _base()


def _base() -> set[str]:
    return {key for one in MessageCreateParamsStreaming.__orig_bases__ for key in getattr(one, "__annotations__", {})}  # type: ignore[attr-defined]


def refusal(status: int, kind: str, words: str = "the secret apple") -> Answer:
    body = {"type": "error", "error": {"type": kind, "message": words}, "request_id": "req_1"}
    return Answer(body, status, {"retry-after": "17"})


@pytest.mark.parametrize(
    ("answer", "error", "step"),
    [
        (refusal(400, "invalid_request_error"), EngineRejected, "log"),
        (
            refusal(400, "invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"),
            EngineRejected,
            "CONTEXT_TOKENS",
        ),
        (refusal(402, "billing_error"), EngineRejected, "quota"),
        (refusal(401, "authentication_error", f"invalid x-api-key {KEY}"), EngineRejected, "api_key"),
        (refusal(403, "permission_error"), EngineRejected, "api_key"),
        (refusal(404, "not_found_error", "model: claude"), EngineRejected, "model"),
        (refusal(413, "request_too_large"), EngineRejected, "log"),
        (refusal(429, "rate_limit_error"), Overloaded, "17 s"),
        (refusal(500, "api_error"), EngineUnavailable, "runs"),
        (refusal(504, "timeout_error"), EngineTimeout, "timeout_s"),
        (refusal(529, "overloaded_error"), EngineUnavailable, "runs"),
        (Answer(b"<html>the secret apple", 502), EngineUnavailable, "runs"),
    ],
)
async def test_every_refusal_has_its_error_and_what_to_do(
    server: Played, make: Make, answer: Answer, error: type[RaglineError], step: str
) -> None:
    server.answer = lambda _: answer
    with pytest.raises(error) as caught:
        await ask(make())
    assert type(caught.value) is error
    assert step in caught.value.next_step
    for secret in (KEY, "apple"):
        assert secret not in f"{caught.value!s} {caught.value!r}"


OVERLOADED = (
    b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "the secret apple"}}\n\n'
)


@pytest.mark.parametrize(
    "parts",
    [
        [start(), text("half an")],
        [start(), text("half"), OVERLOADED],
        [start(), end("refusal")],
        [b"data: {not json}\n\n"],
        [b'data: {"type": "message_start"}\n\n'],
        [b'data: {"type": "content_block_delta", "delta": {"type": "text_delta", "text": 7}}\n\n'],
        [start(), b"data: [DONE]\n\n"],
    ],
)
async def test_a_stream_that_breaks_is_an_engine_that_is_not_there(
    server: Played, make: Make, parts: Sequence[bytes]
) -> None:
    server.answer = streams(*parts)
    with pytest.raises(EngineUnavailable) as caught:
        await ask(make())
    assert "apple" not in str(caught.value)


async def test_kinds_of_events_that_are_new_to_us_say_nothing(server: Played, make: Make) -> None:
    server.answer = streams(start(), b'data: {"type": "weather"}\n\n', text("a"), end("max_tokens"))
    assert await ask(make()) == [Token("a"), Token("", Counts(31, 5))]


async def test_a_consumer_that_leaves_closes_the_connection(server: Played, make: Make) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 99999\r\n\r\n"
    server.answer = lambda _: head + start() + text("one")
    async with aclosing(make().generate(PROMPT, max_tokens=7)) as tokens:
        assert await anext(tokens) == Token("one")


async def test_a_server_that_falls_silent_is_given_up(server: Played, make: Make) -> None:
    server.answer = lambda _: HANG
    with pytest.raises(EngineTimeout):
        await ask(make(timeout_s=0.3))
    await server.left.wait()


async def test_nobody_there(make: Make) -> None:
    with pytest.raises(EngineUnavailable, match="cannot be reached"):
        await ask(make(url=f"anthropic+{nowhere()}/v1"))


async def test_settings_that_cannot_be(make: Make) -> None:
    with pytest.raises(ConfigurationError, match="no model"):
        make(model="")
    with pytest.raises(ConfigurationError, match="credentials") as caught:
        make(url=f"anthropic+https://user:{KEY}@example.org/v1")
    assert KEY not in str(caught.value)
    generator = make()
    assert KEY not in repr(vars(generator)) + repr(vars(generator._server))


async def test_the_scheme_picks_it(embedder: LocalEmbedder) -> None:
    chosen = GeneratorSettings(url="anthropic+https://api.anthropic.com/v1", model="claude")
    generator = open_generator(chosen, embedder)
    assert generator.name == "anthropic:claude"
    await generator.aclose()
