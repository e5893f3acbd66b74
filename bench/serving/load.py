"""A load generator for one POST route, cheap enough to share two cores with the server: plain sockets, kept alive.

    python -m bench.serving.load URL --bodies FILE --callers 8 --seconds 10 [--rate 50]

Without --rate, each caller sends its next request when the last is answered (closed loop). With it, requests are begun at
that rate, by the clock, whatever the server does, and latency counts from when each was due (open loop): a server that
stands still is seen by all that were due meanwhile. Prints one line of JSON. A run of its own process, so that its
interpreter lock is not the server's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

LIMIT_S = 60.0
"""A request without an answer for so long counts as an error."""


@dataclass(frozen=True, slots=True)
class Load:
    """What was seen. Units: `took_s` seconds, latencies milliseconds. `errors`: not 200, or cut off."""

    answered: int
    errors: int
    took_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    most_ms: float

    @property
    def rate(self) -> float:
        return self.answered / self.took_s


class Connection:
    """One kept-alive connection, one request at a time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._head = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n".encode()
        )
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, body: bytes) -> bool:
        """Whether it was answered with 200. A kept connection that the server has closed meanwhile is opened anew, once."""
        kept = self._streams is not None
        try:
            async with asyncio.timeout(LIMIT_S):
                return await self._post(body)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.close()
            return kept and not isinstance(error, TimeoutError) and await self.post(body)

    async def _post(self, body: bytes) -> bool:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port, limit=1 << 20)
        reader, writer = self._streams
        writer.write(self._head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        _, found, rest = head.partition(b"content-length:")
        if found:
            await reader.readexactly(int(rest.partition(b"\r\n")[0]))
        else:  # chunked
            while size := int((await reader.readline()).strip(), 16):
                await reader.readexactly(size + 2)
            await reader.readline()
        if b"connection: close" in head:
            self.close()
        return head.startswith(b"http/1.1 200")

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def closed_loop(url: str, bodies: Sequence[bytes], *, callers: int, seconds: float) -> Load:
    """Each caller goes through `bodies` from a place of its own."""
    took_ms: list[float] = []
    errors = 0
    begun = time.perf_counter()

    async def caller(n: int) -> None:
        nonlocal errors
        connection, at = Connection(url), n * len(bodies) // callers
        while (start := time.perf_counter()) - begun < seconds:
            if await connection.post(bodies[at % len(bodies)]):
                took_ms.append((time.perf_counter() - start) * 1000)
            else:
                errors += 1
            at += 1
        connection.close()

    await asyncio.gather(*(caller(n) for n in range(callers)))
    return _load(took_ms, errors, time.perf_counter() - begun)


async def open_loop(url: str, bodies: Sequence[bytes], *, rate: float, seconds: float) -> Load:
    """As many connections as are needed."""
    took_ms: list[float] = []
    errors = 0
    idle: list[Connection] = []
    begun = time.perf_counter()

    async def one(due: float, body: bytes) -> None:
        nonlocal errors
        connection = idle.pop() if idle else Connection(url)
        if await connection.post(body):
            took_ms.append((time.perf_counter() - due) * 1000)
        else:
            errors += 1
        idle.append(connection)

    async with asyncio.TaskGroup() as group:
        for n in range(round(rate * seconds)):
            due = begun + n / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(one(due, bodies[n % len(bodies)]))
    took_s = time.perf_counter() - begun
    for connection in idle:
        connection.close()
    return _load(took_ms, errors, took_s)


def _load(took_ms: Sequence[float], errors: int, took_s: float) -> Load:
    if not took_ms:
        return Load(0, errors, took_s, *(float("nan"),) * 4)
    p50, p95, p99, most = (float(x) for x in np.percentile(took_ms, (50, 95, 99, 100)))
    return Load(len(took_ms), errors, took_s, p50, p95, p99, most)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--bodies", type=Path, required=True, help="a JSON body a line")
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, help="requests a second, begun by the clock")
    given = parser.parse_args()
    bodies = given.bodies.read_bytes().splitlines()
    if given.rate:
        load = asyncio.run(open_loop(given.url, bodies, rate=given.rate, seconds=given.seconds))
    else:
        load = asyncio.run(closed_loop(given.url, bodies, callers=given.callers, seconds=given.seconds))
    print(json.dumps(asdict(load)))
    return int(load.errors > 0)


if __name__ == "__main__":
    sys.exit(main())
