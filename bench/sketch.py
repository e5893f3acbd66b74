"""The embedded vector index: recall and processor time of a search, as shipped and with other shares of lists, docs/adr/0002.

    python -m bench.sketch --data FOLDER [--size 100000] [--questions 400] [--work FOLDER]

FOLDER holds collections as BEIR has them; the corpus is that of `bench.serving` (real sentences, then perturbed copies of
real vectors). Recall is against the exact scan of the same half-precision vectors. One thread.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.serving.corpora import NAMESPACE, fill, questions
from ragline.build import open_embedder
from ragline.clock import SystemClock
from ragline.connections.database import Database, sqlite_url
from ragline.protocols import Vectors
from ragline.registry.migrations import SCHEMA
from ragline.registry.namespaces import Namespaces
from ragline.settings import Settings
from ragline.vectors.faiss_collection import Collection
from ragline.vectors.faiss_index import MOST_PROBED, PROBED, IvfIndex

TOP_K = 50
SHARES = (PROBED / 2, PROBED, 2 * PROBED)


def main() -> int:
    given = _arguments()
    with tempfile.TemporaryDirectory(prefix="ragline-sketch-") as temporary:
        folder: Path = (given.work or Path(temporary)) / f"{given.size}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        held, _ = fill(folder, given.data, given.size)
        name, asked = asyncio.run(_opened(folder, questions(given.data)[: given.questions]))
        collection = Collection(folder / "vectors" / name, asked.shape[1])
        collection.tend()
        _report(collection._index, asked, held)
        collection.close()
    return 0


async def _opened(folder: Path, asked: list[str]) -> tuple[str, Vectors]:
    """The collection's name, and the questions' vectors."""
    database = await Database.open(sqlite_url(folder / "registry.sqlite"), SCHEMA)
    epoch = (await Namespaces(database, SystemClock()).get(NAMESPACE)).epoch
    await database.aclose()
    embedder = await open_embedder(Settings(data_dir=folder))
    vectors = np.concatenate([await embedder.embed([one], purpose="query") for one in asked])
    await embedder.aclose()
    return epoch.vectors, vectors


def _report(index: IvfIndex, asked: Vectors, held: int) -> None:
    sketch = index._sketch
    if sketch is None:
        print(f"{held:,} chunks are scanned without a sketch.")
        return
    exact = [[key for key, _ in _scan(index, vector)] for vector in asked]
    print(f"{held:,} chunks, {sketch.nlist} lists, {len(asked)} questions\n")
    print("| lists searched | CPU ms a search | recall@10 | recall@50 |\n|---|---|---|---|")
    for share in SHARES:
        sketch.nprobe = max(1, min(round(MOST_PROBED * share / PROBED), round(sketch.nlist * share)))
        start = time.process_time()
        found = [[key for key, _ in index.nearest(vector, TOP_K)] for vector in asked]
        cpu_ms = (time.process_time() - start) / len(asked) * 1000
        print(f"| {sketch.nprobe} | {cpu_ms:.2f} | {_recall(found, exact, 10):.3f} | {_recall(found, exact, 50):.3f} |")
    start = time.process_time()
    for vector in asked[:50]:
        _scan(index, vector)
    print(f"| all, without the sketch | {(time.process_time() - start) / 50 * 1000:.2f} | 1 | 1 |")


def _scan(index: IvfIndex, vector: Vectors) -> list[tuple[int, float]]:
    sketch, index._sketch = index._sketch, None
    try:
        return index.nearest(vector, TOP_K)
    finally:
        index._sketch = sketch


def _recall(found: list[list[int]], exact: list[list[int]], at: int) -> float:
    return float(np.mean([len(set(a[:at]) & set(b[:at])) / at for a, b in zip(found, exact, strict=True)]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of collections")
    parser.add_argument("--size", type=int, default=100_000, help="chunks")
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--work", type=Path, help="folder to keep the corpus in")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
