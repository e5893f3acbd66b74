"""The long run: sizes × callers, ours and the bare parts in turn; a steady rate beside ingest; frameworks, when asked for.

    python -m bench.serving --data FOLDER [--sizes 10000,100000,1000000] [--callers 1,8,32,64] [--seconds 8]
                            [--frameworks] [--work FOLDER] [--json FILE] [--markdown FILE]

Filling a corpus of a million takes a while: --work keeps it for the next run. Caches of answers: there are none.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from bench import frameworks
from bench.figures import machine
from bench.processes import cpu_s, resident_mib
from bench.server import up
from bench.serving import report
from bench.serving.corpora import NAMESPACE, fill, questions, real_texts
from bench.serving.load import Load
from bench.serving.passages import hand
from ragline.build import open_embedder
from ragline.settings import Settings

RATE = 50.0
"""Requests a second of the steady load."""

STEADY_S = 20.0
WARM_UP_S = 2.0
ROUNDS = 2
"""Times each system is started; the figures are medians, so that a noise of the machine hits all alike."""

WAITING = 128
"""Documents that are kept waiting for a worker while ingest goes flat out: some seconds of work."""

LOOK_S = 0.25
"""Between two looks at how many wait: each costs the server what some searches do."""


@dataclass(frozen=True, slots=True)
class Row:
    """One system under one load. Units: `rate` answers a second, milliseconds, `cpu_ms` of processor a request, MiB."""

    system: str
    chunks: int
    callers: int
    rate: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_ms: float
    resident_mib: float
    errors: int


@dataclass(frozen=True, slots=True)
class Target:
    url: str
    pid: int


def main() -> int:
    given = _arguments()
    with tempfile.TemporaryDirectory(prefix="ragline-serving-") as temporary:
        work: Path = given.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        results = run(given, work)
    _keep(given, results)
    markdown = report.markdown(results)
    if given.markdown:
        given.markdown.write_text(markdown, "utf-8")
    print(markdown)
    return 0


def run(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    sizes = [int(one) for one in given.sizes.split(",")]
    callers = [int(one) for one in given.callers.split(",")]
    results: dict[str, Any] = {
        "machine": machine(),
        "seconds": given.seconds,
        "rounds": ROUNDS,
        "rows": [],
        "corpora": [],
    }
    asked = questions(given.data)
    results["embed_cpu_ms"] = asyncio.run(_embed_cpu_ms(work, asked[:500]))
    bodies = _bodies(work, asked)
    for size in sizes:
        folder = work / f"{size}"
        held, real = fill(folder, given.data, size)
        starts: list[float] = []
        rows: list[Row] = []
        for _ in range(ROUNDS):
            with up(folder) as server:
                starts.append(server.ready_s)
                target = Target(f"{server.url}/v1/search", server.process.pid)
                rows += _under_load("ragline", held, target, bodies, callers, given.seconds)
            with _bare(folder) as target:
                rows += _under_load("bare parts", held, target, bodies, callers, given.seconds)
        results["corpora"].append({"chunks": held, "real": real, "ready_s": median(starts)})
        results["rows"] += [asdict(one) for one in _medians(rows)]
        _keep(given, results)
    if given.steady:
        folder, mine = work / f"{given.steady}", work / "steady"
        fill(folder, given.data, given.steady)
        shutil.rmtree(mine, ignore_errors=True)
        shutil.copytree(folder, mine)  # ingest makes it larger
        results["steady"] = _steady(mine, bodies, given.data, work)
        shutil.rmtree(mine)
        _keep(given, results)
    if given.frameworks:
        held, _ = fill(work / f"{sizes[0]}", given.data, sizes[0])
        rows = _versus(work / f"{sizes[0]}", held, bodies, callers, given.seconds, work / "frameworks")
        results["frameworks"] = [asdict(one) for one in rows]
    return results


def _keep(given: argparse.Namespace, results: dict[str, Any]) -> None:
    """After each part: a run that is cut short keeps what it has."""
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n", "utf-8")


def _versus(
    folder: Path, held: int, bodies: Path, callers: Sequence[int], seconds: float, work: Path
) -> list[Row]:  # fmt: skip
    """All on the passages of `folder`, one round."""
    work.mkdir(parents=True, exist_ok=True)
    handed = asyncio.run(hand(folder, work))
    rows: list[Row] = []
    with up(folder) as server:
        rows += _under_load(
            "ragline", held, Target(f"{server.url}/v1/search", server.process.pid), bodies, callers, seconds
        )
    with _bare(folder) as target:
        rows += _under_load("bare parts", held, target, bodies, callers, seconds)
    for name in frameworks.PATHS:
        with frameworks.served(
            name, corpus=handed.corpus, vectors=handed.vectors, model=handed.model, work=work
        ) as served:
            rows += _under_load(name, held, Target(served.url, served.pid), bodies, callers, seconds)
    return rows


# ── one system under load ────────────────────────────────────────────────────────────────────────────────────────────


def _under_load(
    system: str, chunks: int, target: Target, bodies: Path, callers: Sequence[int], seconds: float
) -> list[Row]:  # fmt: skip
    load(target.url, bodies, "--callers", "4", "--seconds", f"{WARM_UP_S}")
    rows = []
    for count in callers:
        before = cpu_s(target.pid)
        seen = load(target.url, bodies, "--callers", str(count), "--seconds", f"{seconds}")
        cpu_ms = (cpu_s(target.pid) - before) / max(1, seen.answered) * 1000
        rows.append(
            Row(system, chunks, count, seen.rate, seen.p50_ms, seen.p95_ms, seen.p99_ms, cpu_ms,
                resident_mib(target.pid), seen.errors)
        )  # fmt: skip
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def load(url: str, bodies: Path, *options: str) -> Load:
    command = (sys.executable, "-m", "bench.serving.load", url, "--bodies", str(bodies), *options)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout:
        raise RuntimeError(f"no load on {url}: {done.stderr[-500:]}")
    return Load(**json.loads(done.stdout))


def _medians(rows: Sequence[Row]) -> list[Row]:
    """One row for each system, size and number of callers."""
    merged = []
    for system, chunks, callers in dict.fromkeys((one.system, one.chunks, one.callers) for one in rows):
        same = [one for one in rows if (one.system, one.chunks, one.callers) == (system, chunks, callers)]
        rate, p50, p95, p99, cpu, resident = (
            median(values)
            for values in zip(
                *((one.rate, one.p50_ms, one.p95_ms, one.p99_ms, one.cpu_ms, one.resident_mib) for one in same),
                strict=True,
            )
        )
        errors = sum(one.errors for one in same)
        merged.append(Row(system, chunks, callers, rate, p50, p95, p99, cpu, resident, errors))
    return merged


@contextmanager
def _bare(folder: Path) -> Iterator[Target]:
    command = (sys.executable, "-m", "bench.serving.bare", str(folder), NAMESPACE)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield Target(f"{json.loads(process.stdout.readline())['url']}/search", process.pid)
    finally:
        process.terminate()
        process.wait()


def _bodies(work: Path, asked: Sequence[str]) -> Path:
    path = work / "bodies.jsonl"
    bodies = ({"query": one, "namespace": NAMESPACE, "top_k": 10} for one in asked)
    path.write_text("".join(json.dumps(one) + "\n" for one in bodies))
    return path


async def _embed_cpu_ms(work: Path, asked: Sequence[str]) -> float:
    """Processor time of the raw embedder for one query alone."""
    embedder = await open_embedder(Settings(data_dir=work))
    for one in asked[:50]:
        await embedder.embed([one], purpose="query")
    start = time.process_time()
    for one in asked:
        await embedder.embed([one], purpose="query")
    took_s = time.process_time() - start
    await embedder.aclose()
    return took_s / len(asked) * 1000


# ── a steady rate, at rest and beside ingest ─────────────────────────────────────────────────────────────────────────


def _steady(folder: Path, bodies: Path, data: Path, work: Path) -> dict[str, Any]:
    """RATE requests a second at rest; ingest flat out alone; both. And which callbacks held the event loop."""
    watched, rate, seconds = work / "watched.jsonl", f"{RATE}", f"{STEADY_S}"
    program = (sys.executable, "-m", "bench.serving.watched", str(watched))
    found: dict[str, Any] = {"rate": RATE, "seconds": STEADY_S}
    with up(folder) as server:
        url = f"{server.url}/v1/search"
        load(url, bodies, "--callers", "4", "--seconds", f"{WARM_UP_S}")
        found["at rest"] = asdict(load(url, bodies, "--rate", rate, "--seconds", seconds))
        with _ingest(server.url, data) as ingest:
            time.sleep(5.0)
            found["ingest alone, chunks/s"] = ingest.rate(STEADY_S)
            before = ingest.chunks(), time.perf_counter()
            found["beside ingest"] = asdict(load(url, bodies, "--rate", rate, "--seconds", seconds))
            found["ingest beside, chunks/s"] = (ingest.chunks() - before[0]) / (time.perf_counter() - before[1])
        found["resident_mib"] = resident_mib(server.process.pid)
    with up(folder, program=program) as server, _ingest(server.url, data):
        url = f"{server.url}/v1/search"
        time.sleep(5.0)  # start-up is not what is asked here
        begun = time.time()
        load(url, bodies, "--rate", rate, "--seconds", seconds)
        ended = time.time()
    slow = [json.loads(line) for line in watched.read_text().splitlines()]
    slow = [one for one in slow if begun <= one["at"] <= ended]
    found["callbacks over 20 ms"] = len(slow)
    found["callbacks over 20 ms of processor time"] = [one for one in slow if one["cpu_ms"] > 20.0]
    found["longest callbacks"] = sorted(slow, key=lambda one: -float(one["wall_ms"]))[:5]
    return found


class _Ingest:
    def __init__(self, url: str, data: Path) -> None:
        self._url = url
        self._texts = real_texts(data)
        self._stopped = threading.Event()
        self._run = f"{time.time_ns():x}"
        self.thread = threading.Thread(target=self._upload, daemon=True)

    def stop(self) -> None:
        self._stopped.set()
        self.thread.join()

    def chunks(self) -> float:
        """Indexed since the server began."""
        lines = httpx.get(f"{self._url}/metrics", trust_env=False, timeout=60.0).text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("chunks_indexed_total "))

    def rate(self, seconds: float) -> float:
        before, start = self.chunks(), time.perf_counter()
        time.sleep(seconds)
        return (self.chunks() - before) / (time.perf_counter() - start)

    def _upload(self) -> None:
        """Documents of some twenty sentences, none like another, so that each must be embedded."""
        dice, n = random.Random(9), 0
        with httpx.Client(base_url=self._url, trust_env=False, timeout=60.0) as http:
            while not self._stopped.is_set():
                if self._waiting(http) > WAITING:
                    time.sleep(LOOK_S)
                    continue
                files = []
                for _ in range(16):
                    n += 1
                    words = dice.choice(self._texts).split()[:500]
                    marked = " ".join(f"{word} {n}" if i % 12 == 0 else word for i, word in enumerate(words))
                    files.append(("file", (f"{self._run}-{n}.txt", marked.encode(), "text/plain")))
                http.post(f"/v1/namespaces/{NAMESPACE}/documents", files=files)

    def _waiting(self, http: httpx.Client) -> float:
        lines = http.get("/metrics").text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("documents_waiting "))


@contextmanager
def _ingest(url: str, data: Path) -> Iterator[_Ingest]:
    ingest = _Ingest(url, data)
    ingest.thread.start()
    try:
        yield ingest
    finally:
        ingest.stop()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of collections")
    parser.add_argument("--sizes", default="10000,100000,1000000", help="chunks")
    parser.add_argument("--callers", default="1,8,32,64")
    parser.add_argument("--seconds", type=float, default=8.0, help="each load")
    parser.add_argument("--steady", type=int, default=100_000, help="chunks of the steady load; 0: left out")
    parser.add_argument("--frameworks", action="store_true", help="beside LangChain, LlamaIndex, Haystack, txtai")
    parser.add_argument("--work", type=Path, help="folder to keep the corpora in")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
