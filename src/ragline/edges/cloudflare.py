"""Cloudflare: purges by cache tag, a batch a request (docs/engines/cloudflare.md).

    cloudflare://ZONE_ID

`api`: another address of the API, for tests. Tags are compared without regard to case; ours are lower case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl, urlsplit

from pydantic import SecretStr

from ragline.edges.asking import Asking, batches, joined, secret, wrong

API = "https://api.cloudflare.com/client/v4"
MOST_TAGS = 100
"""In one request, on every plan."""
MOST_BYTES = 16_384
MOST_IN_ANSWER = 1_000
"""Of the Cache-Tag header: 16 KB, about 1,000 tags."""


class CloudflareEdge:
    """Raises ConfigurationError: the URL; no token."""

    name = "cloudflare"

    def __init__(self, url: str, *, token: SecretStr | None, timeout_s: float) -> None:
        parts = urlsplit(url)
        words = dict(parse_qsl(parts.query, keep_blank_values=True))
        if not re.fullmatch(r"[0-9a-f]{32}", parts.netloc) or parts.path.strip("/") or words.keys() - {"api"}:
            raise wrong(
                "that names no zone", "write cloudflare://ZONE_ID, the 32 hexadecimal digits of the zone's overview"
            )
        self._url = f"{words.get('api', API).rstrip('/')}/zones/{parts.netloc}/purge_cache"
        self._headers = {"Authorization": f"Bearer {secret(token, 'Cloudflare')}"}
        self._asking = Asking(engine="edge:cloudflare", timeout_s=timeout_s)

    def labels(self, keys: Sequence[str], *, namespace: str, visible: int) -> Mapping[str, str] | None:
        line = joined(keys, ",", most_bytes=MOST_BYTES, most_keys=MOST_IN_ANSWER)
        return {"Cache-Tag": line} if line is not None else None

    async def purge(self, keys: Sequence[str], *, namespace: str, visible: int) -> None:
        for part in batches(keys, most=MOST_TAGS):
            response = await self._asking.send("POST", self._url, headers=self._headers, body={"tags": part})
            if not _succeeded(response.content):  # it has a word for it beside the status
                raise self._asking.rejected(response.url.host, "did not purge", "See the audit log of the zone.")

    async def aclose(self) -> None:
        await self._asking.aclose()


def _succeeded(content: bytes) -> bool:
    return re.search(rb'"success"\s*:\s*true', content) is not None
