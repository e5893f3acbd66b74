"""Anthropic's messages API, streamed: Claude by Anthropic, or a gateway that speaks it.

Plain HTTP by httpx: the SDK would bring its own retries and its own errors, and its types stand in the tests. The protocol:
https://docs.anthropic.com/en/api/messages-streaming. What can go wrong is the table of `connections.streaming`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx

from ragline.connections.streaming import StreamingServer
from ragline.settings import GeneratorSettings
from ragline.types import Prompt, Token, Usage

VERSION = "2026-10-21"
"""Of the API, as Anthropic's SDK 2.14 sends it; from then on a key is a Bearer token, and no temperature is taken."""


class AnthropicGenerator:
    """`settings.url`: ``anthropic+https://api.anthropic.com/v1``; `settings.timeout_s` bounds a whole answer.

    Raises:  ConfigurationError: no model is named, or the URL carries a password.
    """

    def __init__(self, settings: GeneratorSettings) -> None:
        self._model = settings.model
        self.name = f"anthropic:{settings.model}"
        key = settings.api_key.get_secret_value() if settings.api_key else ""
        headers = {"anthropic-version": VERSION} | ({"Authorization": f"Bearer {key}"} if key else {})
        url = settings.url.removeprefix("anthropic+")
        self._server = StreamingServer(settings, name=self.name, url=url, headers=headers)

    async def generate(self, prompt: Prompt, *, max_tokens: int) -> AsyncGenerator[Token, None]:
        """See `protocols.Generator`. Leaving the stream closes the connection, which tells the server to stop.

        Raises:  EngineUnavailable, EngineTimeout, EngineRejected, Overloaded, by the table; also midway.
        """
        body = {
            "model": self._model,
            "system": prompt.system,
            "messages": [{"role": "user", "content": prompt.user}],
            "max_tokens": max_tokens,
            "stream": True,
        }
        deadline = self._server.deadline()
        response = await self._server.send("messages", body, deadline)
        usage = Usage()
        try:
            if response.status_code != httpx.codes.OK:
                refused, _ = await self._server.refusal(response, deadline)
                raise self._server.status_error(response, refused)
            self._server.check_stream(response)
            async with aclosing(self._server.events(response, deadline)) as events:
                async for event in events:
                    if event.get("type") == "message_stop":
                        yield Token("", usage)
                        return
                    text, usage = self._read(event, usage)
                    if text:
                        yield Token(text)
            raise self._server.malformed("the stream ended before the answer did")
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        await self._server.aclose()

    def _read(self, event: dict[str, Any], usage: Usage) -> tuple[str, Usage]:
        """Text of the event, and the tokens so far. Thinking is no answer; kinds that are new to us say nothing."""
        try:
            match event.get("type"):
                case "error":
                    raise self._server.unavailable("reported an error in the middle of an answer")
                case "message_start":
                    counts = event["message"]["usage"]
                    usage = Usage(int(counts["input_tokens"]), int(counts["output_tokens"]))
                case "message_delta":
                    usage = Usage(usage.prompt_tokens, int(event["usage"]["output_tokens"]))
                    if event["delta"].get("stop_reason") == "refusal":
                        raise self._server.unavailable("declined to go on with this answer")
                case "content_block_delta" if event["delta"]["type"] == "text_delta":
                    text = event["delta"]["text"]
                    if not isinstance(text, str):
                        raise self._server.malformed("an event's content is not text")
                    return text, usage
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise self._server.malformed("an event has not the documented shape") from error
        return "", usage
