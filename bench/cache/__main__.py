"""What the hot cache gives, in one run.

    python -m bench.cache http DATA [--seconds 10] [--documents 2000] [--redis redis://HOST:PORT]
    python -m bench.cache look
    python -m bench.cache day [--rate 10] [--hours 24] [--documents 10000] [--edge]

http: hits beside misses, in queries a second, at 8 and 32 callers, on one server and corpus (DATA: a folder as BEIR has them,
such as scifact). look: what one hit costs in CPU, and what of it is the validation. day: Zipf-distributed traffic over 100,000
distinct queries on a simulated clock, 1 % of the documents updated an hour; every result is checked. --edge: the namespace is
public, and an edge stands before it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.cache.corpus import Corpus
from bench.cache.day import TOP_K, Day
from bench.server import command, up
from ragline.caches.memory import MemoryCache
from ragline.caches.redis import RedisCache
from ragline.protocols import Cache
from ragline.settings import CacheSettings
from tests.clock import HandClock
from tests.engines import redis

CALLERS = (8, 32)


@contextmanager
def _redis(given: str | None, folder: Path) -> Iterator[str]:
    if given:
        yield given
        return
    with redis.server(folder, "--appendonly", "no") as ours:
        yield ours.url()


# ── http ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def http(data: Path, *, seconds: float, documents: int, redis_url: str | None) -> None:
    with tempfile.TemporaryDirectory(prefix="ragline-bench-") as temporary:
        work = Path(temporary)
        queries = _collection(data, work, documents)
        with _redis(redis_url, work) as shared:
            print(f"{documents} documents, {len(queries)} distinct queries, top_k {TOP_K}")
            print("tier     callers   miss q/s   p50 ms    hit q/s   p50 ms    hit ÷ miss")
            for tier, url in (("memory", "memory://"), ("redis", shared)):
                for callers in CALLERS:
                    off = _rate(work, "off", queries, callers, seconds)
                    on = _rate(work, url, queries[:200], callers, seconds)
                    ratio = on["rate"] / off["rate"]
                    print(
                        f"{tier:<8} {callers:>7} {off['rate']:>10.0f} {off['p50_ms']:>8.1f} {on['rate']:>10.0f} "
                        f"{on['p50_ms']:>8.1f} {ratio:>12.1f}"
                    )


def _collection(data: Path, work: Path, documents: int) -> list[str]:
    texts = work / "texts"
    texts.mkdir()
    with (data / "corpus.jsonl").open() as lines:
        for _, line in zip(range(documents), lines, strict=False):
            one = json.loads(line)
            (texts / f"{one['_id']}.txt").write_text(f"{one['title']}\n\n{one['text']}")
    with up(work / "data") as server:
        command("ingest", str(texts), "--url", server.url)
    with (data / "queries.jsonl").open() as lines:
        return [json.loads(line)["text"] for line in lines]


def _rate(work: Path, cache: str, queries: Sequence[str], callers: int, seconds: float) -> Mapping[str, float]:
    bodies = work / "bodies.jsonl"
    bodies.write_text("\n".join(json.dumps({"query": query, "top_k": TOP_K}) for query in queries))
    with up(work / "data", env={"RAGLINE_CACHE__URL": cache}) as server:
        _load(server.url, bodies, callers, seconds / 2)  # warm, and filled
        return _load(server.url, bodies, callers, seconds)


def _load(url: str, bodies: Path, callers: int, seconds: float) -> Mapping[str, float]:
    load = [sys.executable, "-m", "bench.serving.load", f"{url}/v1/search", "--bodies", str(bodies)]
    done = subprocess.run(
        [*load, "--callers", str(callers), "--seconds", str(seconds)], capture_output=True, text=True, check=True
    )
    told: dict[str, float] = json.loads(done.stdout)
    return told | {"rate": told["answered"] / told["took_s"]}


# ── look ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def look(redis_url: str | None) -> None:
    """CPU of this process, all threads, for one hit; with the count standing still, and moved before each."""
    with tempfile.TemporaryDirectory(prefix="ragline-bench-") as temporary:
        folder = Path(temporary)
        with _redis(redis_url, folder) as url:
            for name in ("memory", "redis"):
                clock = HandClock()
                cache: Cache = (
                    MemoryCache(clock, entries=10_000, max_bytes=1 << 26)
                    if name == "memory"
                    else RedisCache(url, entries=10_000)
                )
                (folder / name).mkdir()
                settings = CacheSettings(audit_share=0.0, deadline_ms=1_000)
                corpus = await Corpus.open(folder / name, clock, cache, settings)
                await corpus.update([f"d{n}" for n in range(TOP_K)], found_by=["all"])
                clock.move(2)
                found = await corpus.ask("all", top_k=TOP_K)
                assert corpus.tier
                assert found.seen
                await corpus.tier.written()
                count = 2_000
                begun = time.process_time()
                for _ in range(count):
                    assert (await corpus.ask("all", top_k=TOP_K)).cached
                hit_ms = (time.process_time() - begun) / count * 1000
                ids, namespace = list(found.seen.documents), "n"
                begun = time.process_time()
                for _ in range(count):
                    corpus.guard._known.clear()  # as after a commit: the registry is read
                    await corpus.guard.look(namespace, ids)
                read_ms = (time.process_time() - begun) / count * 1000
                begun = time.process_time()
                for _ in range(count):
                    await corpus.guard.look(namespace, ids)
                kept_ms = (time.process_time() - begun) / count * 1000
                print(
                    f"{name}: a hit of {TOP_K} documents {hit_ms:.3f} ms of CPU; validation {kept_ms:.3f} ms, {read_ms:.3f} ms "
                    "where the registry is read (SQLite)"
                )
                await corpus.aclose()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_subparsers(dest="which", required=True)
    one = which.add_parser("http")
    one.add_argument("data", type=Path)
    one.add_argument("--seconds", type=float, default=10.0)
    one.add_argument("--documents", type=int, default=2_000)
    one.add_argument("--redis")
    one = which.add_parser("look")
    one.add_argument("--redis")
    one = which.add_parser("day")
    one.add_argument("--rate", type=float, default=10.0, help="queries a second")
    one.add_argument("--hours", type=float, default=24.0)
    one.add_argument("--documents", type=int, default=10_000)
    one.add_argument("--zipf", type=float, default=1.0, help="exponent")
    one.add_argument("--edge", action="store_true")
    given = parser.parse_args()
    if given.which == "http":
        http(given.data, seconds=given.seconds, documents=given.documents, redis_url=given.redis)
        return 0
    if given.which == "look":
        asyncio.run(look(given.redis))
        return 0
    day = Day(given.rate, given.hours, given.documents, given.zipf)
    return asyncio.run(day.run(edge=given.edge))


if __name__ == "__main__":
    sys.exit(main())
