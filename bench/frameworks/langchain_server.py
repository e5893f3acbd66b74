"""Hybrid retrieval as a LangChain user writes it: BM25 and FAISS, merged by EnsembleRetriever, behind FastAPI.

Retrieval follows the documentation's pages "EnsembleRetriever", "BM25" and "Faiss". It stands behind a plain FastAPI
endpoint that awaits `ainvoke`, so that both legs run in threads, side by side; LangServe would generate such routes on
the same FastAPI.
"""
# mypy: disable-error-code="import-not-found, misc"

import re

import uvicorn
from fastapi import FastAPI
from langchain_classic.retrievers import EnsembleRetriever
from langchain_community.retrievers import BM25Retriever
from langchain_community.vectorstores import FAISS
from langchain_core.embeddings import Embeddings

from bench.frameworks.embedder import MiniLM
from bench.frameworks.given import CANDIDATES, Answer, Found, Given, Query, given


class QueryEmbeddings(Embeddings):
    def __init__(self, model: MiniLM) -> None:
        self._model = model

    def embed_query(self, text: str) -> list[float]:
        vector: list[float] = self._model.embed(text).tolist()
        return vector

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        raise NotImplementedError("The passages' vectors are given.")


def words(text: str) -> list[str]:
    """The default only splits at blanks, so that case and punctuation would keep words from matching."""
    return re.findall(r"\w+", text.lower())


def retriever(data: Given) -> EnsembleRetriever:
    texts = [passage.text for passage in data.passages]
    ids = [{"id": passage.id} for passage in data.passages]
    keyword = BM25Retriever.from_texts(texts, metadatas=ids, preprocess_func=words, k=CANDIDATES)
    vectors = zip(texts, data.vectors.tolist(), strict=True)
    dense = FAISS.from_embeddings(vectors, QueryEmbeddings(data.model), metadatas=ids)
    return EnsembleRetriever(
        retrievers=[keyword, dense.as_retriever(search_kwargs={"k": CANDIDATES})], weights=[0.5, 0.5], id_key="id"
    )


def app(data: Given) -> FastAPI:
    served, hybrid = FastAPI(), retriever(data)

    @served.post("/search")
    async def search(asked: Query) -> Answer:
        found = await hybrid.ainvoke(asked.query)
        return Answer(result=[Found(id=hit.metadata["id"], text=hit.page_content) for hit in found[: asked.top_k]])

    return served


if __name__ == "__main__":
    data = given()
    uvicorn.run(app(data), port=data.port, log_level="warning", access_log=False)
