"""Children of a process that speaks gRPC, as a worker on Milvus does, come up."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import asyncio, contextlib, os
import uvloop
import ragline
import grpc

async def refused(reader, writer):
    await asyncio.sleep(0.01)
    writer.transport.abort()

async def call(port):
    '''A new connection each time, so that gRPC's own threads are at work.'''
    while True:
        options = [("grpc.initial_reconnect_backoff_ms", 5), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await channel.unary_unary("/a/b")(b"x", timeout=0.2)

async def child():
    process = await asyncio.create_subprocess_exec("/bin/true", start_new_session=True)
    return await process.wait()

async def main():
    server = await asyncio.start_server(refused, "127.0.0.1", 0)
    calls = [asyncio.create_task(call(server.sockets[0].getsockname()[1])) for _ in range(8)]
    codes = [code for _ in range(50) for code in await asyncio.gather(*(child() for _ in range(4)))]
    assert not any(task.done() for task in calls)
    print(codes.count(0), flush=True)
    os._exit(0)

uvloop.run(main())
"""


def test_children_of_a_process_with_grpc_connections_come_up() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=240, check=False)
    assert (ended.returncode, ended.stdout.strip()) == (0, "200"), ended.stderr[-2000:]
    assert "fork" not in ended.stderr
