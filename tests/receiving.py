"""Real receivers of webhooks on loopback, which verify by the library of the specification, and may do all that receivers do."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from standardwebhooks.webhooks import Webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """`body`: what follows the head. `then`: `close`; `keep` the connection, whatever the client says; `hang`: nothing more,
    until the client goes; `endless`: the body again and again; `break`: closed before a word."""

    status: int = 204
    headers: tuple[str, ...] = ()
    body: bytes = b""
    then: str = "close"


@dataclass(frozen=True, slots=True)
class Got:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str = SECRET) -> Any:
        """The event. Raises WebhookVerificationError."""
        return Webhook(secret).verify(self.body, self.headers)


@dataclass
class Receiver:
    """`answers`: one request each; the last one stays."""

    port: int
    answers: list[Answer] = field(default_factory=lambda: [Answer()])
    got: list[Got] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    """That clients asked for, of each TLS connection."""
    sent_bytes: int = 0
    came: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, path: str = "/hook", *, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    async def until(self, holds: Callable[[], bool]) -> None:
        """Until what has come is enough."""
        async with asyncio.timeout(WITHIN_S):
            while not holds():
                self.came.clear()
                await self.came.wait()


@asynccontextmanager
async def receiving(
    *answers: Answer, at: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    ours = Receiver(0, list(answers) or [Answer()])
    handlers: set[asyncio.Task[None]] = set()
    if tls is not None:
        tls.sni_callback = lambda _socket, name, _context: ours.names.append(name)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        handlers.add(task)
        task.add_done_callback(handlers.discard)
        try:
            while await _one(ours, reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            return  # the client went: some tests are about that
        finally:
            writer.close()

    server = await asyncio.start_server(serve, at, port, ssl=tls)
    ours.port = server.sockets[0].getsockname()[1]
    try:
        yield ours
    finally:
        server.close()
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


async def _one(ours: Receiver, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether another request may come on this connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    answer = ours.answers.pop(0) if len(ours.answers) > 1 else ours.answers[0]
    ours.got.append(Got(head[0].split(" ")[1], headers, body))
    ours.came.set()
    if answer.then == "break":
        return False
    if answer.then == "hang" and not answer.status:
        await reader.read()  # until the client goes
        return False
    lines = [f"HTTP/1.1 {answer.status} .", *answer.headers]
    if answer.then in ("close", "keep"):
        lines += [f"Content-Length: {len(answer.body)}"] if answer.status != 204 else []
    lines += [] if answer.then == "keep" else ["Connection: close"]
    writer.write("\r\n".join([*lines, "", ""]).encode() + answer.body)
    await writer.drain()
    while answer.then == "endless":
        writer.write(answer.body)
        ours.sent_bytes += len(answer.body)
        await writer.drain()
    if answer.then == "hang":
        await reader.read()
    return answer.then == "keep"


HANGS = Answer(0, then="hang")
