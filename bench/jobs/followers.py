"""What thousands of SSE clients cost one gateway: the server is a process of its own, the clients are here.

Every client follows a job of its own, over a connection of its own. Each job gets an event; then all connections are cut, all
come back at once with the last id they have, and every job ends: each client must have every event of its job, once.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.figures import Figure
from ragline.clock import SystemClock
from ragline.jobstores.sql import SqlJobStore
from ragline.testing.jobstores import done, order
from ragline.types import Job, JobLimits, NewEvent, SearchRequest
from tests.engines.postgres import server

ROOM = JobLimits(most=10**9, of_namespace=10**9)
QUESTION = SearchRequest("How do herons fish?", "default", frozenset())
TOLD = ["queued", "retrieving", "passages", "token", "done"]
"""What every client must have heard in the end."""

OPENED_AT_ONCE = 20
EVENT = re.compile(rb"id: (\d+)\nevent: (\w+)\n")


@dataclass(slots=True)
class Client:
    """`heard`: names of events by their ids, over all its connections.   `twice`: ids that came more than once.
    resets: connections in vain."""

    job: Job
    port: int
    heard: dict[int, str] = field(default_factory=dict)
    twice: int = 0
    resets: int = 0
    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=4096)
        last = f"Last-Event-ID: {max(self.heard)}\r\n" if self.heard else ""
        self.writer.write(f"GET /v1/jobs/{self.job.id}/events HTTP/1.1\r\nHost: localhost\r\n{last}\r\n".encode())
        status = await self.reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in status.partition(b"\r\n")[0]:
            raise AssertionError((status + await self.reader.read(4096)).decode())

    async def hear(self, name: str) -> None:
        """Until an event of this name has come."""
        assert self.reader
        while name not in self.heard.values():
            found = EVENT.search(await self.reader.readuntil(b"\n\n"))
            if found:
                id = int(found[1])
                self.twice += id in self.heard
                self.heard[id] = found[2].decode()

    async def come_back(self) -> None:
        """As an EventSource does: a connection that the system resets, its queue being full, is tried again; a refusal of the
        server's is an error."""
        while True:
            try:
                return await self.open()
            except (ConnectionError, asyncio.IncompleteReadError):
                self.resets += 1
                await asyncio.sleep(1.0)

    def cut(self) -> None:
        assert self.writer
        self.writer.transport.abort()


async def run(folder: Path, *, many: int) -> list[Figure]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with server() as postgres:
        url = await postgres.database()
        store = await SqlJobStore.open(url, SystemClock())
        try:
            # The owner's key on loopback: the principal is `owner`.
            orders = [order(principal="owner", request=QUESTION) for _ in range(many)]
            await asyncio.gather(*(store.accept(one, ROOM) for one in orders))
            jobs: list[Job] = []
            while found := await store.claim("retrieval", most=500, lease_s=3_000.0):  # the server's workers get none
                jobs += found
            return await _followed(url, folder, store, jobs)
        finally:
            await store.aclose()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _followed(url: str, folder: Path, store: SqlJobStore, jobs: list[Job]) -> list[Figure]:
    (folder / "ragline.toml").write_text(
        f'data_dir = "{folder / "data"}"\nregistry = "{url}"\n[jobs]\nurl = "{url}"\n', "utf-8"
    )
    # Begun with the files that a system gives by default: the server must help itself to more.
    program = (
        "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (1024, r.getrlimit(r.RLIMIT_NOFILE)[1])); "
        "from ragline.cli.main import run; run()"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, "serve", "--port", "0", "--json", "--config", str(folder / "ragline.toml"),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout
        about = json.loads(await process.stdout.readline())
        clients = [Client(job, int(about["url"].rpartition(":")[2])) for job in jobs]
        return await _measured(process.pid, store, clients)
    finally:
        process.terminate()
        await process.wait()


async def _measured(pid: int, store: SqlJobStore, clients: list[Client]) -> list[Figure]:
    before = _resident(pid)
    places = asyncio.Semaphore(OPENED_AT_ONCE)

    async def one(client: Client) -> None:
        async with places:
            await client.open()
            await client.hear("retrieving")

    await asyncio.gather(*map(one, clients))
    held = _resident(pid)

    start = time.perf_counter()
    hearing = asyncio.gather(*(client.hear("passages") for client in clients))
    event = NewEvent("passages")
    await asyncio.gather(*(store.append(client.job.id, client.job.attempt, [event]) for client in clients))
    await hearing
    event_s = time.perf_counter() - start
    await asyncio.sleep(20.0)  # a beat: every line gets its comment
    after_beat = _resident(pid)

    for client in clients:
        client.cut()
    start = time.perf_counter()
    await asyncio.gather(*(client.come_back() for client in clients))
    back_s = time.perf_counter() - start
    back = _resident(pid)

    start = time.perf_counter()
    hearing = asyncio.gather(*(client.hear("done") for client in clients))
    await asyncio.gather(*(store.finish(client.job.id, client.job.attempt, done()) for client in clients))
    await hearing
    end_s = time.perf_counter() - start
    for client in clients:
        client.cut()
    wrong = [client for client in clients if client.twice or [client.heard[id] for id in sorted(client.heard)] != TOLD]
    for client in wrong[:5]:
        print(f"{client.job.id}: heard {client.heard}, {client.twice} twice", file=sys.stderr)
    return [
        Figure("clients", len(clients)),
        Figure("resident before", before, "MiB"), Figure("resident with them", held, "MiB"),
        Figure("resident after an event each and a beat", after_beat, "MiB"),
        Figure("memory a client", (after_beat - before) * 1024 / len(clients), "KiB", at_most=100),
        Figure("an event to all of them", event_s, "s"),
        Figure("all back at once", back_s, "s"),
        Figure("connections that the system reset meanwhile", sum(client.resets for client in clients)),
        Figure("resident when they are back", back, "MiB"),
        Figure("the end to all of them", end_s, "s"),
        Figure("clients that lack an event, or had one twice", len(wrong), at_most=0),
    ]  # fmt: skip


def _resident(pid: int) -> float:
    words = Path(f"/proc/{pid}/status").read_text().split()
    return int(words[words.index("VmRSS:") + 1]) / 1024
