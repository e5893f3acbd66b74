"""Hybrid retrieval as a LlamaIndex user writes it: BM25 and FAISS, merged by QueryFusionRetriever, behind FastAPI.

Retrieval follows the documentation's pages "Reciprocal Rerank Fusion Retriever", "BM25 Retriever", "Faiss Vector Store"
and "Custom Embeddings". Its pages on serving (the guide to a full-stack web app, LlamaIndexServer) put an index or a
chat workflow behind a web framework; a retriever stands behind a FastAPI endpoint that awaits `aretrieve`.
"""
# mypy: disable-error-code="import-not-found, misc"

import asyncio
from typing import Any

import faiss
import uvicorn
from fastapi import FastAPI
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.llms import MockLLM
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import TextNode
from llama_index.retrievers.bm25 import BM25Retriever
from llama_index.vector_stores.faiss import FaissVectorStore

from bench.frameworks.embedder import MiniLM
from bench.frameworks.given import CANDIDATES, Answer, Found, Given, Query, given


class QueryEmbedding(BaseEmbedding):
    _model: MiniLM

    def __init__(self, model: MiniLM, **settings: Any) -> None:
        super().__init__(**settings)
        self._model = model

    def _get_query_embedding(self, query: str) -> list[float]:
        vector: list[float] = self._model.embed(query).tolist()
        return vector

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    def _get_text_embedding(self, text: str) -> list[float]:
        raise NotImplementedError("The passages' vectors are given.")


def retriever(data: Given) -> QueryFusionRetriever:
    nodes = [
        TextNode(id_=passage.id, text=passage.text, embedding=vector)
        for passage, vector in zip(data.passages, data.vectors.tolist(), strict=True)
    ]
    keyword = BM25Retriever.from_defaults(nodes=nodes, similarity_top_k=CANDIDATES)
    # FaissVectorStore's own example has IndexFlatL2. Distances count as scores here, and
    # the fusion would take the farthest for the best.
    store = FaissVectorStore(faiss_index=faiss.IndexFlatIP(data.vectors.shape[1]))
    index = VectorStoreIndex(
        nodes,
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=QueryEmbedding(data.model),
    )
    return QueryFusionRetriever(
        [index.as_retriever(similarity_top_k=CANDIDATES), keyword],
        llm=MockLLM(),  # never asked: num_queries=1 writes no further queries
        mode="reciprocal_rerank",
        num_queries=1,
        similarity_top_k=2 * CANDIDATES,
    )


def app(data: Given) -> FastAPI:
    served, hybrid = FastAPI(), retriever(data)

    @served.post("/search")
    async def search(asked: Query) -> Answer:
        found = await hybrid.aretrieve(asked.query)
        return Answer(result=[Found(id=hit.node.node_id, text=hit.node.text) for hit in found[: asked.top_k]])

    return served


if __name__ == "__main__":
    data = given()
    uvicorn.run(app(data), port=data.port, log_level="warning", access_log=False)
