"""usearch: a graph of vectors over rows in SQLite."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.vector_engines.engine import BUILD_EF, GRAPH_LINKS, SEARCH_EF, vendor
from bench.vector_engines.engines.sqlite_rows import Sidecar


class Usearch(Sidecar):
    """HNSW. Building it takes minutes, so it is saved on `close` and caught up from SQLite on `open`."""

    package = "usearch"

    def load(self) -> None:
        self.index = vendor("usearch.index").Index(
            ndim=self.dim,
            metric="ip",
            dtype="f16",
            connectivity=GRAPH_LINKS,
            expansion_add=BUILD_EF,
            expansion_search=SEARCH_EF,
        )
        last, saved = 0, self.folder / "index"
        if saved.exists():
            self.index.load(str(saved))
            last = int((self.folder / "last_key").read_text())
        live = {key for (key,) in self.sql.execute("SELECT key FROM chunk")}
        self.remove([int(key) for key in self.index.keys if key not in live])
        keys, vectors = self.stored(above=last)
        if len(keys):
            self.index.add(keys, vectors)

    def optimise(self) -> None:
        (last,) = self.sql.execute("SELECT coalesce(max(key), 0) FROM chunk").fetchone()
        (self.folder / "index").unlink(missing_ok=True)
        (self.folder / "last_key").write_text(str(last))
        self.index.save(str(self.folder / "index.new"))
        (self.folder / "index.new").replace(self.folder / "index")

    def close(self) -> None:
        self.optimise()

    def add(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        self.index.add(keys, vectors, threads=1)

    def remove(self, keys: Sequence[int]) -> None:
        if len(keys):
            self.index.remove(np.array(keys, np.uint64))

    def nearest(self, vector: np.ndarray, top_k: int) -> list[tuple[int, float]]:
        found = self.index.search(vector, top_k, threads=1)
        pairs = zip(found.keys.tolist(), found.distances.tolist(), strict=True)
        return [(key, 1 - far) for key, far in pairs if key < 2**63]  # beside add() it may return unset keys

    def nearest_of(self, keys: Sequence[int], vector: np.ndarray, top_k: int) -> list[tuple[int, float]]:
        got = self.index.get(np.array(keys, np.uint64), dtype="f32") if keys else []
        known = [(key, row) for key, row in zip(keys, got, strict=True) if row is not None]  # None: added a moment ago
        return best([key for key, _ in known], np.array([row for _, row in known]) @ vector, top_k) if known else []


def best(keys: Sequence[int], scores: np.ndarray, top_k: int) -> list[tuple[int, float]]:
    order = np.argsort(-scores)[:top_k]
    return [(int(keys[place]), float(scores[place])) for place in order]
