"""FAISS: inverted lists of vectors over rows in SQLite."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bench.vector_engines.engine import vendor
from bench.vector_engines.engines.sqlite_rows import Sidecar


class ReadWriteLock:
    """Many readers or one writer; a waiting writer goes first."""

    def __init__(self) -> None:
        self.changed, self.readers, self.writers = threading.Condition(), 0, 0
        self.writing = threading.Lock()

    @contextlib.contextmanager
    def read(self) -> Iterator[None]:
        with self.changed:
            self.changed.wait_for(lambda: not self.writers)
            self.readers += 1
        try:
            yield
        finally:
            with self.changed:
                self.readers -= 1
                self.changed.notify_all()

    @contextlib.contextmanager
    def write(self) -> Iterator[None]:
        with self.changed:
            self.writers += 1
            self.changed.wait_for(lambda: not self.readers)
        try:
            with self.writing:
                yield
        finally:
            with self.changed:
                self.writers -= 1
                self.changed.notify_all()


class Faiss(Sidecar):
    """IVF over half-precision vectors. It is filled from SQLite at each start: only what its lists learnt is kept."""

    package = "faiss-cpu"
    lists, probes = 256, 64

    def load(self) -> None:
        self.faiss, self.lock = vendor("faiss"), ReadWriteLock()
        self.faiss.omp_set_num_threads(1)
        kept = self.sql.execute("SELECT value FROM learnt WHERE name = 'centroids'").fetchone()
        centroids = (
            np.frombuffer(kept[0], np.float32).reshape(-1, self.dim) if kept else np.zeros((1, self.dim), np.float32)
        )
        self.index = self._filled(centroids, *self.stored())

    def _filled(self, centroids: np.ndarray, keys: np.ndarray, vectors: np.ndarray) -> Any:
        f = self.faiss
        quantiser = f.IndexFlatIP(self.dim)
        quantiser.add(centroids)
        half = f.ScalarQuantizer.QT_fp16
        index = f.IndexIVFScalarQuantizer(quantiser, self.dim, len(centroids), half, f.METRIC_INNER_PRODUCT, False)
        index.train(centroids)  # learns nothing: the centroids are there, and half precision has no parameters
        index.set_direct_map_type(f.DirectMap.Hashtable)
        if len(keys):
            index.add_with_ids(vectors, keys)
        return index

    def _learnt(self, vectors: np.ndarray) -> np.ndarray:
        """Few vectors: one list, an exact scan."""
        if len(vectors) < 64 * self.lists:
            return np.zeros((1, self.dim), np.float32)
        kmeans = self.faiss.Kmeans(self.dim, self.lists, niter=10, spherical=True, max_points_per_centroid=64, seed=1)
        kmeans.train(vectors)
        return np.array(kmeans.centroids)

    def optimise(self) -> None:
        """Learn the lists again, beside the old ones; what was written meanwhile is caught up under the lock."""
        keys, vectors = self.stored()
        centroids = self._learnt(vectors)
        fresh = self._filled(centroids, keys, vectors)
        self.sql.execute("INSERT OR REPLACE INTO learnt VALUES ('centroids', ?)", (centroids.tobytes(),))
        with self.lock.write():
            late, late_vectors = self.stored(above=int(keys[-1]) if len(keys) else 0)
            if len(late):
                fresh.add_with_ids(late_vectors, late)
            live = {key for (key,) in self.sql.execute("SELECT key FROM chunk")}
            self._forget(fresh, [key for key in keys.tolist() if key not in live])
            self.index = fresh

    def _forget(self, index: Any, keys: Sequence[int]) -> None:
        if len(keys):
            index.remove_ids(np.array(keys, np.int64))

    def add(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        with self.lock.write():
            self._forget(self.index, keys.tolist())  # `optimise` may have read them already
            self.index.add_with_ids(vectors, keys)

    def remove(self, keys: Sequence[int]) -> None:
        with self.lock.write():
            self._forget(self.index, keys)

    def nearest(self, vector: np.ndarray, top_k: int) -> list[tuple[int, float]]:
        with self.lock.read():
            scores, keys = self.index.search(
                vector[None], top_k, params=self.faiss.SearchParametersIVF(nprobe=self.probes)
            )
        return [(int(key), float(score)) for key, score in zip(keys[0], scores[0], strict=True) if key >= 0]

    def nearest_of(self, keys: Sequence[int], vector: np.ndarray, top_k: int) -> list[tuple[int, float]]:
        if not keys:
            return []
        wanted = np.array(keys, np.int64)
        every = self.faiss.SearchParametersIVF(nprobe=self.index.nlist, sel=self.faiss.IDSelectorBatch(wanted))
        with self.lock.read():
            scores, found = self.index.search(vector[None], top_k, params=every)
        return [(int(key), float(score)) for key, score in zip(found[0], scores[0], strict=True) if key >= 0]
