"""Servers that score passages for a query over HTTP: Cohere v2, Jina (and whoever copies them: vLLM, Infinity), and TEI.

`build` makes one; the scheme of `reranker.url` says whose dialect is spoken. What can go wrong on the way is the table of
`connections.model_server`; what an answer may lack is checked here. Nothing is retried: a query waits for it.

    scheme            request                                       answer
    cohere+https://   POST rerank, under …/v2: documents, top_n     results: [{index, relevance_score}]
    jina+https://     POST rerank, under …/v1: the same             the same
    tei+http://       POST rerank: texts, truncate                  [{index, score}]
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from ragline.connections.model_server import ModelServer, Refusal
from ragline.errors import ConfigurationError
from ragline.settings import RerankerSettings
from ragline.surrogates import encodable


class HttpReranker:
    """`settings.url` is the base, such as ``cohere+https://api.cohere.com/v2``.

    Raises:  ConfigurationError: no model is named where the dialect needs one, or the URL is wrong.
    """

    def __init__(self, settings: RerankerSettings) -> None:
        self._dialect, _, url = settings.url.partition("+")
        if not settings.model and self._dialect != "tei":
            raise ConfigurationError(
                "reranker.model is empty.", next_step="Set it to a name that the server knows; only TEI needs none."
            )
        self._settings = settings
        self.name = f"{self._dialect}:{settings.model}" if settings.model else self._dialect
        self.scale = f"rerank:{self.name}"
        self._server = ModelServer(
            url, role="reranker", setting="reranker", engine=f"reranker:{self._dialect}", api_key=settings.api_key,
            steps=_steps,
        )  # fmt: skip

    async def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """See `protocols.Reranker`."""
        if not texts:
            return []
        content = await self._server.post(
            "rerank",
            self._body(_fit(query), [_fit(text) for text in texts]),
            timeout_s=self._settings.deadline_ms / 1000,
        )
        return self._scores(content, len(texts))

    async def aclose(self) -> None:
        await self._server.aclose()

    def _body(self, query: str, texts: list[str]) -> dict[str, object]:
        if self._dialect == "tei":
            return {"query": query, "texts": texts, "truncate": True, "raw_scores": False, "return_text": False}
        body: dict[str, object] = {
            "model": self._settings.model,
            "query": query,
            "documents": texts,
            "top_n": len(texts),
        }
        return body | {"return_documents": False} if self._dialect == "jina" else body

    def _scores(self, content: bytes, count: int) -> list[float]:
        """In the order of the texts. Raises EngineError: not one score a text."""
        scores: list[float | None] = [None] * count
        try:
            answer = json.loads(content)
            results, field = (answer, "score") if self._dialect == "tei" else (answer["results"], "relevance_score")
            for result in results:
                at, score = int(result["index"]), float(result[field])
                if at < 0 or scores[at] is not None or not math.isfinite(score):
                    raise self._server.malformed(
                        "an index is none of the texts', or comes twice, or its score is no number"
                    )
                scores[at] = score
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            raise self._server.malformed("its answer has not the documented shape") from error
        whole = [score for score in scores if score is not None]
        if len(whole) != count:
            raise self._server.malformed(f"{len(whole)} scores came for {count} texts")
        return whole


def _fit(text: str) -> str:
    """For UTF-8, and not empty, which Cohere refuses."""
    return encodable(text) or " "


def _steps(refused: Refusal) -> str | None:
    if refused.too_long or refused.status in (413, 422) or "batch" in refused.words:
        return "The request is larger than the server takes: lower reranker.candidates, or the chunks' size."
    return None
