from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ragline.protocols import VectorStore
from ragline.testing.corpus import embedding, embeddings, record
from ragline.testing.vectors import VectorStoreContract
from ragline.types import Scope
from ragline.vectors.faiss import FaissVectorStore

EVERYBODY = Scope()


class TestContract(VectorStoreContract):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Callable[[], VectorStore]:
        return lambda: FaissVectorStore(tmp_path / "vectors")


WRITER = """
import asyncio, sys
from pathlib import Path
from ragline.testing.corpus import DIM, embeddings, record
from ragline.vectors.faiss import FaissVectorStore

async def main(folder, start):
    store = FaissVectorStore(Path(folder))
    await store.create("c", dim=DIM, fields={})
    for number in range(start, start + 10_000):
        rows = [record(f"d{number}", f"common word{number}", ordinal=n) for n in range(3)]
        await store.upsert("c", rows, embeddings(rows))
        print(number, flush=True)
        if number % 3 == 2:
            await store.delete("c", {f"d{number}": 2})
            print(-number, flush=True)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def test_what_was_acknowledged_survives_sigkill(tmp_path: Path) -> None:
    chance = random.Random(13)
    held: set[int] = set()
    gone: set[int] = set()
    for start in range(100_000, 600_000, 100_000):
        acknowledged = _killed_after(chance.randint(1, 12), tmp_path, start)
        held |= {number for number in acknowledged if number > 0}
        gone |= {-number for number in acknowledged if number < 0}
        store = FaissVectorStore(tmp_path)
        try:
            books = await store.contents("c")
            for number in held - gone:
                deleting = number == max(held) and number % 3 == 2  # killed between the delete and its word
                assert books.get((f"d{number}", 1), 3 if deleting else 0) == 3
            assert set(books.values()) <= {3}
            assert not any((f"d{number}", 1) in books for number in gone)
            (number,) = chance.sample(sorted(n for n in held if n % 3 != 2), 1)
            hits = await store.search("c", embedding(f"common word{number}"), top_k=3, scope=EVERYBODY)
            assert {hit.chunk.document for hit in hits} == {f"d{number}"}
            rows = [record(f"after{start}", "common", ordinal=n) for n in range(3)]
            await store.upsert("c", rows, embeddings(rows))
        finally:
            await store.aclose()


def _killed_after(acknowledged: int, folder: Path, start: int) -> list[int]:
    """What a child that writes without end has acknowledged, killed somewhere after so many words of it."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(folder), str(start)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(acknowledged)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
    return [int(line) for line in lines if line.endswith(b"\n")]
