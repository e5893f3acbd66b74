"""JSON over HTTP to a server that runs models, as the adapters for embeddings and reranking use it.

What a server says is never passed on: its error texts may quote the request, which holds documents.

    what happens                                     becomes
    connection refused, reset, cut                   EngineUnavailable
    no answer within the time, 408, 504              EngineTimeout
    429, 503, 529                                    Busy, with the server's Retry-After
    502                                              EngineUnavailable
    424 (TEI: the model failed), other 5xx           EngineError: may be the call's doing
    no JSON, or not the documented shape             EngineError
    429 `insufficient_quota`, 401, 402, 403          EngineDenied
    other 4xx                                        EngineRejected
    3xx                                              EngineRejected
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

import httpx
from pydantic import SecretStr

from ragline import tracing
from ragline.errors import (
    ConfigurationError,
    EngineDenied,
    EngineError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
)

CONNECT_TIMEOUT_S = 5.0
MAX_ANSWER_BYTES = 256 << 20
"""2,048 vectors of 4,096 components as decimal numbers are half of it."""
MAX_ERROR_BYTES = 64 << 10
KEPT_CONNECTIONS = 64
DEFAULT_RETRY_AFTER_S = 5.0
MAX_RETRY_AFTER_S = 600.0

_BUSY = (429, 503, 529)
_LATE = (408, 504)
_DENIED = (401, 402, 403)


class Busy(EngineUnavailable):
    """The server limits its requests; it takes them again in `retry_after_s`, where it says so."""

    def __init__(self, message: str, *, next_step: str, engine: str, retry_after_s: float | None) -> None:
        super().__init__(message, next_step=next_step, engine=engine)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a server said with a bad status: to be told apart, never to be shown."""

    status: int
    code: str = ""
    words: str = ""

    @property
    def too_long(self) -> bool:
        """A text is over the model's context: OpenAI, vLLM and llama.cpp, TEI, Infinity say it in these words."""
        known = ("context length", "context size", "context_length", "tokens. given", "too long", "maximum length")
        return any(sign in self.words or sign in self.code for sign in known)


Steps = Callable[[Refusal], str | None]
"""What to do about a refusal, where the adapter knows better than `ModelServer`."""


class ModelServer:
    """One server, one pool of connections.

    `role`, such as "embedder", is what messages call it; `setting` the section of the settings that names it.
    Raises:  ConfigurationError: the URL carries a password, or is none.
    """

    def __init__(
        self, url: str, *, role: str, setting: str, engine: str, api_key: SecretStr | None, steps: Steps = lambda _: None
    ) -> None:  # fmt: skip
        parsed = base_url(url, setting=setting, key=f"RAGLINE_{setting.upper()}__API_KEY")
        key = api_key.get_secret_value() if api_key else ""
        self.place = parsed.netloc.decode("ascii")
        self._role, self._setting, self._engine, self._steps = role, setting, engine, steps
        self._client = httpx.AsyncClient(
            base_url=str(parsed).rstrip("/") + "/",
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=KEPT_CONNECTIONS),
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),  # the call has one limit for all of it
            follow_redirects=False,
        )

    async def post(self, path: str, body: Mapping[str, object], *, timeout_s: float) -> bytes:
        """The body of a good answer. A caller that leaves closes the connection. Raises by the table above."""
        if self._client.is_closed:
            raise self._unavailable("was closed by this process")
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._client.stream("POST", path, json=body, headers=tracing.headers()) as response,
            ):
                good = response.status_code == httpx.codes.OK
                content = await _read(response, MAX_ANSWER_BYTES if good else MAX_ERROR_BYTES)
        except (httpx.HTTPError, TimeoutError) as error:
            raise self._transport_error(error, timeout_s) from error
        if not good:
            raise self._status_error(refusal(response.status_code, content), response, timeout_s)
        if content is None:
            raise self.malformed("its answer has no end")
        return content

    async def aclose(self) -> None:
        await self._client.aclose()

    def malformed(self, what: str) -> EngineError:
        return EngineError(
            f"The {self._role} at {self.place} does not speak the protocol: {what}.",
            next_step=f"Look whether {self._setting}.url leads to a server of this kind.",
            engine=self._engine,
        )

    def rejected(self, what: str, step: str) -> EngineRejected:
        return EngineRejected(f"The {self._role} at {self.place} {what}.", next_step=step, engine=self._engine)

    def _denied(self, status: int, step: str) -> EngineDenied:
        words = f"The {self._role} at {self.place} refused with status {status}."
        return EngineDenied(words, next_step=step, engine=self._engine)

    def _status_error(self, refused: Refusal, response: httpx.Response, timeout_s: float) -> EngineError:
        status = refused.status
        if refused.code == "insufficient_quota":
            return self._denied(status, "The account's quota is used up: raise it.")
        if status in _BUSY:
            header = response.headers.get("retry-after", "")
            return Busy(
                f"The {self._role} at {self.place} limits its requests.",
                next_step=f"Try again later, lower {self._setting}.concurrency, or ask for a higher limit.",
                engine=self._engine,
                retry_after_s=retry_after_s(header) if header else None,
            )
        if status in _LATE:
            return self._late(timeout_s)
        if status == httpx.codes.BAD_GATEWAY:
            return self._unavailable("cannot be reached by its gateway")
        if status >= httpx.codes.INTERNAL_SERVER_ERROR or status == httpx.codes.FAILED_DEPENDENCY:
            return EngineError(
                f"The {self._role} at {self.place} answered with status {status}.",
                next_step="See that server's log for the reason.",
                engine=self._engine,
            )
        if status in _DENIED:
            return self._denied(
                status, self._steps(refused) or f"Correct {self._setting}.api_key, and what the key may use."
            )
        return self.rejected(f"refused with status {status}", self._steps(refused) or self._step(refused))

    def _step(self, refused: Refusal) -> str:
        if refused.status == httpx.codes.NOT_FOUND:
            return f"Correct {self._setting}.url, or {self._setting}.model to a name that the server knows."
        if 300 <= refused.status < 400:
            return f"Set {self._setting}.url to the address it leads to: redirects are not followed."
        return "See that server's log for the reason."

    def _transport_error(self, error: Exception, timeout_s: float) -> EngineError:
        match broken(error):
            case "late":
                return self._late(timeout_s)
            case "no address":
                return self.rejected("has no address that can be asked", f"Correct {self._setting}.url.")
            case what:
                return self._unavailable(what)

    def _late(self, timeout_s: float) -> EngineTimeout:
        return EngineTimeout(
            f"The {self._role} at {self.place} gave no answer within {timeout_s:g} s.",
            next_step=f"Look at its load, or raise {self._setting}.timeout_s.",
            engine=self._engine,
        )

    def _unavailable(self, what: str) -> EngineUnavailable:
        return EngineUnavailable(
            f"The {self._role} at {self.place} {what}.",
            next_step=f"Look whether it runs and is reachable from here, and correct {self._setting}.url if it is not there.",
            engine=self._engine,
        )


def base_url(url: str, *, setting: str, key: str) -> httpx.URL:
    """`key`: where an API key belongs instead. Raises ConfigurationError: it is no URL, names no host, or carries a password."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigurationError(
            f"{setting}.url is not an address: {error}.", next_step="Write it as https://HOST/v1."
        ) from error
    if parsed.userinfo:
        raise ConfigurationError(
            f"{setting}.url carries credentials, which would be shown.",
            next_step=f"Move them to {key}, or `api_key` in ragline.toml.",
        )
    if not parsed.host:
        raise ConfigurationError(f"{setting}.url names no host.", next_step="Write it as https://HOST/v1.")
    return parsed


def broken(error: Exception) -> Literal["late", "no address", "cannot be reached", "broke off"]:
    """What stopped a request on its way."""
    if isinstance(error, TimeoutError | httpx.ReadTimeout | httpx.WriteTimeout | httpx.PoolTimeout):
        return "late"
    if isinstance(error, httpx.ConnectTimeout | httpx.ConnectError):
        return "cannot be reached"
    return "no address" if isinstance(error, httpx.UnsupportedProtocol) else "broke off"


async def _read(response: httpx.Response, most: int) -> bytes | None:
    """The body; None where it is longer than `most`."""
    content = bytearray()
    async for part in response.aiter_bytes():
        content += part
        if len(content) > most:
            return None
    return bytes(content)


def refusal(status: int, content: bytes | None) -> Refusal:
    """Of the bodies that OpenAI, vLLM, TEI, Cohere, Jina and Ragline document: `error` as an object or a text, or neither."""
    try:
        body = json.loads(content or b"")
    except ValueError:
        return Refusal(status)
    if not isinstance(body, dict):
        return Refusal(status)
    told = body.get("error")
    inner = told if isinstance(told, dict) else body
    codes = (inner.get("code"), inner.get("type"), inner.get("error_type"))
    words = (told, inner.get("message"), inner.get("detail"))
    return Refusal(
        status,
        next((code.lower() for code in codes if isinstance(code, str)), ""),
        " ".join(word for word in words if isinstance(word, str)).lower(),
    )


def retry_after_s(header: str, now: datetime | None = None) -> float:
    """Seconds of a Retry-After header, a number or a date; the default when it is neither. At most ten minutes."""
    try:
        wait = float(header)
    except ValueError:
        try:
            wait = (parsedate_to_datetime(header) - (now or datetime.now(UTC))).total_seconds()
        except (ValueError, TypeError):
            return DEFAULT_RETRY_AFTER_S
    return min(max(0.0, wait), MAX_RETRY_AFTER_S) if math.isfinite(wait) else DEFAULT_RETRY_AFTER_S
