"""Where a webhook may go. Whoever asks a question names a URL, and this process stands where the asker does not: beside the
registry, the models and the metadata of the cloud. So a name is resolved here, every address that it has is looked at, and
the sender connects to what was looked at, never to the name.

Words to the asker are the same for a name that is private and for one that is not there: he is not to map the network by us.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import httpx
import structlog

from ragline.errors import InvalidRequest
from ragline.settings import WebhooksSettings
from ragline.types import delivery_host

log = structlog.get_logger()

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve: TypeAlias = Callable[[str], Awaitable[list[Address]]]
"""All addresses of a name. Raises Unresolved."""

MOST_URL_CHARS = 2_048

MOST_HOST_CHARS = 253
"""RFC 1035."""

ACCEPT_S = 2.0
"""How long a request waits for the look at its webhook. A name server that is slow refuses nobody: it is looked at again."""

PUBLIC_IPV6 = ipaddress.ip_network("2000::/3")
NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""An IPv4 address behind a translator, in its last 32 bits: where a cluster speaks IPv6 alone, most of the world is there."""

NOT_PUBLIC = tuple(
    ipaddress.ip_network(one)
    for one in (
        "168.63.129.16/32",  # Azure's agent, which hands out certificates; the range around it is public
        "192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2002::/16", "3fff::/20",  # RFC 6890: relays, Teredo, 6to4, examples
    )
)  # fmt: skip
"""What Python's `is_global`, in one of its versions, takes for public, and is not."""


class Unresolved(Exception):
    """`definite`: there is no such name; else nobody could say."""

    def __init__(self, host: str, *, definite: bool) -> None:
        super().__init__(f"{host} has no address" if definite else f"{host} could not be resolved")
        self.definite = definite


class NotAllowed(Exception):
    """A URL that is not called. `str`: why, in words for whoever gave it."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that was looked at. `host`: for the certificate, without brackets; `authority`: for the header `Host`."""

    scheme: str
    host: str
    authority: str
    port: int
    path: str


class Addresses:
    """What the settings allow. Names are resolved by threads of its own, as many as deliveries are under way: a name server that
    hangs holds these, and not those by which everybody else connects."""

    def __init__(self, settings: WebhooksSettings, resolve: Resolve | None = None) -> None:
        self._settings = settings
        self._lookups = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="webhook-names")
        self._resolve = resolve or self._look_up

    async def check(self, url: str) -> None:
        """Of a question that is to be accepted. Raises InvalidRequest, field ``webhook``."""
        try:
            target = self.target(url)
            try:
                async with asyncio.timeout(ACCEPT_S):
                    await self.of(target)
            except Unresolved as error:
                if error.definite:
                    raise _has_none(target) from error
                log.warning("webhook accepted unseen: it is looked at when it is sent", error=str(error))
            except TimeoutError:
                log.warning("webhook accepted unseen: no word from the name server", waited_s=ACCEPT_S)
        except NotAllowed as error:
            raise InvalidRequest(
                f"webhook: {error}.",
                next_step="Give an https:// address that the internet reaches. An operator may allow others: "
                "webhooks.allow_networks, webhooks.allow_http.",
                field="webhook",
            ) from error

    def target(self, url: str) -> Target:
        """Raises NotAllowed: it is no URL that is called, wherever it leads."""
        if len(url) > MOST_URL_CHARS:
            raise NotAllowed(f"it has {len(url)} characters, and may have {MOST_URL_CHARS}")
        try:
            parsed = httpx.URL(url)
            host, netloc = parsed.raw_host.decode("ascii"), parsed.netloc.decode("ascii")
            delivery_host(url)  # by another parser, whose word the store takes
        except (httpx.InvalidURL, ValueError) as error:
            raise NotAllowed("it is not a URL") from error
        if parsed.scheme not in ("https", "http"):
            raise NotAllowed("its scheme is not https")
        if parsed.scheme == "http" and not self._settings.allow_http:
            raise NotAllowed("http:// is not taken: whoever is on the way would read the answer")
        if parsed.userinfo:
            raise NotAllowed("a user or password does not belong into it; deliveries are signed")
        port = parsed.port or (443 if parsed.scheme == "https" else 80)
        if not 0 < len(host) <= MOST_HOST_CHARS or "%" in host or not 0 < port < 65_536 or parsed.port == 0:
            raise NotAllowed("it names no host and port that can be")
        return Target(parsed.scheme, host, netloc, port, parsed.raw_path.decode("ascii"))

    async def of(self, target: Target) -> list[Address]:
        """All its addresses, each of which may be called. Raises NotAllowed, Unresolved."""
        found = await self._resolve(target.host)
        if wrong := [address for address in found if not self.may_be_called(address)]:
            log.warning("webhook to an address that is not public", host=target.host, address=str(wrong[0]))
            raise _has_none(target)
        return found

    def may_be_called(self, address: Address) -> bool:
        if any(address in network for network in self._settings.allow_networks):
            return True
        if isinstance(address, ipaddress.IPv6Address) and address in NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
        return is_public(address)

    async def _look_up(self, host: str) -> list[Address]:
        """By the system, `/etc/hosts` included."""

        def ask() -> list[Address]:
            try:
                found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            except (socket.gaierror, UnicodeError) as error:
                code = error.errno if isinstance(error, socket.gaierror) else socket.EAI_NONAME
                gone = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
                raise Unresolved(host, definite=code in gone) from error
            return list(
                dict.fromkeys(ipaddress.ip_address(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in found)
            )

        return await asyncio.get_running_loop().run_in_executor(self._lookups, ask)

    async def aclose(self) -> None:
        self._lookups.shutdown(wait=False, cancel_futures=True)


def is_public(address: Address) -> bool:
    """Whether the internet knows it as one host's: no private, loopback, link-local, metadata, multicast, mapped … one."""
    if isinstance(address, ipaddress.IPv6Address) and address not in PUBLIC_IPV6:
        return False
    if address.is_multicast or address.is_reserved or not address.is_global:
        return False
    return not any(address in network for network in NOT_PUBLIC)


def _has_none(target: Target) -> NotAllowed:
    return NotAllowed(f"{target.host} has no public address, or not public ones alone")
