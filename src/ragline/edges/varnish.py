"""Varnish with the module xkey, by the VCL of deploy/varnish (docs/engines/varnish.md).

    varnish://HOST[:PORT][,HOST[:PORT]…]

A purge goes to each address, and all must acknowledge: readers may be sent to any of them. It carries the count `visible`
of its namespace; from then on the VCL stores no answer that was looked for before that, however late it comes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from pydantic import SecretStr

from ragline.edges.asking import Asking, batches, joined, wrong

PORT = 80
MOST_BYTES = 7_500
"""Of a header's value: Varnish reads 8 KiB of a line (`http_req_hdr_len`, `http_resp_hdr_len`)."""
MOST_KEYS = 200
"""In one purge: 200 of our longest keys are 6,600 bytes."""


class VarnishEdge:
    """Raises ConfigurationError: the URL; or a token, which Varnish has no use for."""

    name = "varnish"

    def __init__(self, url: str, *, token: SecretStr | None, timeout_s: float) -> None:
        parts = urlsplit(url)
        places = parts.netloc.split(",")
        if parts.path.strip("/") or parts.query or not all(map(_PLACE.fullmatch, places)):
            raise wrong("that names no Varnish", "write varnish://HOST:PORT, more of them behind commas")
        if token is not None:
            raise wrong(
                "Varnish takes no token", "leave edge.token out, and let the VCL's list of purgers name this machine"
            )
        self._urls = [f"http://{place if _HAS_PORT.search(place) else f'{place}:{PORT}'}/" for place in places]
        step = "Put this machine's address into the list of purgers in site.vcl."
        self._asking = Asking(engine="edge:varnish", timeout_s=timeout_s, refused=step)

    def labels(self, keys: Sequence[str], *, namespace: str, visible: int) -> Mapping[str, str] | None:
        line = joined(keys, " ", most_bytes=MOST_BYTES, most_keys=MOST_BYTES)
        if line is None:
            return None
        return {"Surrogate-Key": line, "Ragline-Namespace": namespace, "Ragline-Visible": str(visible)}

    async def purge(self, keys: Sequence[str], *, namespace: str, visible: int) -> None:
        for part in batches(keys, most=MOST_KEYS):
            headers = {
                "Surrogate-Key": " ".join(part), "Ragline-Namespace": namespace, "Ragline-Visible": str(visible),
            }  # fmt: skip
            # All are asked, also where one fails: the others drop it now.
            told = await asyncio.gather(
                *(self._asking.send("PURGE", url, headers=headers) for url in self._urls), return_exceptions=True
            )
            for one in told:
                if isinstance(one, BaseException):
                    raise one

    async def aclose(self) -> None:
        await self._asking.aclose()


_PLACE = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:@/,\[\]\s]+)(:\d{1,5})?")
_HAS_PORT = re.compile(r":\d+$")
