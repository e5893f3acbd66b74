"""Receivers that are played: of purges, as an edge that speaks Varnish's PURGE, and of webhooks. Each fails when told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from aiohttp import web


class Receivers:
    """`down`: those of ``edge`` and ``webhooks`` that answer 503 now. `told`: jobs whose end a webhook has brought."""

    def __init__(self) -> None:
        self.down: Collection[str] = ()
        self.told: set[str] = set()
        self.url = ""
        """Set by `serving`."""

    @property
    def edge(self) -> str:
        """As `edge.url` names it."""
        return f"varnish://{urlsplit(self.url).netloc}"

    @property
    def webhook(self) -> str:
        return f"{self.url}/hook"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Receivers]:
        """Answer until the block ends."""
        app = web.Application()
        app.add_routes([web.route("PURGE", "/", self._purge), web.post("/hook", self._hook)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield self
        finally:
            await runner.cleanup()

    async def _purge(self, request: web.Request) -> web.Response:
        return web.Response(status=503 if "edge" in self.down else 200)

    async def _hook(self, request: web.Request) -> web.Response:
        if "webhooks" in self.down:
            return web.Response(status=503)
        self.told.add(json.loads(await request.read())["data"]["job_id"])
        return web.Response()
