"""Any server that speaks OpenAI's chat completions: OpenAI itself, vLLM, llama.cpp, TGI, LM Studio, a gateway.

Plain HTTP by httpx and no vendor's SDK. The protocol: https://platform.openai.com/docs/api-reference/chat/streaming.
What can go wrong is the table of `connections.streaming`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx

from ragline.connections.streaming import StreamingServer
from ragline.settings import GeneratorSettings
from ragline.types import Prompt, Token, Usage

TEMPERATURE = 0.0
"""The same passages should give the same answer; grounding, not invention, is asked for."""

_TRANSLATIONS = {"max_tokens": "max_completion_tokens", "temperature": "", "stream_options": ""}
"""Parameters that some servers refuse (OpenAI's reasoning models the first two), and what is sent instead; "" is nothing."""


class OpenAIGenerator:
    """`settings.url` is the base, such as ``https://api.openai.com/v1``; `settings.timeout_s` bounds a whole answer.

    Raises:  ConfigurationError: no model is named, or the URL carries a password.
    """

    def __init__(self, settings: GeneratorSettings, *, name: str | None = None) -> None:
        self._model = settings.model
        self.name = name or f"openai:{settings.model}"
        self._refused: set[str] = set()
        key = settings.api_key.get_secret_value() if settings.api_key else ""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._server = StreamingServer(settings, name=self.name, url=settings.url, headers=headers)

    async def generate(self, prompt: Prompt, *, max_tokens: int) -> AsyncGenerator[Token, None]:
        """See `protocols.Generator`. Leaving the stream closes the connection, which tells the server to stop.

        Raises:  EngineUnavailable, EngineTimeout, EngineRejected, Overloaded, by the table; also midway.
        """
        body = {
            "model": self._model,
            "messages": [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}],
            "max_tokens": max_tokens,
            "temperature": TEMPERATURE,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        deadline = self._server.deadline()
        usage = Usage()
        async with (
            self._answered(body, deadline) as response,
            aclosing(self._server.events(response, deadline)) as events,
        ):
            async for event in events:
                if not event:
                    yield Token("", usage)
                    return
                text, usage = self._read(event, usage)
                if text:
                    yield Token(text)
        raise self._server.malformed("the stream ended before the answer did")

    async def aclose(self) -> None:
        await self._server.aclose()

    @asynccontextmanager
    async def _answered(self, body: dict[str, object], deadline: float) -> AsyncIterator[httpx.Response]:
        """The response, once it is a good one; closed whatever happens.

        A server that names a parameter it does not take is asked again without it, and from then on.
        """
        response = await self._send(body, deadline)
        try:
            while response.status_code != httpx.codes.OK:
                refused, parameter = await self._server.refusal(response, deadline)
                if parameter not in _TRANSLATIONS or parameter in self._refused:
                    raise self._server.status_error(response, refused)
                self._refused.add(parameter)
                await response.aclose()
                response = await self._send(body, deadline)
            self._server.check_stream(response)
            yield response
        finally:
            await response.aclose()

    async def _send(self, body: dict[str, object], deadline: float) -> httpx.Response:
        dialect = {_TRANSLATIONS[key] if key in self._refused else key: value for key, value in body.items()}
        dialect.pop("", None)
        return await self._server.send("chat/completions", dialect, deadline)

    def _read(self, event: dict[str, Any], usage: Usage) -> tuple[str, Usage]:
        if event.get("error"):
            raise self._server.unavailable("reported an error in the middle of an answer")
        try:
            counts = event.get("usage")
            if counts:
                usage = Usage(int(counts["prompt_tokens"]), int(counts.get("completion_tokens", 0)))
            choices = event.get("choices") or []
            text = (choices[0].get("delta") or {}).get("content") or "" if choices else ""
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise self._server.malformed("an event has not the documented shape") from error
        if not isinstance(text, str):
            raise self._server.malformed("an event's content is not text")
        return text, usage
