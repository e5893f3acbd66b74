"""An inverted-file index of half-precision vectors, in memory, that many threads search while one changes it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.int64]
Half = NDArray[np.float16]

FLAT_BELOW: Final = 20_000
"""Vectors that are scanned without lists: 1 to 2 ms, exact, and nothing to learn."""

LIST_SIZE: Final = 390
"""Vectors a list holds on average, so that 100,000 vectors have 256 lists."""

PROBED: Final = 0.25
"""Share of the lists that is searched: recall@10 of .99 on sentence embeddings (docs/adr/0002)."""

MOST_PROBED: Final = 128
"""Lists that are searched at most: bounds the cost of a search as the corpus grows."""

SAMPLE: Final = 64
"""Vectors a list is learnt from."""

OUTGROWN: Final = 4.0
"""Growth after which the lists are learnt anew."""


class IvfIndex:
    """Shapes: keys (n,), ascending; vectors (n, dim), of unit length. Scores are inner products in [-1, 1]."""

    def __init__(self, keys: Keys, vectors: Half, dim: int) -> None:
        import faiss  # 0.1 s, and only who has an embedded store pays for it

        faiss.omp_set_num_threads(1)  # a search is short; threads across searches, not inside one
        self._faiss = faiss
        self._dim = dim
        self._lock = _ReadWriteLock()
        self._index = self._build(keys, vectors)
        self._learnt_from = max(len(keys), FLAT_BELOW)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def nearest(self, vector: NDArray[np.float32], top_k: int) -> list[tuple[int, float]]:
        """The `top_k` best keys with their scores, best first."""
        with self._lock.read():
            scores, keys = self._index.search(vector[None, :], top_k)
        return [(int(key), float(score)) for key, score in zip(keys[0], scores[0], strict=True) if key >= 0]

    def nearest_of(self, keys: Sequence[int], vector: NDArray[np.float32], top_k: int) -> list[tuple[int, float]]:
        """The best of `keys`, exactly: every one of them is scored."""
        if not keys:
            return []
        wanted = np.array(keys, np.int64)
        with self._lock.read():
            selector = self._faiss.IDSelectorBatch(wanted)
            everywhere = self._faiss.SearchParametersIVF(sel=selector, nprobe=self._index.nlist)  # type: ignore[call-arg]
            scores, found = self._index.search(vector[None, :], min(top_k, len(keys)), params=everywhere)
        return [(int(key), float(score)) for key, score in zip(found[0], scores[0], strict=True) if key >= 0]

    def replace(self, gone: Sequence[int], keys: Sequence[int], vectors: Half) -> None:
        with self._lock.write():
            if gone:
                self._index.remove_ids(np.array(gone, np.int64))
            if keys:
                self._index.add_with_ids(vectors.astype(np.float32), np.array(keys, np.int64))

    def outgrown(self) -> bool:
        return len(self) > OUTGROWN * self._learnt_from

    def rebuild(self, keys: Keys, vectors: Half) -> None:
        """Learn the lists anew, beside the index that serves. Called by the one writer, so nothing is added meanwhile."""
        fresh = self._build(keys, vectors)
        with self._lock.write():
            self._index = fresh
        self._learnt_from = max(len(keys), FLAT_BELOW)

    def _build(self, keys: Keys, vectors: Half) -> Any:
        faiss = self._faiss
        lists = 1 if len(keys) < FLAT_BELOW else max(1, len(keys) // LIST_SIZE)
        kind = faiss.ScalarQuantizer.QT_fp16
        coarse = faiss.IndexFlatIP(self._dim)
        index = faiss.IndexIVFScalarQuantizer(coarse, self._dim, lists, kind, faiss.METRIC_INNER_PRODUCT, False)
        index.own_fields = True
        coarse.this.disown()
        index.nprobe = max(1, min(MOST_PROBED, round(lists * PROBED)))
        index.cp.niter, index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = 10, SAMPLE, 1
        index.train(_sample(vectors, lists * SAMPLE) if lists > 1 else np.zeros((1, self._dim), np.float32))
        index.set_direct_map_type(faiss.DirectMap.Hashtable)
        for start in range(0, len(keys), 50_000):
            part = slice(start, start + 50_000)
            index.add_with_ids(vectors[part].astype(np.float32), keys[part])
        return index


def _sample(vectors: Half, most: int) -> NDArray[np.float32]:
    if len(vectors) <= most:
        return vectors.astype(np.float32)
    chosen = np.random.default_rng(0).choice(len(vectors), most, replace=False)
    return vectors[np.sort(chosen)].astype(np.float32)


class _ReadWriteLock:
    """Many readers or one writer; a waiting writer goes first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers = 0
        self._writer = False
        self._waiting = 0

    @contextmanager
    def read(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._writer and not self._waiting)
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    @contextmanager
    def write(self) -> Iterator[None]:
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: not self._writer and not self._readers)
            self._waiting -= 1
            self._writer = True
        try:
            yield
        finally:
            with self._changed:
                self._writer = False
                self._changed.notify_all()
