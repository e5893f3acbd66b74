"""Vectors in memory that many threads search while one changes them: exact, and found through a sketch of them.

vectors   each in half precision, by its key: a small collection is scanned, of a large one the candidates are scored
sketch    4 bits for every two dimensions, in inverted lists: finds the candidates for a tenth of what a scan costs
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
import structlog
from numpy.typing import NDArray

log = structlog.get_logger()

Keys = NDArray[np.int64]
Half = NDArray[np.float16]
Found = list[tuple[int, float]]

FLAT_BELOW: Final = 20_000
"""Vectors that are scanned without a sketch: at most 1 ms, exact, and nothing to learn."""

LIST_SIZE: Final = 390
"""Vectors a list holds on average, so that 100,000 vectors have 256 lists."""

PROBED: Final = 0.5
"""Share of the lists that is searched, and the most of them: recall@10 of .99 on sentence embeddings (docs/adr/0002)."""

MOST_PROBED: Final = 256
"""Bounds the cost of a search as the corpus grows."""

CANDIDATES, LEAST_CANDIDATES = 4, 150
"""Candidates that are scored exactly: so many times top_k, and at least so many."""

SAMPLE: Final = 64
"""Vectors a list is learnt from."""

OUTGROWN: Final = 4.0
"""Growth after which the sketch is learnt anew."""

CROWDED: Final = 0.25
"""Share of the vectors that may be gone and still stand in the sketch, before it is made anew."""

UNKEPT: Final = 0.1
"""Share of the vectors that may have come and gone since the sketch was kept; the next start works them in, 25 µs each."""

PART: Final = 50_000
"""Vectors widened to single precision at a time."""


class IvfIndex:
    """Shapes: keys (n,); vectors (n, dim), of unit length. Scores are inner products in [-1, 1].

    `kept`: the file that holds the sketch from one start to the next. A key always means the same vector, so an old one is
    brought up to date by what has come and gone since; one that cannot be read is learnt anew.
    """

    def __init__(self, parts: Iterable[tuple[Keys, Half]], dim: int, kept: Path) -> None:
        import faiss  # 0.1 s, and only who has an embedded store pays for it

        faiss.omp_set_num_threads(1)  # a search is short; threads across searches, not inside one
        self._faiss = faiss
        self._dim = dim
        self._kept = kept
        self._lock = _ReadWriteLock()
        self._vectors = self._empty()
        for keys, vectors in parts:
            self._vectors.add_with_ids(vectors.astype(np.float32), keys)
        self._sketch: Any = None
        self._gone: set[int] = set()
        """Keys that still stand in the sketch: what FAISS adds to such lists after a removal is spoilt, so nothing is removed."""
        self._learnt_from = 0
        self._unkept = 0
        self._recall()

    def __len__(self) -> int:
        return int(self._vectors.ntotal)

    def nearest(self, vector: NDArray[np.float32], top_k: int) -> Found:
        """The `top_k` best keys with their scores, best first."""
        with self._lock.read():
            if self._sketch is None:
                scores, keys = self._vectors.search(vector[None, :], top_k)
                return _pairs(keys[0], scores[0])
            candidates = self._candidates(vector, top_k)
            rows = self._vectors.reconstruct_batch(candidates)
        scores = np.einsum("ij,j->i", rows, vector)  # row by row, so that equal vectors have equal scores
        best = np.argsort(-scores, kind="stable")[:top_k]
        return [(candidates[i], float(scores[i])) for i in best]

    def scan(self, vector: NDArray[np.float32], top_k: int) -> Found:
        """The same without the sketch: every vector is scored."""
        with self._lock.read():
            scores, keys = self._vectors.search(vector[None, :], top_k)
        return _pairs(keys[0], scores[0])

    def nearest_of(self, keys: Sequence[int], vector: NDArray[np.float32], top_k: int) -> Found:
        """The best of `keys`, exactly: every one of them is scored."""
        if not keys:
            return []
        with self._lock.read():
            these = self._faiss.SearchParametersIVF(sel=self._faiss.IDSelectorBatch(np.array(keys, np.int64)))  # type: ignore[call-arg]
            scores, found = self._vectors.search(vector[None, :], min(top_k, len(keys)), params=these)
        return _pairs(found[0], scores[0])

    def replace(self, gone: Sequence[int], keys: Sequence[int], vectors: Half) -> None:
        with self._lock.write():
            if gone:
                self._vectors.remove_ids(np.array(gone, np.int64))
            if keys:
                self._vectors.add_with_ids(vectors.astype(np.float32), np.array(keys, np.int64))
            if self._sketch is not None:
                self._gone.update(gone)
                if keys:
                    self._sketch.add_with_ids(vectors.astype(np.float32), np.array(keys, np.int64))
        self._unkept += len(gone) + len(keys)

    def tend(self) -> None:
        """Learn the sketch where it is due, beside what serves, and keep it. Called by the one writer, so nothing is changed
        meanwhile."""
        crowded = len(self._gone) > CROWDED * len(self)
        if len(self) >= FLAT_BELOW and (crowded or len(self) > OUTGROWN * self._learnt_from):
            sketch = self._learn()
            with self._lock.write():
                self._sketch, self._gone = sketch, set()
            self._learnt_from = self._unkept = len(self)
        elif crowded:  # too few are left to learn from: they are scanned
            with self._lock.write():
                self._sketch, self._gone = None, set()
            self._learnt_from = self._unkept = 0
            self._kept.unlink(missing_ok=True)
        if self._unkept > UNKEPT * len(self):
            self.keep()

    def keep(self) -> None:
        """Write the sketch for the next start, if it has changed; a disk that does not take it costs that start time only."""
        if self._sketch is None or not self._unkept:
            return
        half = self._kept.with_suffix(".half")
        sketch = self._faiss.serialize_index(self._sketch)
        try:
            with half.open("wb") as file:
                keys = np.concatenate([self._keys(), np.array(sorted(self._gone), np.int64)])
                np.savez(file, keys=keys, sketch=sketch, learnt_from=self._learnt_from)
            half.replace(self._kept)
        except OSError as error:
            log.warning("the sketch of vectors is not kept", file=self._kept.name, error=str(error))
            half.unlink(missing_ok=True)
            return
        self._unkept = 0

    def _candidates(self, vector: NDArray[np.float32], top_k: int) -> list[int]:
        """Keys to be scored exactly. Where those that are gone leave too few, as many more are looked at."""
        enough = max(CANDIDATES * top_k, LEAST_CANDIDATES)
        for most in (enough, enough + len(self._gone)):
            found = self._sketch.search(vector[None, :], most)[1][0].tolist()
            living = [key for key in found if key >= 0 and key not in self._gone]
            if len(living) >= top_k or not self._gone:
                break
        return living

    def _recall(self) -> None:
        """Take the kept sketch, and bring it up to date."""
        try:
            with np.load(self._kept, allow_pickle=False) as kept:
                held, learnt_from = kept["keys"], int(kept["learnt_from"])
                sketch: Any = self._faiss.deserialize_index(kept["sketch"])
        except FileNotFoundError:
            return
        except (OSError, EOFError, ValueError, KeyError, RuntimeError, BadZipFile) as error:
            log.warning(
                "the kept sketch of vectors is damaged, it is learnt anew", file=self._kept.name, error=str(error)
            )
            return
        if sketch.d != self._dim:
            return
        stored = self._keys()
        gone, new = np.setdiff1d(held, stored), np.setdiff1d(stored, held)
        for start in range(0, len(new), PART):
            part = new[start : start + PART]
            sketch.add_with_ids(self._vectors.reconstruct_batch(part), part)
        sketch.nprobe = _probed(sketch.nlist)
        self._sketch, self._gone = sketch, set(gone.tolist())
        self._learnt_from, self._unkept = learnt_from, len(gone) + len(new)

    def _empty(self) -> Any:
        """Exact: one list, whose entries are found by key."""
        kind = self._faiss.ScalarQuantizer.QT_fp16
        index = self._faiss.IndexIVFScalarQuantizer(*self._coarse(), 1, kind, self._faiss.METRIC_INNER_PRODUCT, False)
        index.cp.min_points_per_centroid = 1
        index.train(np.zeros((1, self._dim), np.float32))
        index.set_direct_map_type(self._faiss.DirectMap.Hashtable)  # type: ignore[attr-defined]
        return index

    def _learn(self) -> Any:
        count = len(self)
        lists = max(1, count // LIST_SIZE)
        codes = self._dim // 2 if self._dim % 2 == 0 else self._dim
        sketch = self._faiss.IndexIVFPQFastScan(*self._coarse(), lists, codes, 4, self._faiss.METRIC_INNER_PRODUCT)
        sketch.cp.niter, sketch.cp.max_points_per_centroid, sketch.cp.min_points_per_centroid = 10, SAMPLE, 1
        sketch.pq.cp.min_points_per_centroid = 1
        sketch.nprobe = _probed(lists)
        keys = self._keys()
        sampled = np.random.default_rng(0).choice(keys, min(count, lists * SAMPLE), replace=False)
        sketch.train(self._vectors.reconstruct_batch(sampled))
        for start in range(0, count, PART):
            part = keys[start : start + PART]
            sketch.add_with_ids(self._vectors.reconstruct_batch(part), part)
        return sketch

    def _coarse(self) -> tuple[Any, int]:
        coarse: Any = self._faiss.IndexFlatIP(self._dim)
        coarse.this.disown()  # the index frees it
        return coarse, self._dim

    def _keys(self) -> Keys:
        lists = self._vectors.invlists
        held: Keys = self._faiss.rev_swig_ptr(lists.get_ids(0), lists.list_size(0)).copy()
        return held


def _probed(lists: int) -> int:
    return max(1, min(MOST_PROBED, round(lists * PROBED)))


def _pairs(keys: Keys, scores: NDArray[np.float32]) -> Found:
    return [(key, score) for key, score in zip(keys.tolist(), scores.tolist(), strict=True) if key >= 0]


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
