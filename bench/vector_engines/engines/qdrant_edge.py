"""Qdrant Edge: a shard of Qdrant within the process. Durable by `flush()`, as its write-ahead log is not replayed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import numpy as np

from bench.vector_engines.engine import BUILD_EF, GRAPH_LINKS, SEARCH_EF, Hit, Row, vendor


class Qdrant:
    package = "qdrant-edge-py"

    def open(self, folder: Path, dim: int) -> None:
        self.q = q = vendor("qdrant_edge")
        config = q.EdgeConfig(
            vectors=q.EdgeVectorParams(size=dim, distance=q.Distance.Dot),
            hnsw_config=q.HnswIndexConfig(m=GRAPH_LINKS, ef_construct=BUILD_EF, full_scan_threshold=1_000),
            optimizers=q.EdgeOptimizersConfig(default_segment_number=1),
            wal_enabled=False,  # it is not replayed by load(): flush() alone makes a write durable
        )
        if (folder / "edge_config.json").exists():
            self.shard = q.EdgeShard.load(str(folder))
            return
        self.shard = q.EdgeShard.create(str(folder), config)
        for field, kind in {
            "document": "Keyword",
            "content": "Integer",
            "shelf": "Keyword",
            "groups": "Keyword",
        }.items():
            self.shard.update(q.UpdateOperation.create_field_index(field, getattr(q.PayloadSchemaType, kind)))
        self.shard.flush()

    def _is(self, field: str, value: str) -> Any:
        return self.q.FieldCondition(field, match=self.q.MatchValue(value))

    def _update(self, operation: Any) -> None:
        self.shard.update(operation)
        self.shard.flush()

    def upsert(self, rows: Sequence[Row]) -> None:
        points = [
            self.q.Point(
                uuid5(NAMESPACE_OID, row.chunk_id),
                row.vector.tolist(),
                {
                    "chunk_id": row.chunk_id,
                    "document": row.document,
                    "content": row.content,
                    "shelf": row.shelf,
                    "groups": list(row.groups),
                    "text": row.text,
                },
            )
            for row in rows
        ]
        self._update(self.q.UpdateOperation.upsert_points(points))

    def search(
        self, vector: np.ndarray, top_k: int, groups: Sequence[str] | None = None, shelf: str | None = None
    ) -> list[Hit]:
        q, must = self.q, []
        if shelf is not None:
            must.append(self._is("shelf", shelf))
        if groups is not None:
            mine = q.FieldCondition("groups", match=q.MatchAny(list(groups)))
            must.append(q.Filter(should=[q.IsEmptyCondition("groups"), mine]))
        hits = self.shard.query(
            q.QueryRequest(
                limit=top_k,
                query=q.Query.Nearest(vector.tolist()),
                filter=q.Filter(must=must) if must else None,
                with_payload=True,
                params=q.SearchParams(hnsw_ef=SEARCH_EF),
            )
        )
        return [(hit.payload["chunk_id"], hit.score, hit.payload["text"]) for hit in hits]

    def delete(self, document: str, below: int) -> None:
        old = self.q.FieldCondition("content", range=self.q.RangeFloat(lt=below))
        self._update(
            self.q.UpdateOperation.delete_points_by_filter(self.q.Filter(must=[self._is("document", document), old]))
        )

    def regroup(self, document: str, groups: Sequence[str]) -> None:
        of_document = self.q.Filter(must=[self._is("document", document)])
        self._update(self.q.UpdateOperation.set_payload_by_filter(of_document, {"groups": list(groups)}))

    def count(self, document: str | None = None) -> int:
        only = self.q.Filter(must=[self._is("document", document)]) if document else None
        return int(self.shard.count(self.q.CountRequest(exact=True, filter=only)))

    def optimise(self) -> None:
        self.shard.optimize()
        self.shard.flush()

    def close(self) -> None:
        self.shard.close()
