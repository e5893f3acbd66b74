"""Ingest of plain text through the whole path against the embedder alone on the same texts.

What is missing to 1 is ours: uploads, the registry, parsing, chunking, both stores. Each part of the corpus goes through
both in turn. Then, by thread, where the processor's time went (Linux), what one step costs that some documents take, telling
the language, and what it costs that texts come in an archive.
"""

from __future__ import annotations

import io
import os
import re
import threading
import time
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench.figures import Figure, Ground, median
from bench.ground import ingest, plain_texts, running
from ragline.build import open_embedder
from ragline.chunking import search_text
from ragline.languages import of_document
from ragline.protocols import Embedder
from ragline.system import System
from ragline.types import Namespace, Upload

PART, PARTS = 200, 5
"""Texts of one part: some ten seconds of embedding, so that starting up and draining do not count."""

IN_LONG = 10
"""Texts joined into one document, for what a document of several pages pays."""

IN_ARCHIVE, ARCHIVES = 300, 3
"""Texts in the archive; how often it and the same texts as files take turns."""

LANGUAGE_BYTES, LANGUAGE_ROUNDS = (1_000, 10_000, 100_000), 50

TOLD = 0.01
"""Threads below this share of the processor's time are not told."""


async def run(ground: Ground) -> list[Figure]:
    corpus = ground.collection("scifact") / "corpus.jsonl"
    uploads = plain_texts(corpus, most=PART * (PARTS + 1))
    stamp = f"{time.time_ns():x}"  # a namespace of its own: nothing is unchanged in it
    async with running(ground.work / "ingest-rate") as system:
        raw = await open_embedder(system.settings)
        await ingest(system, f"warm-{stamp}", uploads[PART * PARTS :][:50])
        short = await _against_raw(system, raw, uploads, f"short-{stamp}", note=f"{PART} texts of some 200 tokens")
        joined = [_joined(uploads[n : n + IN_LONG]) for n in range(0, PART * PARTS, IN_LONG)]
        long = await _against_raw(system, raw, joined, f"long-{stamp}", note=f"the same, {IN_LONG} to a document")
        await raw.aclose()
        archives = await _archives(system, uploads[:IN_ARCHIVE], stamp)
    return [
        *short,
        *(replace(figure, name=f"{figure.name}, longer documents") for figure in long[:3]),
        *_language(b"\n\n".join(upload.data for upload in uploads)),
        *archives,
    ]


async def _against_raw(
    system: System, raw: Embedder, uploads: Sequence[Upload], stamp: str, *, note: str
) -> list[Figure]:
    """Each of PARTS parts through the whole path, then its texts through the embedder alone."""
    size = len(uploads) // PARTS
    rates: list[float] = []
    raw_rates: list[float] = []
    costs: list[float] = []
    spent: dict[str, float] = defaultdict(float)
    for n in range(PARTS):
        before, start = cpu_s(), time.perf_counter()
        namespace = await ingest(system, f"part-{n}-{stamp}", uploads[n * size : (n + 1) * size])
        took_s = time.perf_counter() - start
        part = {name: total_s - before.get(name, 0.0) for name, total_s in cpu_s().items()}
        texts = await chunk_texts(system, namespace)
        start_cpu_s = time.process_time()
        raw_rates.append(await raw_rate(raw, texts))
        costs.append((time.process_time() - start_cpu_s) / sum(part.values()))
        rates.append(len(texts) / took_s)
        for name, part_s in part.items():
            spent[name] += part_s
    ratio = median([rate / raw_rate for rate, raw_rate in zip(rates, raw_rates, strict=True)])
    return [
        Figure("ingest / raw embedder", ratio, "×", at_least=0.9, note=f"median of {PARTS} pairs; {note}"),
        Figure("raw / ingest by processor time", median(costs), "×", note="what a busy machine shows as well"),
        Figure("ingest", median(rates), "chunks/s"),
        Figure("raw embedder", median(raw_rates), "chunks/s", note="sorted by length, all threads"),
        *shares(spent),
    ]


def _joined(uploads: Sequence[Upload]) -> Upload:
    return Upload(f"{uploads[0].uri}-and-on.txt", b"\n\n".join(upload.data for upload in uploads))


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


def _language(corpus: bytes) -> list[Figure]:
    of_document(corpus.decode())  # loads the model
    found = []
    for size in LANGUAGE_BYTES:
        text, took_ms = corpus[:size].decode(errors="ignore"), list[float]()
        for _ in range(LANGUAGE_ROUNDS):
            start = time.perf_counter()
            of_document(text)
            took_ms.append(1000 * (time.perf_counter() - start))
        found.append(Figure(f"telling the language of {size // 1000} kB", median(took_ms), "ms"))
    return found


async def _archives(system: System, uploads: Sequence[Upload], stamp: str) -> list[Figure]:
    """Every text was embedded before and is remembered, so that the model, which is the same to both, hides nothing."""
    files = [Upload(upload.uri, upload.data) for upload in uploads]
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.writestr(file.uri, file.data)
    await ingest(system, f"remembered-{stamp}", files)
    took_s: dict[str, list[float]] = defaultdict(list)
    for n in range(ARCHIVES):
        for kind, sent in (("files", files), ("zip", [Upload("all.zip", whole.getvalue())])):
            start = time.perf_counter()
            await ingest(system, f"{kind}-{n}-{stamp}", sent)
            took_s[kind].append(time.perf_counter() - start)
    alone, inside = (len(files) / median(took_s[kind]) for kind in ("files", "zip"))
    note = f"median of {ARCHIVES}; vectors remembered"
    return [
        Figure(f"{len(files)} texts as files", alone, "documents/s", note=note),
        Figure("the same in one zip", inside, "documents/s", note=note),
        Figure("in a zip / as files", inside / alone, "×"),
    ]


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
