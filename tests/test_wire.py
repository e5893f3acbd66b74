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
    async with server, Wire("echo", server.sockets[0].getsockname()[:2], port=free_port()) as wire:
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


async def test_while_it_refuses_nobody_is_taken_and_healed_it_is_the_same_port(wire: Wire) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    port = wire.port
    wire.refuse()
    wire.refuse()
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    writer.transport.abort()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    await wire.heal()
    await wire.heal()
    assert wire.port == port
    assert await _echoed(port, b"a") == b"a"


async def test_what_is_late_comes_later_and_in_order_and_healed_nothing_new_is_late(wire: Wire) -> None:
    ends = [await asyncio.open_connection("127.0.0.1", wire.port) for _ in range(2)]
    (reader, writer), (late, late_writer) = ends
    wire.delay(0.05)
    for piece in (b"a", b"b", b"c"):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.01)
    assert await reader.readexactly(3) == b"abc"
    wire.delay(3600)
    late_writer.write(b"d")
    hearing = asyncio.create_task(late.read(1))
    await asyncio.wait([hearing], timeout=0.2)
    await wire.heal()
    writer.write(b"e")
    assert await reader.readexactly(1) == b"e"
    assert not hearing.done()
    wire.refuse()
    with pytest.raises(ConnectionResetError):
        await hearing
    for _, end in ends:
        end.transport.abort()


async def test_gone_it_takes_nobody_and_leaves_no_task(wire: Wire) -> None:
    tasks = asyncio.all_tasks()
    async with Wire("second", ("127.0.0.1", wire.port), port=0) as second:
        assert await _echoed(second.port, b"a") == b"a"
        reader, writer = await asyncio.open_connection("127.0.0.1", second.port)
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    writer.transport.abort()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", second.port)
    while left := {task for task in asyncio.all_tasks() - tasks if not task.done()}:
        await asyncio.wait(left, timeout=0.01)


async def _echoed(port: int, piece: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(piece)
        return await reader.readexactly(len(piece))
    finally:
        writer.close()
        await writer.wait_closed()
