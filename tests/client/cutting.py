"""A TCP proxy that cuts its next connection after a number of bytes of the answer, and lets all later ones pass."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from urllib.parse import urlsplit


class Cutting:
    """`after_bytes` None: nothing is cut.   `cuts`: how many there were.   `taken`: connections."""

    def __init__(self, url: str) -> None:
        self._to_port = urlsplit(url).port
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._passing: set[asyncio.Task[None]] = set()
        self.after_bytes: int | None = None
        self.cuts = 0
        self.taken = 0

    @property
    def url(self) -> str:
        assert self._server
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Cutting:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End every connection, and take none any more."""
        assert self._server
        self._server.close()
        for end in self._ends:
            end.transport.abort()
        await asyncio.gather(*self._passing)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)
        self.taken += 1
        left, self.after_bytes = self.after_bytes, None
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
        ends = {writer, far_writer}
        self._ends |= ends
        asking = asyncio.create_task(_pass(reader, far_writer))
        with contextlib.suppress(OSError):
            while piece := await far_reader.read(1 << 16):
                if left is not None:
                    piece, left = piece[:left], left - len(piece)
                writer.write(piece)
                await writer.drain()
                if left is not None and left < 0:
                    self.cuts += 1
                    break
        # An orderly end, not a reset: that would take back what was sent and not read yet.
        for end in ends:
            end.close()
        await asking
        self._ends -= ends


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(1 << 16):
            writer.write(piece)
            await writer.drain()
    writer.close()
