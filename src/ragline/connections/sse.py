"""Server-sent events as models' servers stream them: the lines, whatever way the bytes are cut."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import httpx

MAX_LINE_CHARS = 1 << 20
"""A longer line is no token; it would only fill the memory."""


async def lines(response: httpx.Response) -> AsyncGenerator[str, None]:
    """Lines as they arrive. Unlike httpx's, an endless one ends, and U+2028, which JSON may hold, ends none.

    A line over MAX_LINE_CHARS is the last: whoever reads it gives up.
    """
    held = ""
    async for text in response.aiter_text():
        *whole, held = (held + text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for line in whole:
            yield line
        if len(held) > MAX_LINE_CHARS:
            yield held
            return
    if held:
        yield held
