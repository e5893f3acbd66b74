"""A TCP proxy between the processes under test and one engine: connections are cut at any byte, fall silent, or are slow."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from types import TracebackType

PIECE = 1 << 16

AHEAD = 16
"""Pieces of one direction that are under way at once, while they are slow."""


class Wire:
    """To the server at `to`, host and port. Its own `port` stays the same over cuts, so it may be known before the server
    starts; 0: a free one, which is known from the start on. It is on this machine alone."""

    def __init__(self, name: str, to: tuple[str, int], *, port: int) -> None:
        self.name = name
        self.port = port
        self._to = to
        self._late_s = 0.0
        self._server: asyncio.Server | None = None
        self._holder: socket.socket | None = None
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
        self._close()
        if self._holder:
            self._holder.close()
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    async def cut(self, *, away_s: float = 0.0) -> None:
        """Reset every connection, with whatever is under way on it; for `away_s` seconds none is taken."""
        self.refuse()
        await asyncio.sleep(away_s)
        await self._listen()

    async def silence(self, for_s: float) -> None:
        """Connections stay, and new ones are taken, and nothing passes for `for_s` seconds: as a machine that vanished, or an
        engine that hangs. Then what was held back goes on."""
        self.hold()
        try:
            await asyncio.sleep(for_s)
        finally:
            self._flows.set()

    def hold(self) -> None:
        """The same until `heal`."""
        self._flows.clear()

    def refuse(self) -> None:
        """Reset every connection, and refuse new ones until `heal`."""
        self._close()
        if self._holder is None:
            self._holder = _bound(self.port)  # and nobody listens there: nobody else gets the port meanwhile

    def delay(self, by_s: float) -> None:
        """What is sent to the engine from now on arrives `by_s` seconds later, until `heal`."""
        self._late_s = by_s

    async def heal(self) -> None:
        """Nothing is wrong with it any more. What was held back or is late still goes on, in order."""
        self._late_s = 0.0
        self._flows.set()
        await self._listen()

    async def _listen(self) -> None:
        if self._server is None:
            at = self._holder or _bound(self.port)
            self._holder = None
            self._server = await asyncio.start_server(self._take, sock=at)
            self.port = at.getsockname()[1]

    def _close(self) -> None:
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
        # By `__aexit__` alone it is cancelled; asyncio's streams complain of tasks that are.
        with contextlib.suppress(asyncio.CancelledError):
            await self._carry(reader, writer)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._to)
        except OSError:
            self._ends.discard(writer)
            writer.transport.abort()
            return
        self._ends.add(far_writer)
        if writer.is_closing():  # cut meanwhile
            far_writer.transport.abort()
        await asyncio.gather(self._pass(reader, far_writer, slow=True), self._pass(far_reader, writer))
        self._ends -= {writer, far_writer}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slow: bool = False) -> None:
        """Until one side is done, or cut. `slow`: in the direction in which `delay` holds."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(AHEAD)
        loop = asyncio.get_running_loop()
        reading = asyncio.create_task(self._read(reader, pieces, slow=slow))
        try:
            with contextlib.suppress(OSError):  # cut: that is what this is for
                while piece := (arrived := await pieces.get())[1]:
                    if (early_s := arrived[0] - loop.time()) > 0:
                        await asyncio.sleep(early_s)
                    await self._flows.wait()
                    if writer.is_closing():  # it would be no OSError with every event loop
                        break
                    writer.write(piece)
                    await writer.drain()
            await self._flows.wait()  # an end is not heard either
        finally:
            reading.cancel()
        writer.close()

    async def _read(
        self, reader: asyncio.StreamReader, pieces: asyncio.Queue[tuple[float, bytes]], *, slow: bool
    ) -> None:
        """Each piece with the time at which it may go on; an empty one at the end."""
        loop, piece = asyncio.get_running_loop(), b"?"
        while piece:
            try:
                piece = await reader.read(PIECE)
            except OSError:
                piece = b""
            await pieces.put((loop.time() + (self._late_s if slow else 0.0), piece))


def _bound(port: int) -> socket.socket:
    """On loopback, without listening: who connects is refused."""
    at = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        at.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        at.bind(("127.0.0.1", port))
    except OSError:
        at.close()
        raise
    return at
