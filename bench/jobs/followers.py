"""What thousands of SSE clients cost one gateway in memory: the server is a process of its own, the clients are here.

Every client follows a job of its own, over a connection of its own; then each job gets an event, and all must have it.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from pathlib import Path

from bench.figures import Figure
from ragline.clock import SystemClock
from ragline.jobstores.sql import SqlJobStore
from ragline.testing.jobstores import order
from ragline.types import JobLimits, SearchRequest
from tests.engines.postgres import server

ROOM = JobLimits(most=10**9, of_namespace=10**9)
QUESTION = SearchRequest("How do herons fish?", "default", frozenset())


async def run(folder: Path, *, many: int) -> list[Figure]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with server() as postgres:
        url = await postgres.database()
        store = await SqlJobStore.open(url, SystemClock())
        try:
            # The owner's key on loopback: the principal is `owner`.
            jobs = [(await store.accept(order(principal="owner", request=QUESTION), ROOM))[0].id for _ in range(many)]
            return await _followed(url, folder, store, jobs)
        finally:
            await store.aclose()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _followed(url: str, folder: Path, store: SqlJobStore, jobs: list[str]) -> list[Figure]:
    (folder / "ragline.toml").write_text(
        f'data_dir = "{folder / "data"}"\nregistry = "{url}"\n[jobs]\nurl = "{url}"\n', "utf-8"
    )
    program = "from ragline.cli.main import run; run()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, "serve", "--port", "0", "--json", "--config", str(folder / "ragline.toml"),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout
        about = json.loads(await process.stdout.readline())
        port = int(about["url"].rpartition(":")[2])
        before = _resident(process.pid)
        opened = asyncio.Semaphore(20)

        async def one(id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            async with opened:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
                writer.write(f"GET /v1/jobs/{id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                try:
                    await reader.readuntil(b"event: queued")
                except asyncio.IncompleteReadError as error:
                    raise AssertionError(error.partial.decode()) from None
                return reader, writer

        lines = await asyncio.gather(*map(one, jobs))
        held = _resident(process.pid)
        start = time.perf_counter()
        hearing = [asyncio.create_task(reader.readuntil(b"event: retrieving")) for reader, _ in lines]
        while await store.claim("retrieval", most=500, lease_s=3600.0):
            pass
        await asyncio.gather(*hearing)
        took_s = time.perf_counter() - start
        told = _resident(process.pid)
        await asyncio.sleep(20.0)  # a beat: every line gets its comment
        after_beat = _resident(process.pid)
        for _, writer in lines:
            writer.close()
        return [
            Figure("clients", len(lines)),
            Figure("resident before", before, "MiB"), Figure("resident with them", held, "MiB"),
            Figure("resident after an event each", told, "MiB"), Figure("resident after a beat", after_beat, "MiB"),
            Figure("memory a client", (after_beat - before) * 1024 / len(lines), "KiB", at_most=100),
            Figure("an event to all of them", took_s, "s"),
        ]  # fmt: skip
    finally:
        process.terminate()
        await process.wait()


def _resident(pid: int) -> float:
    words = Path(f"/proc/{pid}/status").read_text().split()
    return int(words[words.index("VmRSS:") + 1]) / 1024
