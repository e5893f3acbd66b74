"""One try of one delivery: look where it leads, sign, post, and say in one word what became of it.

The connection goes to the address that was looked at, with the name in `Host` and, under TLS, as the name that the certificate
must carry (httpx's `sni_hostname`). Each try has a connection of its own: one that was opened for another name at the same
address has shown another certificate. Nothing of the answer but its status is ever told: else a webhook would be a way
to read what only this process reaches.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass

import httpx
import structlog

from ragline import __version__
from ragline.clock import Clock
from ragline.connections.model_server import retry_after_s
from ragline.errors import ConfigurationError
from ragline.settings import WebhooksSettings
from ragline.types import WebhookDelivery
from ragline.webhooks.addresses import Address, Addresses, NotAllowed, Target, Unresolved
from ragline.webhooks.signing import Signing

log = structlog.get_logger()

MOST_READ_BYTES = 16 << 10
READ_S = 1.0
"""So much of an answer, for so long, is taken, and thrown away: a receiver that writes a few words can end in peace."""

MOST_ADDRESSES = 3
"""Of a name, tried one after the other, as long as none could be connected to."""

GONE = 410
SLOW_DOWN = (429, 503)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a try. `error`: why not, in words; empty: it is delivered. `final`: another try is of no use."""

    status: int | None
    error: str = ""
    final: bool = False
    retry_after_s: float | None = None


class Sender:
    """`tls`: whose certificates are good; None: the usual authorities', or those of SSL_CERT_FILE."""

    def __init__(
        self, *, addresses: Addresses, signing: Signing, clock: Clock, settings: WebhooksSettings,
        tls: ssl.SSLContext | None = None,
    ) -> None:  # fmt: skip
        self._addresses = addresses
        self._signing = signing
        self._clock = clock
        self._settings = settings
        self._client: httpx.AsyncClient | None = None
        self._tls = tls

    async def send(self, delivery: WebhookDelivery) -> Outcome:
        """Within `webhooks.timeout_s`. Raises nothing that a receiver, a name or a network may do."""
        limit_s = self._settings.timeout_s
        try:
            async with asyncio.timeout(limit_s):
                target = self._addresses.target(delivery.url)
                return await self._post(delivery, target, await self._addresses.of(target))
        except TimeoutError:
            return Outcome(None, f"No answer within {limit_s:g} s (webhooks.timeout_s).")
        except NotAllowed as error:
            return Outcome(None, f"Not called: {error}.")
        except Unresolved as error:
            return Outcome(None, f"Not called: {error}.")
        except ConfigurationError as error:
            log.error("webhook not signed", delivery=delivery.id, error=error.message, next_step=error.next_step)
            return Outcome(None, "Not signed: this server's secrets are not in order; its log says more.")
        except httpx.HTTPError as error:
            return Outcome(None, _broken(error))

    async def _post(self, delivery: WebhookDelivery, target: Target, addresses: list[Address]) -> Outcome:
        signed = await self._signing.headers(delivery.id, delivery.body, at=self._clock.now())
        headers = {"Host": target.authority, "Content-Type": "application/json", **signed}
        for address in addresses[:MOST_ADDRESSES]:
            try:
                return await self._post_to(address, target, delivery.body, headers)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:  # nothing was sent there
                failure = error
        raise failure

    async def _post_to(self, address: Address, target: Target, body: bytes, headers: dict[str, str]) -> Outcome:
        host = f"[{address}]" if address.version == 6 else str(address)
        url = httpx.URL(f"{target.scheme}://{host}:{target.port}").copy_with(raw_path=target.path.encode("ascii"))
        named = {"sni_hostname": target.host}
        async with self._http.stream("POST", url, content=body, headers=headers, extensions=named) as response:
            outcome = _judged(response)
            await _let_end(response)
        return outcome

    @property
    def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = httpx.AsyncClient(
                headers={"User-Agent": f"ragline/{__version__}", "Accept-Encoding": "identity", "Connection": "close"},
                verify=self._tls or httpx.create_ssl_context(),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
                timeout=httpx.Timeout(
                    None, connect=self._settings.connect_timeout_s
                ),  # the try has one limit for all of it
                follow_redirects=False,
                trust_env=False,  # a proxy would resolve the name once more
            )
        return self._client

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()


def _judged(response: httpx.Response) -> Outcome:
    status = response.status_code
    if response.is_success:
        return Outcome(status)
    if status == GONE:
        return Outcome(status, "It answered 410: it wants no more of these.", final=True)
    if 300 <= status < 400:
        return Outcome(status, f"It answered {status}: redirects are not followed. Give the address it leads to.")
    after = response.headers.get("retry-after", "") if status in SLOW_DOWN else ""
    return Outcome(status, f"It answered {status}.", retry_after_s=retry_after_s(after) if after else None)


async def _let_end(response: httpx.Response) -> None:
    """The status has said everything; whatever else comes, or does not, changes nothing."""
    read = 0
    try:
        async with asyncio.timeout(READ_S):
            async for part in response.aiter_raw():
                read += len(part)
                if read > MOST_READ_BYTES:
                    return
    except (TimeoutError, httpx.HTTPError) as error:
        log.debug("the rest of an answer to a webhook was left", error=type(error).__name__)


def _broken(error: httpx.HTTPError) -> str:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"Its certificate is not good for that name: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return "TLS failed: it speaks none, or another version."
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return "It cannot be connected to."
    return "The connection broke off before an answer."
