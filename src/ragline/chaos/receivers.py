"""Receivers that are played: of purges, as an edge that speaks Varnish's PURGE, and of webhooks. Each fails when told."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from aiohttp import web

LOOK_S, PURGED_LOOKS = 0.5, 120


class Receivers:
    """`down`: those of ``edge`` and ``webhooks`` that answer 503 now, `refused`: how often each has. `told`: jobs whose end a
    webhook has brought. `unpurged`: keys whose purge was refused, and has not come again.
    """

    def __init__(self) -> None:
        self.down: Collection[str] = ()
        self.refused: Counter[str] = Counter()
        self.told: set[str] = set()
        self.unpurged: set[str] = set()
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

    async def purged(self) -> bool:
        """Whether every purge that was refused has come again, within a while."""
        for _ in range(PURGED_LOOKS):
            if not self.unpurged:
                return True
            await asyncio.sleep(LOOK_S)
        return False

    async def _purge(self, request: web.Request) -> web.Response:
        keys = request.headers["Surrogate-Key"].split()
        if "edge" in self.down:
            self.refused["edge"] += 1
            self.unpurged.update(keys)
            return web.Response(status=503)
        self.unpurged.difference_update(keys)
        return web.Response()

    async def _hook(self, request: web.Request) -> web.Response:
        if "webhooks" in self.down:
            self.refused["webhooks"] += 1
            return web.Response(status=503)
        self.told.add(json.loads(await request.read())["data"]["job_id"])
        return web.Response()
