"""zvec: a collection with inverted indexes beside the graph; filters are text."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.vector_engines.engine import BUILD_EF, GRAPH_LINKS, SEARCH_EF, Hit, Row, vendor
from bench.vector_engines.engines.literals import quoted

EVERYONE = "*"
"""Stored as the only group of a chunk without groups: zvec cannot index an empty list."""


class Zvec:
    package = "zvec"

    def open(self, folder: Path, dim: int) -> None:
        self.z = z = vendor("zvec")
        with contextlib.suppress(RuntimeError):
            z.init(log_level=z.LogLevel.FATAL)
        if (folder / "chunks").exists():
            self.chunks = z.open(str(folder / "chunks"), z.CollectionOption(read_only=False, enable_mmap=True))
            return
        graph = z.HnswIndexParam(metric_type=z.MetricType.IP, m=GRAPH_LINKS, ef_construction=BUILD_EF)
        indexed = z.InvertIndexParam()
        schema = z.CollectionSchema(
            "chunks",
            fields=[
                z.FieldSchema("chunk_id", z.DataType.STRING),
                z.FieldSchema("document", z.DataType.STRING, index_param=indexed),
                z.FieldSchema(
                    "content", z.DataType.INT64, index_param=z.InvertIndexParam(enable_range_optimization=True)
                ),
                z.FieldSchema("shelf", z.DataType.STRING, index_param=indexed),
                z.FieldSchema("groups", z.DataType.ARRAY_STRING, index_param=indexed),
                z.FieldSchema("text", z.DataType.STRING),
            ],
            vectors=[z.VectorSchema("vector", z.DataType.VECTOR_FP32, dim, index_param=graph)],
        )
        self.chunks = z.create_and_open(
            str(folder / "chunks"), schema, z.CollectionOption(read_only=False, enable_mmap=True)
        )

    def upsert(self, rows: Sequence[Row]) -> None:
        docs = [
            self.z.Doc(
                row.chunk_id,
                vectors={"vector": row.vector},
                fields={
                    "chunk_id": row.chunk_id,
                    "document": row.document,
                    "content": row.content,
                    "shelf": row.shelf,
                    "groups": list(row.groups) or [EVERYONE],
                    "text": row.text,
                },
            )
            for row in rows
        ]
        self._check(self.chunks.upsert(docs))

    def _text(self, text: str) -> str:
        return quoted(text, quote="\\'")

    def _check(self, statuses: Sequence[Any]) -> None:
        if refused := [status.message() for status in statuses if not status.ok()]:
            raise RuntimeError(refused[0])

    def search(
        self, vector: np.ndarray, top_k: int, groups: Sequence[str] | None = None, shelf: str | None = None
    ) -> list[Hit]:
        where = []
        if shelf is not None:
            where.append(f"shelf = {self._text(shelf)}")
        if groups is not None:
            where.append(f"groups CONTAIN_ANY ({', '.join(map(self._text, [*groups, EVERYONE]))})")
        found = self.chunks.query(
            self.z.Query("vector", vector=vector, param=self.z.HnswQueryParam(ef=SEARCH_EF)),
            topk=top_k,
            filter=" AND ".join(where) or None,
            output_fields=["text"],
        )
        return [(hit.id, hit.score, hit.field("text")) for hit in found]

    def delete(self, document: str, below: int) -> None:
        self.chunks.delete_by_filter(f"document = {self._text(document)} AND content < {below}")

    def _ids(self, document: str) -> list[str]:
        return [
            hit.id
            for hit in self.chunks.query(
                topk=1024, filter=f"document = {self._text(document)}", output_fields=["document"]
            )
        ]

    def regroup(self, document: str, groups: Sequence[str]) -> None:
        self._check(
            self.chunks.update(
                [self.z.Doc(i, fields={"groups": list(groups) or [EVERYONE]}) for i in self._ids(document)]
            )
        )

    def count(self, document: str | None = None) -> int:
        return len(self._ids(document)) if document else self.chunks.stats.doc_count

    def optimise(self) -> None:
        self.chunks.optimize()

    def close(self) -> None:
        self.chunks.flush()
        del self.chunks
