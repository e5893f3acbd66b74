"""LanceDB: a table in columns, every change a new version of it; scalar indices answer the filters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np

from bench.vector_engines.engine import BUILD_EF, GRAPH_LINKS, SEARCH_EF, Hit, Row, vendor
from bench.vector_engines.engines.literals import quoted


class Lance:
    package = "lancedb"

    def open(self, folder: Path, dim: int) -> None:
        lancedb, self.pa, self.dim = vendor("lancedb"), vendor("pyarrow"), dim
        pa = self.pa
        text, strings = pa.string(), pa.list_(pa.string())
        self.schema = pa.schema(
            [
                ("chunk_id", text),
                ("vector", pa.list_(pa.float32(), dim)),
                ("document", text),
                ("content", pa.int64()),
                ("shelf", text),
                ("groups", strings),
                ("text", text),
            ]
        )
        database = lancedb.connect(str(folder))
        if "chunks" in database.list_tables().tables:
            self.table = database.open_table("chunks")
            return
        self.table = database.create_table("chunks", schema=self.schema)

    def upsert(self, rows: Sequence[Row]) -> None:
        columns = {name: [getattr(row, name) for row in rows] for name in self.schema.names if name != "vector"}
        columns["groups"] = [list(groups) for groups in columns["groups"]]
        flat = self.pa.array(np.concatenate([row.vector for row in rows]), self.pa.float32())
        columns["vector"] = self.pa.FixedSizeListArray.from_arrays(flat, self.dim)
        data = self.pa.table(columns, schema=self.schema)
        self.table.merge_insert("chunk_id").when_matched_update_all().when_not_matched_insert_all().execute(data)

    def search(
        self, vector: np.ndarray, top_k: int, groups: Sequence[str] | None = None, shelf: str | None = None
    ) -> list[Hit]:
        where = []
        if shelf is not None:
            where.append(f"shelf = {quoted(shelf)}")
        if groups is not None:
            mine = ", ".join(map(quoted, groups))
            where.append(
                f"(array_length(groups) IS NULL OR array_length(groups) = 0 OR array_has_any(groups, [{mine}]))"
            )
        query = self.table.search(vector).distance_type("dot").limit(top_k).ef(SEARCH_EF).nprobes(20).refine_factor(2)
        if where:
            query = query.where(" AND ".join(where), prefilter=True)
        found = query.select(["chunk_id", "text", "_distance"]).to_arrow()
        return [(hit["chunk_id"], 1 - hit["_distance"], hit["text"]) for hit in found.to_pylist()]

    def delete(self, document: str, below: int) -> None:
        self.table.delete(f"document = {quoted(document)} AND content < {below}")

    def regroup(self, document: str, groups: Sequence[str]) -> None:
        listed = ", ".join(map(quoted, groups))
        self.table.update(where=f"document = {quoted(document)}", values_sql={"groups": f"[{listed}]"})

    def count(self, document: str | None = None) -> int:
        return int(self.table.count_rows(f"document = {quoted(document)}" if document else None))

    def optimise(self) -> None:
        if not self.table.list_indices():
            self.table.create_index(
                metric="dot",
                vector_column_name="vector",
                index_type="IVF_HNSW_SQ",
                m=GRAPH_LINKS,
                ef_construction=BUILD_EF,
            )
            for column, kind in {
                "chunk_id": "BTREE",
                "document": "BTREE",
                "shelf": "BITMAP",
                "groups": "LABEL_LIST",
            }.items():
                self.table.create_scalar_index(column, index_type=kind)
        self.table.optimize(cleanup_older_than=timedelta(seconds=60))

    def close(self) -> None: ...
