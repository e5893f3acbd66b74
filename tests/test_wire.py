"""The proxy of the crash runs does to connections what it says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from ragline.chaos.wire import Wire
from tests.engines.server import free_port


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    """To a server that says everything again."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionResetError):
            while piece := await reader.read(100):
                writer.write(piece)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, Wire("echo", server.sockets[0].getsockname()[1], port=free_port()) as wire:
        yield wire


async def test_in_silence_connections_stand_and_nothing_passes_until_it_ends(wire: Wire) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"
    silence = asyncio.create_task(wire.silence(0.3))
    await asyncio.sleep(0)
    writer.write(b"b")
    late, late_writer = await asyncio.open_connection("127.0.0.1", wire.port)
    late_writer.write(b"c")
    hearing = [asyncio.create_task(one.readexactly(1)) for one in (reader, late)]
    done, _ = await asyncio.wait([silence, *hearing], return_when=asyncio.FIRST_COMPLETED)
    assert done == {silence}
    assert await asyncio.gather(*hearing) == [b"b", b"c"]
    for end in (writer, late_writer):
        end.close()
        await end.wait_closed()


async def test_a_cut_resets_what_is_open_and_the_next_connection_passes(wire: Wire) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"
    await wire.cut()
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    writer.transport.abort()
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    writer.write(b"b")
    assert await reader.readexactly(1) == b"b"
    writer.close()
    await writer.wait_closed()
