"""A server on a socket that plays a vendor's: it keeps what it was asked, and answers what the test says.

For the services that cannot run here. Whoever uses it checks each request against the vendor's own types.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

HANG = None
"""As an answer: none, until the client goes."""


@dataclass(frozen=True)
class Asked:
    """A request. Header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True)
class Answer:
    """`body`: bytes as they are, else made JSON."""

    body: object
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    def encoded(self) -> bytes:
        content = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        headers = {"content-type": "application/json", **self.headers, "content-length": str(len(content))}
        lines = [f"HTTP/1.1 {self.status} Played", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + content


@dataclass
class Played:
    """`answer` gives the answer to each request; `bytes` go to the socket as they are, and end the connection."""

    url: str = ""
    answer: Callable[[Asked], Answer | bytes | None] = lambda _: Answer({}, status=404)
    asked: list[Asked] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    wrong: list[AssertionError] = field(default_factory=list)
    """What `answer` found wrong with a request; raised when the server ends."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went: some tests are about that
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        content = await reader.readexactly(int(headers.get("content-length", "0")))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            asked = Asked(method, path, headers, json.loads(content) if content else None)
            self.asked.append(asked)
            self.arrived.set()
            await asyncio.sleep(0)  # others that are on their way are in flight too
            try:
                answer = self.answer(asked)
            except AssertionError as error:
                self.wrong.append(error)
                raise ConnectionError from error
            if answer is HANG:
                await reader.read()
                self.left.set()
                return False
            writer.write(answer.encoded() if isinstance(answer, Answer) else answer)
            await writer.drain()
            return isinstance(answer, Answer)
        finally:
            self.in_flight -= 1


@asynccontextmanager
async def played() -> AsyncIterator[Played]:
    ours = Played()
    server = await asyncio.start_server(ours.handle, "127.0.0.1", 0)
    ours.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield ours
    finally:
        server.close()
    if ours.wrong:
        raise ours.wrong[0]


def nowhere() -> str:
    """An address where nobody listens."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"
