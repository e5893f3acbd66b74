"""Fastly: purges by surrogate key, a batch a request (docs/engines/fastly.md).

    fastly://SERVICE_ID[?soft=true]

`soft`: what is purged may still serve while it is fetched anew, if the service says so (stale-while-revalidate): quicker
for readers, and not what "0 old answers" means. `api`: another address of the API, for tests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl, urlsplit

from pydantic import SecretStr

from ragline.edges.asking import Asking, batches, joined, secret, wrong

API = "https://api.fastly.com"
MOST_KEYS = 256
"""In one batch."""
MOST_BYTES = 16_384
"""Of the Surrogate-Key header; what is behind is left out."""


class FastlyEdge:
    """Raises ConfigurationError: the URL; no token."""

    name = "fastly"

    def __init__(self, url: str, *, token: SecretStr | None, timeout_s: float) -> None:
        parts = urlsplit(url)
        words = dict(parse_qsl(parts.query, keep_blank_values=True))
        if not re.fullmatch(r"[A-Za-z0-9]+", parts.netloc) or parts.path.strip("/") or words.keys() - {"soft", "api"}:
            raise wrong("that names no service", "write fastly://SERVICE_ID, and behind it ?soft=true if you mean it")
        if words.get("soft", "false") not in ("true", "false"):
            raise wrong("soft is true or false", "write ?soft=true, or leave it out")
        self._url = f"{words.get('api', API).rstrip('/')}/service/{parts.netloc}/purge"
        self._headers = {"Fastly-Key": secret(token, "Fastly"), "Accept": "application/json"}
        if words.get("soft") == "true":
            self._headers["Fastly-Soft-Purge"] = "1"
        self._asking = Asking(engine="edge:fastly", timeout_s=timeout_s)

    def labels(self, keys: Sequence[str], *, namespace: str, visible: int) -> Mapping[str, str] | None:
        line = joined(keys, " ", most_bytes=MOST_BYTES, most_keys=MOST_BYTES)
        return {"Surrogate-Key": line} if line is not None else None

    async def purge(self, keys: Sequence[str], *, namespace: str, visible: int) -> None:
        for part in batches(keys, most=MOST_KEYS):
            await self._asking.send("POST", self._url, headers=self._headers, body={"surrogate_keys": part})

    async def aclose(self) -> None:
        await self._asking.aclose()
