"""The roles on servers: what broker, registry and stores cost beside the embedding, and two embed workers beside one.

    python -m bench.roles --data FOLDER [--documents 100] [--rounds 2]

FOLDER holds `scifact`, as BEIR has it. Every document is ten of its abstracts. PostgreSQL, Kafka, Milvus and Elasticsearch are
started anew, on the same cores as everything else: rates are of all of it together.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from bench.crashes.program import Program
from bench.ground import plain_texts
from bench.processes import cpu_s
from bench.servers import Servers, servers
from ragline.build import open_embedder
from ragline.chunklogs.kafka import KafkaChunkLog
from ragline.settings import EmbedderSettings, Settings
from ragline.types import Upload

IN_DOCUMENT = 10
AT_ONCE = 20
"""Documents in one upload."""

COMMANDS = {"gateway": ("serve",), "parse": ("work", "parse"), "embed": ("work", "embed"), "index": ("work", "index")}
LOOK_S = 3.0
SAMPLED = 30
"""Documents whose chunks the embedder gets alone."""

OF_EMBEDDING_AT_MOST, TWO_AT_LEAST = 0.10, 1.7


class House:
    """Processes over `servers`, each role begun when it is named."""

    def __init__(self, servers: Servers, folder: Path) -> None:
        self._folder = folder
        self._variables = {f"RAGLINE_{name.upper()}": url for name, url in servers.urls.items()}
        self._variables |= {
            "RAGLINE_BLOBS": str(folder / "blobs"), "RAGLINE_LOG_LEVEL": "warning", "RAGLINE_EMBEDDER__THREADS": "1",
        }  # fmt: skip
        (folder / "blobs").mkdir(parents=True, exist_ok=True)

    @asynccontextmanager
    async def running(self, *roles: str) -> AsyncIterator[list[tuple[str, int]]]:
        """What each says of itself: its URL and process id, in the order of `roles`."""
        programs = [
            Program((*COMMANDS[role], "--port", "0", "--json"), self._folder / f"{role}-{n}.log")
            for n, role in enumerate(roles)
        ]
        try:
            for program in programs:
                await program.start(self._variables)
            told = [await program.ready() for program in programs]
            yield [(str(one["url"]), int(one["pid"])) for one in told]
        finally:
            await asyncio.gather(*(program.stop() for program in programs))


async def upload(url: str, documents: Sequence[Upload]) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=300.0, trust_env=False) as http:
        for at in range(0, len(documents), AT_ONCE):
            files = [("file", (one.uri, one.data, "text/plain")) for one in documents[at : at + AT_ONCE]]
            while (
                answer := await http.post("/v1/namespaces/default/documents", files=files)
            ).status_code == httpx.codes.TOO_MANY_REQUESTS:
                await asyncio.sleep(0.5)
            answer.raise_for_status()


async def settled(url: str) -> None:
    """Asked seldom: a scrape asks every server something, and is no part of what is measured."""
    async with httpx.AsyncClient(base_url=url, timeout=300.0, trust_env=False) as http:
        while "documents_waiting 0.0" not in (await http.get("/metrics")).text:
            await asyncio.sleep(LOOK_S)


async def left(log: KafkaChunkLog, topic: str) -> int:
    return sum(lag for (name, _), lag in (await log.lag()).items() if name.endswith(topic))


async def costs(house: House, started: Servers, documents: Sequence[Upload]) -> list[str]:
    """Processor seconds of every process while `documents` go through, beside those of the embedder alone on as many chunks."""
    roles = tuple(COMMANDS)
    async with house.running(*roles) as told:
        pids = dict(started.pids) | {role: pid for role, (_, pid) in zip(roles, told, strict=True)}
        before = {name: cpu_s(pid) for name, pid in pids.items()}
        start = time.perf_counter()
        await upload(told[0][0], documents)
        await settled(told[0][0])
        took_s = time.perf_counter() - start
        spent = {name: cpu_s(pid) - before[name] for name, pid in pids.items()}
        async with httpx.AsyncClient(base_url=told[0][0], timeout=300.0, trust_env=False) as http:
            chunks = int((await http.get("/v1/namespaces/default")).json()["chunks"])
            texts = [text async for text in _texts(http)]
    embedding = await raw(texts) * chunks
    ours = sum(spent[name] for name in started.pids)
    return [
        f"{len(documents)} documents, {chunks} chunks in {took_s:.0f} s; the embedder alone {embedding:.1f} s of processor",
        "| process | s of processor | ÷ the embedder alone |", "|---|---|---|",
        *(f"| {name} | {one:.1f} | {one / embedding:.2f} |" for name, one in spent.items()),
        f"broker, registry and stores: {ours / embedding:.2f} × the embedder alone (aim < {OF_EMBEDDING_AT_MOST}); "
        f"without the stores {(spent['log'] + spent['registry']) / embedding:.2f}",
    ]  # fmt: skip


async def _texts(http: httpx.AsyncClient) -> AsyncIterator[str]:
    """The chunks of some documents."""
    page = (await http.get("/v1/namespaces/default/documents", params={"limit": SAMPLED})).json()
    for one in page["documents"]:
        for chunk in (await http.get(f"/v1/namespaces/default/documents/{one['id']}/chunks")).json()["chunks"]:
            yield chunk["text"]


async def workers(house: House, log: KafkaChunkLog, parts: Iterator[Sequence[Upload]], rounds: int) -> list[str]:
    """Rates of one and of two embed workers of one thread over a backlog, in turns, and of one index worker over what they
    leave; no other role runs meanwhile."""
    rates: Mapping[int, list[float]] = {1: [], 2: []}
    indexed: list[float] = []
    for turn in range(rounds):
        for count in (1, 2) if turn % 2 else (2, 1):
            async with house.running("gateway", "parse") as told:
                await upload(told[0][0], next(parts))
                await _handed_over(log)
            async with house.running(*["embed"] * count):
                rates[count].append(await _rate(log, "doc_chunks"))
            async with house.running("index"):
                indexed.append(await _rate(log, "doc_vectors"))
    one, two = (statistics.median(rates[count]) for count in (1, 2))
    ratio = statistics.median(b / a for a, b in zip(rates[1], rates[2], strict=True))
    return [
        f"one embed worker of one thread {one:.0f} chunks/s, two {two:.0f}: {ratio:.2f} × (aim ≥ {TWO_AT_LEAST}), {rounds} pairs",
        f"one index worker {statistics.median(indexed):.0f} chunks/s",
    ]


async def _rate(log: KafkaChunkLog, topic: str) -> float:
    """Messages a second until none of the topic is left."""
    waiting, start = await left(log, topic), time.perf_counter()
    while await left(log, topic):
        await asyncio.sleep(0.05)
    return waiting / (time.perf_counter() - start)


async def _handed_over(log: KafkaChunkLog) -> None:
    """Until no more chunks come: the documents are small, and parsing them takes no second."""
    seen, since = -1, time.perf_counter()
    while time.perf_counter() - since < 5.0:
        if (now := await left(log, "doc_chunks")) != seen:
            seen, since = now, time.perf_counter()
        await asyncio.sleep(0.2)


async def raw(texts: Sequence[str]) -> float:
    """Processor seconds a text of the embedder alone, in one thread."""
    model = await open_embedder(Settings(embedder=EmbedderSettings(threads=1)))
    try:
        await model.embed(texts[:20], purpose="document")
        start = time.process_time()
        await model.embed(sorted(texts, key=len), purpose="document")
        return (time.process_time() - start) / len(texts)
    finally:
        await model.aclose()


async def run(given: argparse.Namespace) -> list[str]:
    abstracts = plain_texts(given.data / "scifact" / "corpus.jsonl", most=5_000)
    joined = [
        Upload(f"{n}.txt", b"\n\n".join(one.data for one in abstracts[n : n + IN_DOCUMENT]))
        for n in range(0, len(abstracts), IN_DOCUMENT)
    ]
    of_workers = 2 * given.rounds
    size = (len(joined) - given.documents) // of_workers
    parts = (joined[given.documents + n * size : given.documents + (n + 1) * size] for n in range(of_workers))
    with tempfile.TemporaryDirectory(prefix="ragline-roles-") as temporary:
        async with servers(Path(temporary) / "servers") as started:
            house = House(started, Path(temporary))
            lines = await costs(house, started, joined[: given.documents])
            log = KafkaChunkLog(started.urls["log"], tombstones_s=7 * 86_400)
            try:
                return lines + await workers(house, log, parts, given.rounds)
            finally:
                await log.aclose()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.roles", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--documents", type=int, default=100, help="whose cost is measured; the rest is for the workers"
    )
    parser.add_argument("--rounds", type=int, default=2, help="pairs of one worker and two")
    print("\n".join(asyncio.run(run(parser.parse_args()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
