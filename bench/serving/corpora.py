"""Data folders of a given number of chunks, filled through the ingest path.

Chunks are one or two sentences. First come the sentences of real documents, embedded as ever. Where a corpus needs more
than there are, documents are put together from sentences drawn at random, and their vectors are **perturbed copies of real
ones**, drawn at random as well: they cost a search what real ones cost, and say nothing about its quality.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bench.ground import running
from ragline.errors import NotFound
from ragline.protocols import Embedder, Purpose, Vectors
from ragline.sentences import sentences
from ragline.system import System
from ragline.types import Namespace, NamespaceSettings, Space, Upload

NAMESPACE = "bench"
CHUNK_TOKENS = 48
"""One or two sentences."""

A_DOCUMENT = 60
"""Sentences of a document that is put together."""

NOISE = 0.5
"""Length of what is added to a unit vector before it is made one again: cosine .89 to where it came from."""

ACCEPTED_AT_ONCE = 256

MOST_REAL = 40_000
"""Chunks with vectors of their own."""

DONE = "chunks.json"
"""In a folder that is filled: how many chunks it holds, and how many of them are real."""


class Perturbing:
    """An `Embedder` that embeds a document's texts by perturbing vectors of others; queries as ever."""

    def __init__(self, inner: Embedder, real: Vectors) -> None:
        self._inner = inner
        self._real = real
        self._dice = np.random.default_rng(5)

    @property
    def space(self) -> Space:
        return self._inner.space

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Vectors:
        if purpose == "query":
            return await self._inner.embed(texts, purpose=purpose)
        return perturbed(self._real, len(texts), self._dice)

    def token_spans(self, text: str) -> Sequence[tuple[int, int]]:
        return self._inner.token_spans(text)

    async def aclose(self) -> None:
        await self._inner.aclose()


def perturbed(real: Vectors, count: int, dice: np.random.Generator) -> Vectors:
    """Shapes: (count, dim), of unit length."""
    noise = dice.standard_normal((count, real.shape[1]), np.float32)
    noise *= NOISE / np.linalg.norm(noise, axis=1, keepdims=True)
    moved = real[dice.integers(0, len(real), count)] + noise
    unit: Vectors = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    return unit


def fill(folder: Path, data: Path, chunks: int) -> tuple[int, int]:
    """Make the data folder `folder`, unless it is there, and return how many chunks it holds, and how many are real."""
    done = folder / DONE
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        smaller = [one.parent for one in folder.parent.glob(f"*/{DONE}") if _held(one) <= chunks]
        if smaller:  # the beginning is the same, and need not be embedded again
            shutil.copytree(max(smaller, key=lambda one: _held(one / DONE)), folder)
            done.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        done.write_text(json.dumps(asyncio.run(_fill(folder, data, chunks))))
    held, real = json.loads(done.read_text())
    return int(held), int(real)


async def _fill(folder: Path, data: Path, chunks: int) -> tuple[int, int]:
    async with running(folder) as system:
        settings = NamespaceSettings(chunk_tokens=CHUNK_TOKENS, overlap_tokens=0)
        try:
            namespace = await system.namespaces.get(NAMESPACE)
        except NotFound:
            namespace = await system.epochs.create_namespace(NAMESPACE, settings)
        texts = real_texts(data)
        for start in range(0, len(texts), ACCEPTED_AT_ONCE):
            part = [
                Upload(f"real-{start + n}.txt", one.encode())
                for n, one in enumerate(texts[start : start + ACCEPTED_AT_ONCE])
            ]
            await _accept(system, namespace, part)
            if (held := await _settled(system)) >= chunks:
                return held, min(held, MOST_REAL)
            if held >= MOST_REAL:
                break
        real = min(held, MOST_REAL)
        vectors = await _vectors(system)
        system.ingest._embedder = Perturbing(system.embedder, vectors)
        pool, dice, n = [one for text in texts for one in _sentences(text)], random.Random(5), 0
        while (held := await _settled(system)) < chunks:
            print(f"{folder.name}: {held:,} of {chunks:,} chunks", file=sys.stderr, flush=True)
            want = min(ACCEPTED_AT_ONCE, (chunks - held) // A_DOCUMENT + 1)
            made = [
                Upload(f"made-{n + i}.txt", " ".join(dice.choices(pool, k=A_DOCUMENT)).encode()) for i in range(want)
            ]
            n += want
            await _accept(system, namespace, made)
        return held, real


def _held(done: Path) -> int:
    return int(json.loads(done.read_text())[0])


def real_texts(data: Path) -> list[str]:
    """The documents of every collection in `data`, shuffled, so that a small corpus is one of all."""
    found = []
    for corpus in sorted(data.glob("*/corpus.jsonl")):
        for line in corpus.read_text("utf-8").splitlines():
            record = json.loads(line)
            found.append(f"{record.get('title') or ''}\n\n{record['text']}".strip())
    found = [one for one in found if one and one.isascii()]  # texts in English, mostly
    random.Random(5).shuffle(found)
    return found


def questions(data: Path) -> list[str]:
    """The queries of every collection in `data`, shuffled."""
    found = []
    for path in sorted((*data.glob("*/queries.jsonl"), *data.glob("*/questions.jsonl"))):
        for line in path.read_text("utf-8").splitlines():
            record = json.loads(line)
            found.append(str(record.get("text") or record.get("question")))
    found = sorted({one for one in found if one.isascii() and len(one) <= 300})
    random.Random(5).shuffle(found)
    return found


def _sentences(text: str) -> Iterator[str]:
    return (" ".join(text[start:end].split()) for start, end in sentences(text) if 20 <= end - start <= 400)


async def _accept(system: System, namespace: Namespace, uploads: Sequence[Upload]) -> None:
    await asyncio.gather(*(system.ingest.accept(namespace, upload) for upload in uploads))


async def _settled(system: System) -> int:
    """Chunks, once nothing is in work any more."""
    while await system.documents.waiting():
        await asyncio.sleep(0.05)
    return await system.documents.chunks(NAMESPACE)


async def _vectors(system: System) -> Vectors:
    """Those of the real chunks, as the blobs hold them."""
    namespace = await system.namespaces.get(NAMESPACE)
    parts: list[Vectors] = []
    after = ""
    while page := await system.documents.page(NAMESPACE, after=after, most=500, state=None):
        after = page[-1].id
        for one in page:
            if one.live is None or one.live_blob is None or not one.chunks:
                continue
            found = await system.contents.vectors(
                namespace, one, one.live_blob, one.live, system.embedder.space, one.chunks
            )
            if found is not None:
                parts.append(found)
    return np.concatenate(parts)


def main() -> None:
    """python -m bench.serving.corpora FOLDER DATA CHUNKS"""
    start = time.perf_counter()
    print(fill(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])), time.perf_counter() - start)


if __name__ == "__main__":
    main()
