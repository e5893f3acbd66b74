"""A TCP proxy between the processes under test and one engine: connections are cut at any byte, or fall silent."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from types import TracebackType

PIECE = 1 << 16


class Wire:
    """To a server on this machine. `port` stays the same over cuts, so it may be known before the server starts."""

    def __init__(self, name: str, to_port: int, *, port: int) -> None:
        self.name = name
        self.port = port
        self._to_port = to_port
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._passing: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()

    async def __aenter__(self) -> Wire:
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    async def cut(self, *, away_s: float = 0.0) -> None:
        """Reset every connection, with whatever is under way on it; for `away_s` seconds none is taken."""
        await self._close()
        await asyncio.sleep(away_s)
        await self._listen()

    async def silence(self, for_s: float) -> None:
        """Connections stay, and new ones are taken, and nothing passes for `for_s` seconds: as a machine that vanished, or an
        engine that hangs. Then what was held back goes on."""
        self._flows.clear()
        try:
            await asyncio.sleep(for_s)
        finally:
            self._flows.set()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", self.port)

    async def _close(self) -> None:
        if self._server:
            self._server.close()
            self._server = None
        for end in self._ends:
            # A reset, not an orderly end: what was sent and not read is lost.
            if not end.is_closing():
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.transport.abort()
        self._ends.clear()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)
        self._ends.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            writer.transport.abort()
            return
        self._ends.add(far_writer)
        await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))
        self._ends -= {writer, far_writer}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until one side is done, or cut."""
        with contextlib.suppress(OSError):  # cut: that is what this is for
            while piece := await reader.read(PIECE):
                await self._flows.wait()
                writer.write(piece)
                await writer.drain()
        await self._flows.wait()  # an end is not heard either
        writer.close()
