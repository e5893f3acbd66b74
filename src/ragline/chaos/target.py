"""The server that is tried: sessions to it, and the few calls around a load that must succeed or end it.

aiohttp, not httpx: at 200 requests a second httpx takes 5 ms of CPU for each, more than a core has, and falls behind; aiohttp
takes half a millisecond, also with 400 in flight (docs/load.md).
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp

from ragline import __version__
from ragline.errors import ConfigurationError

PAGE = 1000
"""Documents in one page of a list; the most that the API gives."""


class CouldNotRun(ConfigurationError):
    """There is nothing to measure: no server, no right to it, no documents. The load has not begun."""


class Target:
    """`url`: of a Ragline server, without a path; `key`: for its Authorization, or None."""

    def __init__(self, url: str, key: str | None, *, timeout_s: float) -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        self._headers = {"User-Agent": f"ragline/{__version__}"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._timeout_s = timeout_s

    def session(self) -> aiohttp.ClientSession:
        """As many connections as requests are in flight; each call has its own limit of time."""
        near = urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")  # never through a proxy
        return aiohttp.ClientSession(
            headers=self._headers, connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None),
            trust_env=not near,
        )  # fmt: skip

    async def ask(self, session: aiohttp.ClientSession, method: str, path: str, **more: Any) -> Any:
        """The JSON of a good answer. Raises CouldNotRun: there was none."""
        try:
            async with asyncio.timeout(self._timeout_s), session.request(method, self.url + path, **more) as response:
                body = await response.json(content_type=None)
                status = response.status
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise CouldNotRun(
                f"{self.url} does not answer as Ragline does: {_why(error)}.",
                next_step="Check that it runs (`ragline up`), and --url (RAGLINE_URL).",
            ) from error
        if status >= 300 or not isinstance(body, dict):
            told = body if isinstance(body, dict) else {}
            raise CouldNotRun(
                f"{self.url} answered {status}: {told.get('detail', 'nothing that Ragline would say')}",
                next_step=str(told.get("next_step") or "Check --url (RAGLINE_URL) and --key (RAGLINE_KEY)."),
            )
        return body

    async def titles(self, namespace: str, *, most: int) -> list[str]:
        """Of the documents that the key may read, or their uris, without endings; by id, so in no order of theirs.

        Raises:  CouldNotRun.
        """
        found: list[str] = []
        cursor: str | None = ""
        async with self.session() as session:
            while cursor is not None and len(found) < most:
                params = {"limit": str(PAGE), "cursor": cursor, "state": "indexed"}
                page = await self.ask(session, "GET", documents_path(namespace), params=params)
                found += [one["title"] or one["uri"].rpartition("/")[2].partition(".")[0] for one in page["documents"]]
                cursor = page["next"]
        return found[:most]


def _why(error: Exception) -> str:
    return str(error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error) or type(error).__name__


def documents_path(namespace: str) -> str:
    return f"/v1/namespaces/{quote(namespace, safe='')}/documents"
