"""A reranker that is played: TEI's `/rerank`, by the words that a text shares with the query."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web


@asynccontextmanager
async def reranker() -> AsyncIterator[str]:
    """Its URL, until the block ends."""
    app = web.Application()
    app.add_routes([web.post("/rerank", _rerank)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _rerank(request: web.Request) -> web.Response:
    try:
        body = await request.json()
    except ConnectionError:  # whoever asked has broken off, and hears no answer
        return web.Response(status=400)
    asked = set(body["query"].lower().split())
    scores = [len(asked & set(text.lower().split())) / (1 + len(asked)) for text in body["texts"]]
    return web.json_response([{"index": n, "score": score} for n, score in enumerate(scores)])
