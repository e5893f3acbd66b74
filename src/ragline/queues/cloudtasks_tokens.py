"""Whether a call to a worker comes from our own Cloud Tasks: the OIDC token that Google signs for each.

Without it anybody who reaches a worker could keep it busy. The token says who calls (a service account of ours) and for whom
it is meant (our audience); its signature, by a key that the issuer publishes, says that Google wrote it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import structlog
from google.auth import exceptions as auth
from google.auth import jwt

from ragline.clock import Clock
from ragline.errors import EngineUnavailable, Forbidden, Unauthenticated
from ragline.queues.cloudtasks_connection import ENGINE, Options

log = structlog.get_logger()

KEEP_S = 3600.0
"""How long the issuer's keys are believed. Google publishes new ones days before it signs with them."""

AGAIN_S = 60.0
"""For an unknown key, and while the issuer is away, it is not asked more often than this: a forger could make us ask."""

SKEW_S = 10
"""By which its clock and ours may differ."""

MOST_BYTES = 16 << 10
"""Of a token; Google's have one or two thousand."""


class Tokens:
    def __init__(self, options: Options, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._http = httpx.AsyncClient(timeout=options.timeout_s, follow_redirects=False)
        self._asking = asyncio.Lock()
        self._keys: Mapping[str, str] = {}
        self._kept_at = self._asked_at = -KEEP_S

    async def check(self, token: str, *, audience: str) -> None:
        """Raises Unauthenticated: it is no token of the issuer's for us, or no longer.  Forbidden: of another account.
        EngineUnavailable: the issuer's keys are not to be had, so that nobody can tell."""
        try:
            header: Mapping[str, Any] = jwt.decode_header(token) if len(token) <= MOST_BYTES else {}  # type: ignore[no-untyped-call]
            key = str(header["kid"])
            keys = {key: (await self._known(key))[key]}
            said = await asyncio.to_thread(jwt.decode, token, keys, clock_skew_in_seconds=SKEW_S)
        except (auth.GoogleAuthError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise _refused("is not one that the issuer has signed, or it has expired") from error
        issuers = {self._options.issuer, self._options.issuer.removeprefix("https://")}
        if said.get("iss") not in issuers:
            raise _refused("is of another issuer")
        if said.get("aud") != audience:
            raise _refused("is for another audience")
        if said.get("email") != self._options.account or said.get("email_verified") is not True:
            raise Forbidden(
                "The token of this call is of another service account.",
                next_step="Let Cloud Tasks call in the name of the `account` in the URL of `jobs.queue`.",
            )

    async def _known(self, key: str) -> Mapping[str, str]:
        """The issuer's keys: those that are kept, asked for anew when they are old or `key` is not among them."""
        async with self._asking:
            now = self._clock.monotonic()
            wanted = now - self._kept_at > KEEP_S or key not in self._keys
            if wanted and now - self._asked_at > AGAIN_S:
                self._asked_at = now
                try:
                    told = await self._http.get(self._options.keys)
                    told.raise_for_status()
                    self._keys = {str(kid): str(pem) for kid, pem in told.json().items()}
                    self._kept_at = now
                except (httpx.HTTPError, ValueError, AttributeError) as error:
                    log.warning(
                        "the keys of the issuer are not to be had", url=self._options.keys, error=type(error).__name__
                    )
            if not self._keys:
                raise EngineUnavailable(
                    f"The keys of {self._options.issuer} are not to be had, so the token of this call cannot be checked.",
                    next_step=f"Check that {self._options.keys} can be reached from here; Cloud Tasks calls again.",
                    engine=ENGINE,
                )
            return self._keys

    async def aclose(self) -> None:
        await self._http.aclose()


def _refused(what: str) -> Unauthenticated:
    return Unauthenticated(
        f"The token of this call {what}.",
        next_step="Only Cloud Tasks calls here: look at issuer, audience and account in the URL of `jobs.queue`.",
    )
