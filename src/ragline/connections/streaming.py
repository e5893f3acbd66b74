"""A streamed answer over HTTP from a server that generates text: one deadline, events, and one table of errors.

The adapters of generators use it; each says what a status of its vendor means beyond this table, and reads its own events.
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
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import httpx

from ragline import tracing
from ragline.connections.model_server import (
    CONNECT_TIMEOUT_S,
    MAX_ERROR_BYTES,
    Refusal,
    base_url,
    broken,
    refusal,
    retry_after_s,
)
from ragline.connections.sse import MAX_LINE_CHARS, lines
from ragline.errors import ConfigurationError, EngineError, EngineRejected, EngineTimeout, EngineUnavailable, Overloaded
from ragline.settings import GeneratorSettings


class StreamingServer:
    """`settings.url` is the base, such as ``https://api.openai.com/v1``; `settings.timeout_s` bounds a whole answer.

    Raises:  ConfigurationError: no model is named, or the URL carries a password.
    """

    def __init__(self, settings: GeneratorSettings, *, name: str, url: str, headers: Mapping[str, str]) -> None:
        parsed = base_url(url, setting="generators", key="RAGLINE_GENERATORS__N__API_KEY")
        if not settings.model:
            raise ConfigurationError(
                f"generators: no model is named for {parsed.host}.",
                next_step="Set `model` to a name that the server lists at /v1/models.",
            )
        self._model = settings.model
        self._name = name
        self._place = parsed.netloc.decode("ascii")
        self._timeout_s = settings.timeout_s
        self._client = httpx.AsyncClient(
            base_url=str(parsed).rstrip("/") + "/",
            headers=dict(headers),
            timeout=httpx.Timeout(settings.timeout_s, connect=min(CONNECT_TIMEOUT_S, settings.timeout_s)),
            follow_redirects=False,
        )

    def deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout_s

    async def send(self, path: str, body: Mapping[str, object], deadline: float) -> httpx.Response:
        """The response, its body not read yet; whoever gets it closes it."""
        if self._client.is_closed:
            raise self.unavailable("was closed by this process")
        request = self._client.build_request("POST", path, json=body, headers=tracing.headers())
        try:
            async with asyncio.timeout_at(deadline):
                return await self._client.send(request, stream=True)
        except (httpx.HTTPError, TimeoutError) as error:
            raise self._transport_error(error) from error

    async def refusal(self, response: httpx.Response, deadline: float) -> tuple[Refusal, str]:
        """What it said, and the parameter that it named; to be told apart, never to be shown."""
        body = b""
        try:
            async with asyncio.timeout_at(deadline):
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > MAX_ERROR_BYTES:
                        return Refusal(response.status_code), ""
            parameter = json.loads(body)["error"].get("param")
        except (httpx.HTTPError, TimeoutError, ValueError, KeyError, TypeError, AttributeError):
            parameter = ""
        return refusal(response.status_code, body), parameter if isinstance(parameter, str) else ""

    def check_stream(self, response: httpx.Response) -> None:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise self.malformed("it answered with something else than an event stream")

    async def events(self, response: httpx.Response, deadline: float) -> AsyncGenerator[dict[str, Any], None]:
        """The JSON of each event within the deadline, up to `[DONE]` or the end of the stream.

        Only `data` lines matter: the protocols give every event exactly one, and comments (`: ping`) keep it alive.
        """
        async with aclosing(lines(response)) as arriving:
            while (line := await self._next(arriving, deadline)) is not None:
                if len(line) > MAX_LINE_CHARS:
                    raise self.malformed("an event is longer than any token")
                if not line.startswith("data:"):
                    continue
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    yield {}
                    return
                try:
                    event = json.loads(data)
                except ValueError as error:
                    raise self.malformed("an event is not JSON") from error
                if not isinstance(event, dict):
                    raise self.malformed("an event is not an object")
                yield event

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _next(self, arriving: AsyncIterator[str], deadline: float) -> str | None:
        if asyncio.get_running_loop().time() > deadline:  # a flood of events never gives the timeout below its turn
            raise self._late()
        try:
            async with asyncio.timeout_at(deadline):
                return await anext(arriving, None)
        except (httpx.HTTPError, TimeoutError) as error:
            raise self._transport_error(error) from error

    # ── the error table ──────────────────────────────────────────────────────────────────────────────────────────────

    def status_error(self, response: httpx.Response, refused: Refusal) -> EngineError | Overloaded:
        status, code = refused.status, refused.code
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
            return self.unavailable(f"answered with status {status}")
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            step = "Correct `api_key` of this generator, and what the key may use."
        elif status == httpx.codes.NOT_FOUND:
            step = f"Correct `url`, or `model` ({self._model}): the server lists its models at /v1/models."
        elif code == "exceed_context_size_error" or refused.too_long:
            step = "The prompt is longer than the model's context: lower RAGLINE_QUERY__CONTEXT_TOKENS."
        elif status == httpx.codes.PAYMENT_REQUIRED or code in ("insufficient_quota", "billing_error"):
            step = "The account's quota is used up: raise it, or name another generator."
        else:
            step = "See the server's log for the reason."
        return EngineRejected(
            f"The generator at {self._place} refused with status {status}.", next_step=step, engine=self._name
        )

    def unavailable(self, what: str) -> EngineUnavailable:
        return EngineUnavailable(
            f"The generator at {self._place} {what}.",
            next_step="Look whether it runs and is reachable from here.",
            engine=self._name,
        )

    def malformed(self, what: str) -> EngineUnavailable:
        return self.unavailable(f"does not speak the protocol: {what}")

    def _transport_error(self, error: Exception) -> EngineError:
        match broken(error):
            case "late":
                return self._late()
            case "no address":
                return EngineRejected(
                    f"The generator's address {self._place} is not one.", next_step="Correct `url`.", engine=self._name
                )
            case what:
                return self.unavailable(what)

    def _late(self) -> EngineTimeout:
        return EngineTimeout(
            f"The generator at {self._place} was not done within {self._timeout_s:g} s.",
            next_step="Raise `timeout_s` of this generator, or take a faster one.",
            engine=self._name,
        )
