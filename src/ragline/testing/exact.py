"""A `VectorStore` in memory that compares everything with everything: the reference, and a store for other tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ragline.errors import EngineRejected, EngineUnavailable
from ragline.filters import matches
from ragline.protocols import Vectors
from ragline.types import FieldType, Groups, Hit, Metadata, Record, Scope

ENGINE = "vectors:exact"


@dataclass(slots=True)
class Shelf:
    """One collection."""

    dim: int
    rows: dict[str, tuple[Record, NDArray[np.float32]]] = field(default_factory=dict)


class ExactVectorStore:
    """Give the same `shelves` to another one and it holds the same data: that is its disk."""

    def __init__(self, shelves: dict[str, Shelf] | None = None) -> None:
        self._shelves = {} if shelves is None else shelves
        self._closed = False

    async def create(self, collection: str, *, dim: int, fields: Mapping[str, FieldType]) -> None:
        self._open()
        if self._shelves.setdefault(collection, Shelf(dim)).dim != dim:
            raise EngineRejected(
                f"The vector collection {collection} exists with another dimension.",
                next_step="Run `ragline reindex NAMESPACE`.",
                engine=ENGINE,
            )

    async def drop(self, collection: str) -> None:
        self._open()
        self._shelves.pop(collection, None)

    async def collections(self) -> list[str]:
        self._open()
        return sorted(self._shelves)

    async def upsert(self, collection: str, records: Sequence[Record], vectors: Vectors) -> None:
        shelf = self._shelf(collection)
        for record, vector in zip(records, vectors, strict=True):
            shelf.rows[record.chunk.id] = (record, vector)

    async def update_payload(
        self, collection: str, document: str, *, title: str, groups: Groups, fields: Metadata
    ) -> None:
        shelf = self._shelf(collection)
        for chunk_id, (record, vector) in shelf.rows.items():
            if record.chunk.document == document:
                shelf.rows[chunk_id] = (replace(record, title=title, groups=groups, fields=fields), vector)

    async def delete(self, collection: str, below: Mapping[str, int]) -> None:
        shelf = self._shelf(collection)
        shelf.rows = {
            chunk_id: row
            for chunk_id, row in shelf.rows.items()
            if row[0].chunk.content >= below.get(row[0].chunk.document, row[0].chunk.content)
        }

    async def search(self, collection: str, vector: NDArray[np.float32], *, top_k: int, scope: Scope) -> list[Hit]:
        hits = [
            Hit(record.chunk, record.uri, record.title, float(np.clip(np.dot(held, vector), -1, 1)), "cosine")
            for record, held in self._shelf(collection).rows.values()
            if matches(record.fields, record.groups, scope)
        ]
        return sorted(hits, key=lambda hit: (-hit.score, hit.chunk.id))[:top_k]

    async def contents(self, collection: str) -> dict[tuple[str, int], int]:
        rows = self._shelf(collection).rows.values()
        return dict(Counter((record.chunk.document, record.chunk.content) for record, _ in rows))

    async def aclose(self) -> None:
        self._closed = True

    def _open(self) -> None:
        if self._closed:
            raise EngineUnavailable("The store is closed.", next_step="Open another.", engine=ENGINE)

    def _shelf(self, collection: str) -> Shelf:
        self._open()
        if collection not in self._shelves:
            raise EngineRejected(
                f"The vector collection {collection} does not exist.",
                next_step="Run `ragline reindex NAMESPACE`.",
                engine=ENGINE,
            )
        return self._shelves[collection]
