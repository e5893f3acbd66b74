"""Any server that speaks OpenAI's chat completions: OpenAI itself, vLLM, llama.cpp, TGI, LM Studio, a gateway.

Plain HTTP by httpx and no vendor's SDK. The protocol: https://platform.openai.com/docs/api-reference/chat/streaming.
What a server says is never passed on: its error texts may quote the prompt, which holds documents.

    what happens                                     becomes
    connection refused, reset, cut, malformed stream EngineUnavailable
    no bytes within the time, 408, 504               EngineTimeout
    429                                              Overloaded, with the server's Retry-After
    429 `insufficient_quota`, 401, 403, other 4xx    EngineRejected
    5xx, an error within the stream                  EngineUnavailable
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx

from ragline.connections.model_server import CONNECT_TIMEOUT_S, MAX_ERROR_BYTES, retry_after_s
from ragline.connections.sse import MAX_LINE_CHARS, lines
from ragline.errors import ConfigurationError, EngineError, EngineRejected, EngineTimeout, EngineUnavailable, Overloaded
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
        url = httpx.URL(settings.url)
        if url.userinfo:
            raise ConfigurationError(
                "generators.url carries credentials, which would be shown.",
                next_step="Move them to RAGLINE_GENERATORS__N__API_KEY, or `api_key` in ragline.toml.",
            )
        if not settings.model:
            raise ConfigurationError(
                f"generators: no model is named for {url.host}.",
                next_step="Set `model` to a name that the server lists at /v1/models.",
            )
        self._model = settings.model
        self.name = name or f"openai:{settings.model}"
        self._place = url.netloc.decode("ascii")
        self._timeout_s = settings.timeout_s
        self._refused: set[str] = set()
        key = settings.api_key.get_secret_value() if settings.api_key else ""
        self._client = httpx.AsyncClient(
            base_url=str(url).rstrip("/") + "/",
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(settings.timeout_s, connect=min(CONNECT_TIMEOUT_S, settings.timeout_s)),
            follow_redirects=False,
        )

    async def generate(self, prompt: Prompt, *, max_tokens: int) -> AsyncGenerator[Token, None]:
        """See `protocols.Generator`. Leaving the stream closes the connection, which tells the server to stop.

        Raises:  EngineUnavailable, EngineTimeout, EngineRejected, Overloaded, by the table above; also midway.
        """
        body = {
            "model": self._model,
            "messages": [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}],
            "max_tokens": max_tokens,
            "temperature": TEMPERATURE,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        usage = Usage()
        async with self._answered(body, deadline) as response, aclosing(self._events(response)) as events:
            while (event := await self._next(events, deadline)) is not None:
                text, usage = self._read(event, usage)
                if text:
                    yield Token(text)
        yield Token("", usage)

    async def aclose(self) -> None:
        await self._client.aclose()

    @asynccontextmanager
    async def _answered(self, body: dict[str, object], deadline: float) -> AsyncIterator[httpx.Response]:
        """The response, once it is a good one; closed whatever happens.

        A server that names a parameter it does not take is asked again without it, and from then on.
        """
        response = await self._send(body, deadline)
        try:
            while response.status_code != httpx.codes.OK:
                code, parameter = await self._error(response, deadline)
                if parameter not in _TRANSLATIONS or parameter in self._refused:
                    raise self._status_error(response, code)
                self._refused.add(parameter)
                await response.aclose()
                response = await self._send(body, deadline)
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise self._malformed("it answered with something else than an event stream")
            yield response
        finally:
            await response.aclose()

    async def _send(self, body: dict[str, object], deadline: float) -> httpx.Response:
        dialect = {_TRANSLATIONS[key] if key in self._refused else key: value for key, value in body.items()}
        dialect.pop("", None)
        request = self._client.build_request("POST", "chat/completions", json=dialect)
        try:
            async with asyncio.timeout_at(deadline):
                return await self._client.send(request, stream=True)
        except (httpx.HTTPError, TimeoutError) as error:
            raise self._transport_error(error) from error

    async def _next(self, events: AsyncIterator[dict[str, Any]], deadline: float) -> dict[str, Any] | None:
        """The next event within the deadline; None at the end of the stream."""
        if asyncio.get_running_loop().time() > deadline:  # a flood of events never gives the timeout below its turn
            raise self._late()
        try:
            async with asyncio.timeout_at(deadline):
                return await anext(events, None)
        except (httpx.HTTPError, TimeoutError) as error:
            raise self._transport_error(error) from error

    async def _events(self, response: httpx.Response) -> AsyncGenerator[dict[str, Any], None]:
        """The JSON of each event up to `[DONE]`. A stream that ends without it was cut.

        Only `data` lines matter: the protocol gives every event exactly one, and comments (`: ping`) keep it alive.
        """
        async with aclosing(lines(response)) as arriving:
            async for line in arriving:
                if len(line) > MAX_LINE_CHARS:
                    raise self._malformed("an event is longer than any token")
                if not line.startswith("data:"):
                    continue
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                try:
                    event = json.loads(data)
                except ValueError as error:
                    raise self._malformed("an event is not JSON") from error
                if not isinstance(event, dict):
                    raise self._malformed("an event is not an object")
                yield event
        raise self._malformed("the stream ended before the answer did")

    def _read(self, event: dict[str, Any], usage: Usage) -> tuple[str, Usage]:
        if event.get("error"):
            raise self._unavailable("reported an error in the middle of an answer")
        try:
            counts = event.get("usage")
            if counts:
                usage = Usage(int(counts["prompt_tokens"]), int(counts.get("completion_tokens", 0)))
            choices = event.get("choices") or []
            text = (choices[0].get("delta") or {}).get("content") or "" if choices else ""
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise self._malformed("an event has not the documented shape") from error
        if not isinstance(text, str):
            raise self._malformed("an event's content is not text")
        return text, usage

    # ── the error table ──────────────────────────────────────────────────────────────────────────────────────────────

    def _status_error(self, response: httpx.Response, code: str) -> EngineError | Overloaded:
        status = response.status_code
        if status == httpx.codes.TOO_MANY_REQUESTS and code != "insufficient_quota":
            wait_s = retry_after_s(response.headers.get("retry-after", ""))
            return Overloaded(
                f"The generator at {self._place} limits its requests.",
                next_step=f"Try again in {wait_s:g} s, or name a second generator in the settings.",
                retry_after_s=wait_s,
            )
        if status in (httpx.codes.REQUEST_TIMEOUT, httpx.codes.GATEWAY_TIMEOUT):
            return self._late()
        if status >= httpx.codes.INTERNAL_SERVER_ERROR:
            return self._unavailable(f"answered with status {status}")
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            step = "Correct `api_key` of this generator, and what the key may use."
        elif status == httpx.codes.NOT_FOUND:
            step = f"Correct `url`, or `model` ({self._model}): the server lists its models at /v1/models."
        elif code in ("context_length_exceeded", "exceed_context_size_error"):
            step = "The prompt is longer than the model's context: lower RAGLINE_QUERY__CONTEXT_TOKENS."
        elif code == "insufficient_quota":
            step = "The account's quota is used up: raise it, or name another generator."
        else:
            step = "See the server's log for the reason."
        return EngineRejected(
            f"The generator at {self._place} refused with status {status}.", next_step=step, engine=self.name
        )

    def _transport_error(self, error: Exception) -> EngineError:
        if isinstance(error, (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout)):
            return self._late()
        if isinstance(error, httpx.ConnectTimeout | httpx.ConnectError):
            return self._unavailable("cannot be reached")
        if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
            return EngineRejected(
                f"The generator's address {self._place} is not one.", next_step="Correct `url`.", engine=self.name
            )
        return self._unavailable("broke off")

    def _late(self) -> EngineTimeout:
        return EngineTimeout(
            f"The generator at {self._place} was not done within {self._timeout_s:g} s.",
            next_step="Raise `timeout_s` of this generator, or take a faster one.",
            engine=self.name,
        )

    def _unavailable(self, what: str) -> EngineUnavailable:
        return EngineUnavailable(
            f"The generator at {self._place} {what}.",
            next_step="Look whether it runs and is reachable from here.",
            engine=self.name,
        )

    def _malformed(self, what: str) -> EngineUnavailable:
        return self._unavailable(f"does not speak the protocol: {what}")

    async def _error(self, response: httpx.Response, deadline: float) -> tuple[str, str]:
        """`error.code`, else `error.type`, and `error.param` of the body; "" for what it has not. No other words of it
        are used."""
        body = b""
        try:
            async with asyncio.timeout_at(deadline):
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > MAX_ERROR_BYTES:
                        return "", ""
            error = json.loads(body)["error"]
            code = next((c for c in (error.get("code"), error.get("type")) if isinstance(c, str)), "")
            parameter = error.get("param")
        except (httpx.HTTPError, TimeoutError, ValueError, KeyError, TypeError, AttributeError):
            return "", ""
        return code, parameter if isinstance(parameter, str) else ""
