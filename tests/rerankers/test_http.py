"""Rerankers over HTTP, against a server that plays what Cohere, Jina and TEI document."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import cohere
import httpx
import pytest
from cohere.v2 import V2RerankResponse
from cohere.v2.types.v2rerank_response_results_item import V2RerankResponseResultsItem

from ragline.connections.model_server import Busy
from ragline.errors import (
    ConfigurationError,
    EngineDenied,
    EngineError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
)
from ragline.rerankers.http import HttpReranker
from ragline.settings import RerankerSettings
from ragline.testing.rerankers import RerankerContract
from tests.engines.played import HANG, Answer, Asked, Played, nowhere, played

KEY = "very-secret"
PATHS = {"cohere": "/v2", "jina": "/v1", "tei": ""}
FIELDS = {
    "cohere": {"model", "query", "documents", "top_n"},
    "jina": {"model", "query", "documents", "top_n", "return_documents"},
    "tei": {"query", "texts", "truncate", "raw_scores", "return_text"},
}


def score(query: str, text: str) -> float:
    return int.from_bytes(hashlib.sha256(f"{query}\0{text}".encode()).digest()[:4]) / 2**32


def plays(dialect: str) -> Callable[[Asked], Answer]:
    """Scores as the vendor's documentation has them: best first, by index."""

    def answer(asked: Asked) -> Answer:
        assert (asked.method, asked.path) == ("POST", f"{PATHS[dialect]}/rerank")
        assert asked.headers["authorization"] == f"Bearer {KEY}"
        assert asked.body.keys() == FIELDS[dialect]
        texts = asked.body["texts" if dialect == "tei" else "documents"]
        assert texts
        assert all(isinstance(text, str) and text for text in texts)
        ranked = sorted(((score(asked.body["query"], text), n) for n, text in enumerate(texts)), reverse=True)
        if dialect == "tei":
            return Answer([{"index": n, "score": value} for value, n in ranked])
        assert asked.body["top_n"] == len(texts)
        items = [V2RerankResponseResultsItem(index=n, relevance_score=value) for value, n in ranked]
        body = V2RerankResponse(results=items).dict()
        if dialect == "jina":
            body |= {"model": asked.body["model"], "usage": {"total_tokens": 9}}
        return Answer(body)

    return answer


@pytest.fixture(params=["cohere", "jina", "tei"])
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def server(dialect: str) -> AsyncIterator[Played]:
    async with played() as ours:
        ours.answer = plays(dialect)
        yield ours


Make = Callable[..., HttpReranker]


@pytest.fixture
async def make(server: Played, dialect: str) -> AsyncIterator[Make]:
    made: list[HttpReranker] = []

    def make(**changes: Any) -> HttpReranker:
        url = f"{dialect}+{server.url}{PATHS[dialect]}"
        given = {"url": url, "model": "small", "api_key": KEY, "deadline_ms": 30_000} | changes
        made.append(HttpReranker(RerankerSettings.model_validate(given)))
        return made[-1]

    yield make
    for reranker in made:
        await reranker.aclose()


class TestContract(RerankerContract):
    @pytest.fixture
    def connect(self, make: Make) -> Callable[[], Awaitable[HttpReranker]]:
        async def connect() -> HttpReranker:
            return make()

        return connect


@pytest.mark.parametrize("dialect", ["cohere"], indirect=True)
async def test_the_vendors_own_client_gets_the_same(server: Played, make: Make) -> None:
    async with httpx.AsyncClient() as http:
        client = cohere.AsyncClientV2(KEY, base_url=server.url, httpx_client=http)
        theirs = await client.rerank(model="small", query="q", documents=["salt", "copper"], top_n=2)
    ours = await make().rerank("q", ["salt", "copper"])
    assert {item.index: item.relevance_score for item in theirs.results} == dict(enumerate(ours))


@pytest.mark.parametrize(
    ("status", "body", "error", "step"),
    [
        (400, {"message": "invalid request: the secret apple"}, EngineRejected, "log"),
        (400, {"message": "too many tokens: total context length"}, EngineRejected, "reranker.candidates"),
        (401, {"message": f"invalid api token {KEY}"}, EngineDenied, "reranker.api_key"),
        (403, {"detail": "the secret apple"}, EngineDenied, "reranker.api_key"),
        (404, {"message": "model 'small' not found"}, EngineRejected, "reranker.model"),
        (
            413,
            {"error": "batch size 64 > maximum allowed batch size 32", "error_type": "Validation"},
            EngineRejected,
            "candidates",
        ),
        (422, {"detail": [{"msg": "the secret apple"}]}, EngineRejected, "reranker.candidates"),
        (424, {"error": "Inference failed", "error_type": "Backend"}, EngineError, "log"),
        (429, {"message": "Trial key limited"}, Busy, "limit"),
        (499, {"message": "the secret apple"}, EngineRejected, "log"),
        (500, {"message": "internal server error"}, EngineError, "log"),
        (502, b"<html>the secret apple", EngineUnavailable, "reachable"),
        (503, {"error": "Model is overloaded", "error_type": "Overloaded"}, Busy, "limit"),
        (504, b"", EngineTimeout, "timeout"),
    ],
)
async def test_every_refusal_has_its_error_and_what_to_do(
    server: Played, make: Make, status: int, body: object, error: type[EngineError], step: str
) -> None:
    server.answer = lambda _: Answer(body, status, {"retry-after": "0"})
    with pytest.raises(error) as caught:
        await make().rerank("the secret apple", ["a"])
    assert type(caught.value) is error
    assert step in caught.value.next_step
    assert len(server.asked) == 1
    for secret in (KEY, "apple"):
        assert secret not in f"{caught.value!s} {caught.value!r}"


@pytest.mark.parametrize("dialect", ["cohere"], indirect=True)
@pytest.mark.parametrize(
    ("results", "words"),
    [
        ([{"index": 0, "relevance_score": 0.5}], "1 scores came for 2"),
        ([{"index": 0, "relevance_score": 0.5}] * 2, "twice"),
        ([{"index": -1, "relevance_score": 0.5}], "none of the texts"),
        ([{"index": 2, "relevance_score": 0.5}], "shape"),
        ([{"index": 0, "relevance_score": "NaN"}], "no number"),
        ([{"index": 0}], "shape"),
        ("the secret apple", "shape"),
    ],
)
async def test_an_answer_that_is_none_is_not_taken(server: Played, make: Make, results: object, words: str) -> None:
    server.answer = lambda _: Answer({"results": results})
    with pytest.raises(EngineError, match=words) as caught:
        await make().rerank("q", ["a", "b"])
    assert "apple" not in str(caught.value)


async def test_a_server_that_falls_silent_is_given_up_and_left(server: Played, make: Make) -> None:
    server.answer = lambda _: HANG
    with pytest.raises(EngineTimeout):
        await make(deadline_ms=200).rerank("q", ["a"])
    await server.left.wait()


async def test_nobody_there(make: Make, dialect: str) -> None:
    with pytest.raises(EngineUnavailable, match="cannot be reached"):
        await make(url=f"{dialect}+{nowhere()}").rerank("q", ["a"])


def test_a_model_must_be_named_where_there_is_a_choice() -> None:
    with pytest.raises(ConfigurationError, match=r"reranker\.model"):
        HttpReranker(RerankerSettings(url="cohere+https://example.org/v2"))
    assert HttpReranker(RerankerSettings(url="tei+http://example.org")).name == "tei"
