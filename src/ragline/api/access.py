"""Who asks, and may they? Principal, role, namespaces and groups come from the API key, never from the body."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Coroutine
from functools import lru_cache
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request

from ragline.clock import Clock
from ragline.errors import Forbidden, NotFound, Unauthenticated
from ragline.registry.keys import Keys
from ragline.types import Caller, Namespace, Role

KEEP_S = 1.0
"""How long a key that was found good is believed without asking the registry: the longest a revocation may take."""

MOST_KEPT = 10_000

RANK: dict[Role, int] = {"read": 0, "write": 1, "admin": 2}

PROXIES = ("via", "x-real-ip", "x-forwarded-for", "x-forwarded-host", "forwarded")
"""Headers by which a proxy shows itself. One that adds none of them cannot be told from a local caller."""

OWNER = Caller("owner", "admin", None, frozenset())
"""Whoever can read the data folder: the CLI on this machine, or anyone on loopback while no key exists."""


ANYBODY = "anybody"
"""The principal of whoever searches a public namespace without a key."""


class Access:
    def __init__(self, keys: Keys, clock: Clock, *, owner_token: str, origins: tuple[str, ...]) -> None:
        self._keys = keys
        self._clock = clock
        self._owner_token = owner_token
        self._origins = origins
        self._kept: dict[str, tuple[float, Caller]] = {}
        self._closed_at: float | None = None

    async def caller(self, request: Request) -> Caller:
        """Raises Unauthenticated, Forbidden."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token:
            if hmac.compare_digest(token.encode(), self._owner_token.encode()):
                return OWNER
            return await self._known(token.strip())
        if await self._keys_exist():
            raise Unauthenticated(
                "This server asks for an API key.", next_step="Send `Authorization: Bearer rgl_…` with the request."
            )
        self._must_be_local(request)
        return OWNER

    def forget(self) -> None:
        """A key was changed here: ask the registry again."""
        self._kept.clear()
        self._closed_at = None

    async def _known(self, token: str) -> Caller:
        now = self._clock.monotonic()
        kept_at, caller = self._kept.get(token, (0.0, None))
        if caller is None or now - kept_at > KEEP_S:
            self._kept.pop(token, None)
            caller = await self._keys.caller(token)
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            self._kept[token] = (now, caller)
        return caller

    async def _keys_exist(self) -> bool:
        now = self._clock.monotonic()
        if self._closed_at is None or now - self._closed_at > KEEP_S:
            self._closed_at = now if await self._keys.exist() else None
        return self._closed_at is not None

    def _must_be_local(self, request: Request) -> None:
        """Open means open to this machine: not through a proxy, not from a page of another site, not by a rebound name.

        A page without a site (a sandboxed frame, a file) has the origin `null`, and is another site's.
        """
        peer = request.client.host if request.client else None  # none behind a Unix socket
        origin = request.headers.get("origin")
        local = (
            (peer is None or _is_loopback(peer))
            and _is_loopback(_host(f"//{request.headers.get('host', '')}"))
            and not any(name in request.headers for name in PROXIES)
            and (origin is None or origin in self._origins or _is_loopback(_host(origin)))
        )
        if not local:
            raise Unauthenticated(
                "While no API key exists, only this machine itself may call.",
                next_step="Make a key with `ragline keys create`, and send it as `Authorization: Bearer rgl_…`.",
            )


def allow(caller: Caller, role: Role, namespace: str | None = None) -> None:
    """Raises Forbidden, with the same words whether or not the namespace exists."""
    if namespace is not None and caller.namespaces is not None and namespace not in caller.namespaces:
        raise Forbidden(
            f"The key of {caller.principal} is not for namespace {namespace[:80]!r}.",
            next_step="Use a key for it, or ask an admin for one.",
        )
    if RANK[caller.role] < RANK[role]:
        raise Forbidden(
            f"The key of {caller.principal} has the role {caller.role}; this needs {role}.",
            next_step=f"Use a key with the role {role}.",
        )


def _needs(role: Role) -> Callable[[Request], Coroutine[Any, Any, Caller]]:
    async def dependency(request: Request) -> Caller:
        caller = await request.app.state.access.caller(request)
        allow(caller, role, request.path_params.get("namespace"))
        return caller  # type: ignore[no-any-return]

    return dependency


async def _whoever_searches(request: Request) -> Caller:
    """Who sends no key may search a public namespace, as somebody in no group."""
    name = request.query_params.get("namespace", "default")
    if "authorization" not in request.headers and await _is_public(request, name):
        return Caller(ANYBODY, "read", frozenset({name}), frozenset())
    caller: Caller = await request.app.state.access.caller(request)
    return caller


async def _is_public(request: Request, name: str) -> bool:
    try:
        namespace: Namespace = await request.app.state.system.snapshots.get(name)
    except NotFound:
        return False
    return namespace.settings.public


Reader = Annotated[Caller, Depends(_needs("read"))]
Searcher = Annotated[Caller, Depends(_whoever_searches)]
Writer = Annotated[Caller, Depends(_needs("write"))]
Admin = Annotated[Caller, Depends(_needs("admin"))]


@lru_cache(128)
def _host(url: str) -> str | None:
    """None: there is none, or what stands there is not a URL."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


@lru_cache(128)
def _is_loopback(host: str | None) -> bool:
    if host is None:
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
