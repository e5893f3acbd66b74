"""Hybrid retrieval as a Haystack user writes it: both in-memory retrievers, merged by DocumentJoiner, served by Hayhooks.

Retrieval follows the documentation's tutorial "Creating a Hybrid Retrieval Pipeline" and the page "DocumentJoiner";
serving follows the Hayhooks pages "PipelineWrapper" and "Deployment Guidelines": `hayhooks run` on a folder of
pipelines, with `run_api_async`. Hayhooks puts the pipeline `search` at POST /search/run.

In memory both legs go through every passage in Python. The integration faiss-haystack would spare the dense leg that,
but not the keyword leg, for which Haystack has nothing else that runs without a server of its own.
"""
# mypy: disable-error-code="import-not-found, misc, untyped-decorator"

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hayhooks import BasePipelineWrapper
from hayhooks.cli import hayhooks_cli
from haystack import Document, Pipeline, component
from haystack.components.joiners import DocumentJoiner
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever, InMemoryEmbeddingRetriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

from bench.frameworks.embedder import MiniLM
from bench.frameworks.given import CANDIDATES, Given, arguments, given


@component
class QueryEmbedder:
    def __init__(self, model: MiniLM) -> None:
        self._model = model

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, list[float]]:
        return {"embedding": self._model.embed(text).tolist()}


def pipeline(data: Given) -> Pipeline:
    # Its own default is one thread for all queries.
    store = InMemoryDocumentStore(async_executor=ThreadPoolExecutor(os.cpu_count()), return_embedding=False)
    store.write_documents(
        [
            Document(id=passage.id, content=passage.text, embedding=vector)
            for passage, vector in zip(data.passages, data.vectors.tolist(), strict=True)
        ]
    )
    hybrid = Pipeline()
    hybrid.add_component("embedder", QueryEmbedder(data.model))
    hybrid.add_component("dense", InMemoryEmbeddingRetriever(store, top_k=CANDIDATES))
    hybrid.add_component("keyword", InMemoryBM25Retriever(store, top_k=CANDIDATES))
    hybrid.add_component("joiner", DocumentJoiner(join_mode="reciprocal_rank_fusion"))
    hybrid.connect("embedder.embedding", "dense.query_embedding")
    hybrid.connect("dense", "joiner")
    hybrid.connect("keyword", "joiner")
    return hybrid


class PipelineWrapper(BasePipelineWrapper):
    def setup(self) -> None:
        self.pipeline = pipeline(given())

    async def run_api_async(self, query: str, top_k: int = 10) -> list[dict[str, str]]:
        asked = {"embedder": {"text": query}, "keyword": {"query": query}, "joiner": {"top_k": top_k}}
        found = await self.pipeline.run_async(asked)
        return [{"id": hit.id, "text": hit.content} for hit in found["joiner"]["documents"]]


if __name__ == "__main__":
    folder = Path(__file__).with_name("pipelines")
    # Traces are for its dashboard, which nobody watches here.
    hayhooks_cli(["run", "--port", str(arguments().port), "--pipelines-dir", str(folder), "--without-tracing"])
