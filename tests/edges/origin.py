"""A gateway on a socket, with what a test of an edge wants to know of it and do to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass
class Origin:
    """`asked`: every path that came so far. A response of which `hold` is told stays, made, until `let_go`."""

    app: ASGIApp
    asked: list[str] = field(default_factory=list)
    held: asyncio.Event = field(default_factory=asyncio.Event)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    hold: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        self.asked.append(scope["path"])
        holding = self.hold > 0
        self.hold -= holding

        async def sent(message: Message) -> None:
            if holding and message["type"] == "http.response.start":
                self.held.set()
                await self.let_go.wait()
            await send(message)

        return await self.app(scope, receive, sent)

    def hold_next(self) -> None:
        self.held.clear()
        self.let_go.clear()
        self.hold = 1


@asynccontextmanager
async def served(app: ASGIApp, port: int) -> AsyncIterator[Origin]:
    origin = Origin(app)
    server = uvicorn.Server(uvicorn.Config(origin, host="127.0.0.1", port=port, log_level="error", lifespan="off"))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield origin
    finally:
        origin.let_go.set()
        server.should_exit = True
        await running
