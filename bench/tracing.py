"""What traces and logs cost a search: `python -m bench.tracing [--pairs 40] [--searches 200]`.

One system and one app without any of it, one with traces at 1 %, sent to a collector in another process, and JSON logs. They take
turns, in random order within a pair, so that whatever else the machine does meets both. Prints the processor time of this process
for each search and the ratio of the pairs: median, and the middle half. Metrics are in both: they cannot be turned off.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import statistics
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path

import httpx

from ragline import logs
from ragline.api.app import gateway
from ragline.build import build
from ragline.settings import CacheSettings, Settings, TracesSettings
from ragline.system import System
from ragline.types import Upload

OWNER = "owner"
WORDS = "heron crane stork ibis egret bittern spoonbill flamingo pelican cormorant".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--searches", type=int, default=200, help="of each kind, in each pair")
    parser.add_argument("--ratio", type=float, default=0.01, help="traces.sample_ratio")
    given = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    collector = multiprocessing.get_context("spawn").Process(target=_collect, args=(theirs,), daemon=True)
    collector.start()
    try:
        asyncio.run(_measure(given.pairs, given.searches, given.ratio, f"http://127.0.0.1:{ours.recv()}"))
    finally:
        collector.terminate()
        collector.join()


async def _measure(pairs: int, searches: int, ratio: float, url: str) -> None:
    logs.configure("info")
    with tempfile.TemporaryDirectory() as folder:
        plain = await _Served.open(Path(folder, "plain"), TracesSettings())
        traced = await _Served.open(Path(folder, "traced"), TracesSettings(url=url, sample_ratio=ratio))
        for one in (plain, traced):
            await one.cost_ms(searches)  # warm
        off: list[float] = []
        on: list[float] = []
        for _ in range(pairs):
            turns = [(plain, off), (traced, on)]
            random.shuffle(turns)
            for served, costs in turns:
                costs.append(await served.cost_ms(searches))
        await plain.aclose()
        await traced.aclose()
    ratios = sorted(b / a for a, b in zip(off, on, strict=True))
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(json.dumps({
        "pairs": pairs, "searches": searches, "sample_ratio": ratio, "off_ms": round(statistics.median(off), 3),
        "on_ms": round(statistics.median(on), 3), "ratio": round(middle, 4), "middle_half": [round(low, 4), round(high, 4)],
    }))  # fmt: skip


class _Served:
    def __init__(self, system: System, client: httpx.AsyncClient) -> None:
        self._system = system
        self._client = client

    @classmethod
    async def open(cls, folder: Path, traces: TracesSettings) -> _Served:
        await asyncio.to_thread(folder.mkdir)
        system = await build(Settings(data_dir=folder, traces=traces, cache=CacheSettings(url="off")))
        namespace = await system.namespaces.get("default")
        for n, word in enumerate(WORDS):
            await system.ingest.accept(
                namespace, Upload(f"{n}.md", f"# {word}\n\nThe {word} waits for a fish.".encode())
            )
        while claimed := await system.claims.claim(most=100, lease_s=600.0):
            for document in claimed:
                await system.ingest.process(document)
        transport = httpx.ASGITransport(gateway(system, owner_token=OWNER))
        headers = {"Authorization": f"Bearer {OWNER}"}
        return cls(system, httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers))

    async def cost_ms(self, searches: int) -> float:
        """Of the processor, for one search; all threads of this process."""
        began = time.process_time()
        for n in range(searches):
            body = {"query": f"{WORDS[n % len(WORDS)]} {random.random()}"}
            (await self._client.post("/v1/search", json=body)).raise_for_status()
        return (time.process_time() - began) * 1000 / searches

    async def aclose(self) -> None:
        await self._client.aclose()
        await self._system.aclose()


def _collect(port: Connection) -> None:
    class Takes(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Takes)
    port.send(server.server_port)
    server.serve_forever()


if __name__ == "__main__":
    main()
