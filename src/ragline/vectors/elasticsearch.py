"""Vectors in Elasticsearch: approximate neighbours by its graphs, scored exactly.

A collection is an index (`connections.elasticsearch_indices`). A search walks the graph for `candidates` neighbours in
each shard that pass the filter; those are scored by the whole vectors, sorted, and cut to `top_k`. So the hits of a
quantised index carry the true cosine, and ties go by chunk id as long as they fit into the candidates.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ragline.connections import elasticsearch_rows as rows
from ragline.connections.elasticsearch import ElasticsearchServer
from ragline.connections.elasticsearch_indices import ElasticsearchIndices
from ragline.connections.elasticsearch_rows import Json
from ragline.connections.elasticsearch_url import Options, options_of
from ragline.protocols import Vectors
from ragline.types import FieldType, Groups, Hit, Metadata, Record, Scope

MOST_DIM = 4096
SIMILARITY = "cosine"
SPARE = {"hnsw": 2, "int8_hnsw": 2, "bbq_hnsw": 5}
"""Candidates per hit that is asked for, at least: one bit a component orders less well than eight."""
MOST_CANDIDATES = 10_000


def opened(url: str) -> ElasticsearchVectorStore:
    options = options_of(url, "vectors")
    return ElasticsearchVectorStore(ElasticsearchServer(options.server), options)


class ElasticsearchVectorStore:
    """`protocols.VectorStore` on a cluster."""

    def __init__(self, server: ElasticsearchServer, options: Options) -> None:
        self._indices = ElasticsearchIndices(server, options, "vectors")
        self._options = options

    @property
    def server(self) -> ElasticsearchServer:
        return self._indices.server

    async def create(self, collection: str, *, dim: int, fields: Mapping[str, FieldType]) -> None:
        if not 1 <= dim <= MOST_DIM:
            raise self._indices.rejected(
                f"vectors of {dim} components do not fit.", f"Use an embedder with at most {MOST_DIM}."
            )
        vector: Json = {
            "type": "dense_vector", "dims": dim, "index": True, "similarity": SIMILARITY,
            "index_options": {"type": self._options.index},
        }  # fmt: skip
        how = {"dim": dim, "similarity": SIMILARITY, "index": self._options.index}
        built = await self._indices.create(collection, fields, {"vector": vector}, how, {})
        if (built.how["dim"], built.how["similarity"]) != (dim, SIMILARITY):
            raise self._indices.rejected(
                f"the collection {collection} holds vectors of dimension {built.how['dim']} compared by "
                f"{built.how['similarity']}, not {dim} by {SIMILARITY}.",
                "It belongs to another embedder: use another collection, or drop it.",
            )

    async def drop(self, collection: str) -> None:
        await self._indices.drop(collection)

    async def collections(self) -> list[str]:
        return await self._indices.collections()

    async def upsert(self, collection: str, records: Sequence[Record], vectors: Vectors) -> None:
        built = await self._indices.built(collection)
        self._check(collection, vectors, (len(records), built.how["dim"]))
        if not records:
            return
        coded = np.ascontiguousarray(vectors, dtype=">f4")
        await self._indices.write(
            collection,
            [
                {
                    **rows.row(record, built.names), "text": record.chunk.text,
                    "vector": base64.b64encode(coded[at].tobytes()).decode(),
                }
                for at, record in enumerate(records)
                if self._indices.declared(collection, record.fields, built) is not None
            ],
        )  # fmt: skip

    async def update_payload(
        self, collection: str, document: str, *, title: str, groups: Groups, fields: Metadata
    ) -> None:
        await self._indices.update_payload(collection, document, title=title, groups=groups, fields=fields)

    async def delete(self, collection: str, below: Mapping[str, int]) -> None:
        await self._indices.delete(collection, below)

    async def search(self, collection: str, vector: NDArray[np.float32], *, top_k: int, scope: Scope) -> list[Hit]:
        built = await self._indices.built(collection)
        self._check(collection, vector, (built.how["dim"],))
        index = str(built.how["index"])
        candidates = min(max(self._options.candidates, SPARE[index] * top_k), MOST_CANDIDATES)
        near: Json = {
            "field": "vector", "query_vector": vector.tolist(), "k": candidates, "num_candidates": candidates,
            "filter": self._indices.scope(collection, scope, built),
        }  # fmt: skip
        if index != "hnsw":
            near["rescore_vector"] = {"oversample": 1.0}
        found = await self._indices.best(collection, {"knn": near}, top_k=top_k)
        return [rows.hit(one["_source"], one["_source"]["text"], _cosine(one["_score"]), SIMILARITY) for one in found]

    async def contents(self, collection: str) -> dict[tuple[str, int], int]:
        return await self._indices.contents(collection)

    async def aclose(self) -> None:
        await self._indices.aclose()

    def _check(self, collection: str, vectors: NDArray[np.float32], shape: tuple[int, ...]) -> None:
        if vectors.shape != shape:
            raise self._indices.rejected(
                f"vectors of shape {vectors.shape} do not fit the collection {collection}: it takes {shape}.",
                "Embed with the model of the collection's space.",
            )
        if not np.isfinite(vectors).all():
            raise self._indices.rejected(
                f"a vector for the collection {collection} holds NaN or infinity.",
                "Look at the embedder: it must return finite numbers.",
            )
        if not vectors.any(axis=-1).all():  # Elasticsearch refuses it too, in words that name no vector
            raise self._indices.rejected(
                f"a vector for the collection {collection} is zero: it points nowhere.",
                "Look at the embedder: it must return vectors of unit length.",
            )


def _cosine(score: float) -> float:
    """Elasticsearch scores ``(1 + cosine) / 2``."""
    return min(max(2.0 * score - 1.0, -1.0), 1.0)
