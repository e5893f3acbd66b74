"""Requests to the API of an edge, and what its answers mean. What it says is never shown: it may quote the request.

what happens                        becomes
refused, reset, cut                 EngineUnavailable
no answer within the time, 408, 504 EngineTimeout
429                                 Busy, with its Retry-After
502, 503                            Busy where it names a time, else EngineUnavailable
other 5xx                           EngineError
401, 403                            EngineDenied
other 4xx, 3xx                      EngineRejected
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import httpx
from pydantic import SecretStr

from ragline.connections.model_server import Busy, broken, retry_after_s
from ragline.errors import (
    ConfigurationError,
    EngineDenied,
    EngineError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
)

LOOK = "Look whether it runs and is reachable from here, and correct edge.url if it is not there."
RIGHTS = "Correct edge.token, and what the token may do: purging by key is enough."


class Asking:
    """One client for the addresses of one edge. `engine`: such as "edge:varnish". `timeout_s`: of a whole call."""

    def __init__(self, *, engine: str, timeout_s: float, refused: str = RIGHTS) -> None:
        self._engine, self._timeout_s, self._refused = engine, timeout_s, refused
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(timeout_s), follow_redirects=False)

    async def send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: object | None = None
    ) -> httpx.Response:
        """The answer, which has the status 200. Raises EngineError by the table above."""
        place = httpx.URL(url).netloc.decode("ascii")
        if self._client.is_closed:
            raise EngineUnavailable(
                f"The edge at {place} was closed by this process.", next_step=LOOK, engine=self._engine
            )
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._client.request(method, url, headers=dict(headers), json=body)
        except (httpx.HTTPError, TimeoutError) as error:
            raise self._transport(error, place) from error
        if response.status_code != httpx.codes.OK:
            raise self._status(response, place)
        return response

    def rejected(self, place: str, what: str, step: str) -> EngineRejected:
        return EngineRejected(f"The edge at {place} {what}.", next_step=step, engine=self._engine)

    async def aclose(self) -> None:
        await self._client.aclose()

    def _transport(self, error: Exception, place: str) -> EngineError:
        match broken(error):
            case "late":
                return self._late(place)
            case "no address":
                return self.rejected(place, "has no address that can be asked", "Correct edge.url.")
            case what:
                return EngineUnavailable(f"The edge at {place} {what}.", next_step=LOOK, engine=self._engine)

    def _status(self, response: httpx.Response, place: str) -> EngineError:
        status, told = response.status_code, response.headers.get("retry-after", "")
        if status == httpx.codes.TOO_MANY_REQUESTS or (told and status in (502, 503)):
            return Busy(
                f"The edge at {place} limits purges.",
                next_step="They are taken up again; ask for a higher limit if this lasts.",
                engine=self._engine,
                retry_after_s=retry_after_s(told) if told else None,
            )
        if status in (httpx.codes.REQUEST_TIMEOUT, httpx.codes.GATEWAY_TIMEOUT):
            return self._late(place)
        if status in (httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE):
            return EngineUnavailable(
                f"The edge at {place} answered with status {status}.", next_step=LOOK, engine=self._engine
            )
        if status >= httpx.codes.INTERNAL_SERVER_ERROR:
            return EngineError(
                f"The edge at {place} answered with status {status}.",
                next_step="See its log or its status page for the reason.",
                engine=self._engine,
            )
        words = f"refused with status {status}"
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            return EngineDenied(f"The edge at {place} {words}.", next_step=self._refused, engine=self._engine)
        return self.rejected(place, words, "Correct edge.url: it takes no purges there.")

    def _late(self, place: str) -> EngineTimeout:
        return EngineTimeout(
            f"The edge at {place} gave no answer within {self._timeout_s:g} s.",
            next_step="Look at its load, or raise edge.timeout_s.",
            engine=self._engine,
        )


def joined(keys: Sequence[str], separator: str, *, most_bytes: int, most_keys: int) -> str | None:
    """The keys as one header; None where the edge would leave some of them out."""
    line = separator.join(dict.fromkeys(keys))
    return line if len(line) <= most_bytes and len(keys) <= most_keys else None


def batches(keys: Sequence[str], *, most: int) -> list[list[str]]:
    """Each key once, at most so many in one call."""
    each = list(dict.fromkeys(keys))
    return [each[start : start + most] for start in range(0, len(each), most)]


def secret(token: SecretStr | None, vendor: str) -> str:
    """Raises ConfigurationError: there is none."""
    if token is None or not token.get_secret_value().strip():
        raise ConfigurationError(
            f"edge.token is missing: {vendor} takes no purge without one.",
            next_step="Set RAGLINE_EDGE__TOKEN to a token that may purge.",
        )
    return token.get_secret_value().strip()


def wrong(what: str, instead: str) -> ConfigurationError:
    return ConfigurationError(f"edge.url: {what}.", next_step=f"Correct the setting: {instead}.")
