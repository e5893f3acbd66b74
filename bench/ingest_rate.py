"""Ingest of plain text through the whole path against the embedder alone on the same texts.

What is missing to 1 is ours: uploads, the registry, parsing, chunking, both stores. Each part of the corpus goes through
both in turn. Then, by thread, where the processor's time went (Linux).
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.figures import Figure, Ground, median
from bench.ground import ingest, plain_texts, running
from ragline.build import open_embedder
from ragline.chunking import search_text
from ragline.protocols import Embedder
from ragline.system import System
from ragline.types import Namespace

PART, PARTS = 200, 5
"""Documents of one part: some ten seconds of embedding, so that starting up and draining do not count."""

TOLD = 0.01
"""Threads below this share of the processor's time are not told."""


async def run(ground: Ground) -> list[Figure]:
    corpus = ground.collection("scifact") / "corpus.jsonl"
    uploads = plain_texts(corpus, most=PART * (PARTS + 1))
    stamp = f"{time.time_ns():x}"  # a namespace of its own: nothing is unchanged in it
    rates: list[float] = []
    raw_rates: list[float] = []
    costs: list[float] = []
    spent: dict[str, float] = defaultdict(float)
    async with running(ground.work / "ingest-rate") as system:
        raw = await open_embedder(system.settings)
        await ingest(system, f"warm-{stamp}", uploads[PART * PARTS :][:50])
        for n in range(PARTS):
            before, start = cpu_s(), time.perf_counter()
            namespace = await ingest(system, f"part-{n}-{stamp}", uploads[n * PART : (n + 1) * PART])
            took_s = time.perf_counter() - start
            part = {name: total_s - before.get(name, 0.0) for name, total_s in cpu_s().items()}
            texts = await chunk_texts(system, namespace)
            start_cpu_s = time.process_time()
            raw_rates.append(await raw_rate(raw, texts))
            costs.append((time.process_time() - start_cpu_s) / sum(part.values()))
            rates.append(len(texts) / took_s)
            for name, part_s in part.items():
                spent[name] += part_s
        await raw.aclose()
    ratio = median([rate / raw_rate for rate, raw_rate in zip(rates, raw_rates, strict=True)])
    return [
        Figure("ingest / raw embedder", ratio, "×", at_least=0.9, note=f"median of {PARTS} pairs, {PART} texts each"),
        Figure("raw / ingest by processor time", median(costs), "×", note="what a busy machine shows as well"),
        Figure("ingest", median(rates), "chunks/s"),
        Figure("raw embedder", median(raw_rates), "chunks/s", note="sorted by length, all threads"),
        *shares(spent),
    ]


async def raw_rate(embedder: Embedder, texts: Sequence[str]) -> float:
    start = time.perf_counter()
    await embedder.embed(sorted(texts, key=len), purpose="document")
    return len(texts) / (time.perf_counter() - start)


async def chunk_texts(system: System, namespace: Namespace) -> list[str]:
    """What was embedded, read back from the blobs."""
    texts: list[str] = []
    after = ""
    while page := await system.documents.page(namespace.name, after=after, most=500, state=None):
        after = page[-1].id
        for document in page:
            if document.live is None or document.live_blob is None:
                continue
            content = await system.contents.get(namespace, document, document.live_blob, document.live)
            assert content is not None
            for span in content.spans:
                texts.append(search_text(document.title, span.headings, content.text[span.start : span.end]))
    return texts


# ── the processor's time ─────────────────────────────────────────────────────────────────────────────────────────────


def cpu_s() -> dict[str, float]:
    """Processor seconds so far, by thread name without its number; child processes (they parse) as one."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    spent: dict[str, float] = defaultdict(float)
    for task in Path("/proc/self/task").glob("*"):
        took_s, kernel_name = _stat(task)
        spent[re.sub(r"[-_]?\d+$", "", names.get(int(task.name), kernel_name))] += took_s
        for child in (task / "children").read_text().split():
            spent["parser processes"] += _stat(Path("/proc") / child)[0]
    return spent


def _stat(task: Path) -> tuple[float, str]:
    try:
        head, _, rest = (task / "stat").read_text().rpartition(")")
    except OSError:  # it has just ended
        return 0.0, "ended"
    fields = rest.split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), head.partition("(")[2]


def shares(spent: Mapping[str, float]) -> list[Figure]:
    total = sum(spent.values())
    return [
        Figure(f"processor time: {name}", took_s / total, "", note=f"{took_s:.1f} s")
        for name, took_s in sorted(spent.items(), key=lambda item: -item[1])
        if took_s >= TOLD * total
    ]
