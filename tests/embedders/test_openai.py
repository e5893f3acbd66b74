"""The OpenAI-compatible embedder: on our own server for real, and on one that plays what OpenAI, vLLM and TEI document."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from openai.types import CreateEmbeddingResponse, Embedding, EmbeddingCreateParams
from openai.types.create_embedding_response import Usage
from pydantic import TypeAdapter, ValidationError
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Metaspace

from ragline.build import build
from ragline.connections.model_server import Busy
from ragline.embedders.local import LocalEmbedder
from ragline.embedders.openai import PRECISION, OpenAIEmbedder
from ragline.embedders.token_spans import NamedTokenizer, approximate_spans
from ragline.errors import (
    ConfigurationError,
    EngineDenied,
    EngineError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    MissingDependency,
)
from ragline.settings import EmbedderSettings, Settings
from ragline.testing.embedders import EmbedderContract
from ragline.types import SearchRequest, State
from tests.engines.played import HANG, Answer, Asked, Played, nowhere, played
from tests.house import House

KEY = "sk-very-secret"
DIM = 8
REQUEST: TypeAdapter[Any] = TypeAdapter(EmbeddingCreateParams)


class TestOnOurOwnServer(EmbedderContract):
    @pytest.fixture
    def connect(self, embedder_url: str) -> Callable[[], Awaitable[OpenAIEmbedder]]:
        settings = EmbedderSettings(
            url=embedder_url, model="all-MiniLM-L6-v2", tokenizer="package", max_tokens=256,
            query_input_type="query", document_input_type="document",
        )  # fmt: skip
        return lambda: OpenAIEmbedder.connect(settings)


class TestWithoutTheTokenizer(EmbedderContract):
    @pytest.fixture
    def connect(self, embedder_url: str) -> Callable[[], Awaitable[OpenAIEmbedder]]:
        settings = EmbedderSettings(url=embedder_url, model="all-MiniLM-L6-v2", max_tokens=200)
        return lambda: OpenAIEmbedder.connect(settings)


async def test_it_gives_the_vectors_of_the_model_behind_it(embedder_url: str, embedder: LocalEmbedder) -> None:
    remote = await OpenAIEmbedder.connect(EmbedderSettings(url=embedder_url, model="all-MiniLM-L6-v2"))
    for purpose in ("query", "document"):
        vectors = await remote.embed(["salt", "copper"], purpose=purpose)
        np.testing.assert_allclose(vectors, await embedder.embed(["salt", "copper"], purpose=purpose), atol=1e-6)
    await remote.aclose()


async def test_the_whole_service_runs_on_it(embedder_url: str, tmp_path: Path) -> None:
    chosen = EmbedderSettings(url=embedder_url, model="all-MiniLM-L6-v2", languages=("en",))
    system = await build(Settings(data_dir=tmp_path, embedder=chosen))
    try:
        house = House(system)
        await house.accept("leave.txt", "Everyone has 28 days of paid leave a year.")
        await house.accept("pump.txt", "The pump runs at 40 bar.")
        await house.work()
        found = await system.search.search(SearchRequest("vacation", "default", frozenset(), legs=("dense",)))
        assert found.passages[0].hit.uri == "leave.txt"
        assert found.degraded == ()
        assert (await system.namespaces.get("default")).epoch.space.probe == system.embedder.space.probe
        assert len(system.embedder.space.probe) == 64
    finally:
        await system.aclose()


async def test_a_document_outlasts_a_provider_that_limits_longer_than_its_patience(tmp_path: Path) -> None:
    async with played() as server:
        server.answer = embeddings
        chosen = EmbedderSettings(url=f"{server.url}/v1", model="large", api_key=KEY, patience_s=0)
        system = await build(Settings(data_dir=tmp_path, embedder=chosen))
        house = House(system)
        accepted = await house.accept("leave.txt", "Everyone has 28 days of paid leave a year.")
        server.answer = lambda _: limited("30")
        (claimed,) = await house.claim()
        await system.ingest_worker._one(claimed)
        waiting = await house.look(accepted)
        assert waiting.state not in (State.INDEXED, State.FAILED)
        server.answer = embeddings
        await house.expire_leases()
        await house.work_as_workers_do()
        assert (await house.look(accepted)).state is State.INDEXED
        await system.aclose()


# ── the played server ────────────────────────────────────────────────────────────────────────────────────────────────


def vector(text: str) -> list[float]:
    """Of that text alone; not of unit length."""
    digest = hashlib.sha256(text.encode()).digest()
    return [float(byte) - 127.5 for byte in digest[:DIM]]


def embeddings(asked: Asked) -> Answer:
    """What OpenAI's documentation says, from OpenAI's own types, last vector first."""
    assert (asked.method, asked.path) == ("POST", "/v1/embeddings")
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    REQUEST.validate_python(asked.body)
    assert asked.body.keys() <= EmbeddingCreateParams.__annotations__.keys()
    texts = [asked.body["input"]] if isinstance(asked.body["input"], str) else asked.body["input"]
    assert texts
    assert len(texts) <= 2048
    assert all(texts)
    dim = asked.body.get("dimensions", DIM)
    data = [Embedding(embedding=vector(text)[:dim], index=n, object="embedding") for n, text in enumerate(texts)]
    usage = Usage(prompt_tokens=len(texts), total_tokens=len(texts))
    body = CreateEmbeddingResponse(data=data[::-1], model="large", object="list", usage=usage).model_dump()
    if asked.body.get("encoding_format") == "base64":
        for item in body["data"]:
            item["embedding"] = base64.b64encode(np.asarray(item["embedding"], "<f4").tobytes()).decode()
    return Answer(body)


@pytest.fixture
async def server() -> AsyncIterator[Played]:
    async with played() as ours:
        ours.answer = embeddings
        yield ours


Connect = Callable[..., Awaitable[OpenAIEmbedder]]


@pytest.fixture
async def connect(server: Played) -> AsyncIterator[Connect]:
    made: list[OpenAIEmbedder] = []

    async def connect(**changes: object) -> OpenAIEmbedder:
        given = {"url": f"{server.url}/v1", "model": "large", "api_key": KEY} | changes
        made.append(await OpenAIEmbedder.connect(EmbedderSettings.model_validate(given)))
        server.asked.clear()
        server.arrived.clear()
        return made[-1]

    yield connect
    for embedder in made:
        await embedder.aclose()


def then(*answers: Answer | bytes | None) -> Callable[[Asked], Answer | bytes | None]:
    """These, one a request, then good ones."""
    left: Iterator[Answer | bytes | None] = iter(answers)
    return lambda asked: next(left, embeddings(asked))


async def test_the_vendors_own_client_gets_the_same(server: Played, connect: Connect) -> None:
    ours = await connect()
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY) as client:
        theirs = await client.embeddings.create(model="large", input=["salt", "copper"])
    (mine_0, mine_1) = await ours.embed(["salt", "copper"], purpose="document")
    for mine, index in ((mine_0, 0), (mine_1, 1)):
        (their,) = [one.embedding for one in theirs.data if one.index == index]
        np.testing.assert_allclose(mine, np.asarray(their) / np.linalg.norm(their), atol=1e-6)


async def test_the_request_is_what_the_protocol_asks_for(server: Played, connect: Connect) -> None:
    embedder = await connect(dimensions=4)
    await embedder.embed(["a", "b"], purpose="document")
    await embedder.embed(["q"], purpose="query")
    assert [asked.body for asked in server.asked] == [
        {"model": "large", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 4},
        {"model": "large", "input": "q", "encoding_format": "base64", "dimensions": 4},
    ]
    assert embedder.space.dim == 4


async def test_a_server_that_gives_numbers_is_understood(server: Played, connect: Connect) -> None:
    expected = await (await connect()).embed(["a", "b"], purpose="document")
    server.answer = lambda asked: embeddings(
        Asked(asked.method, asked.path, asked.headers, {**asked.body, "encoding_format": "float"})
    )
    np.testing.assert_allclose(await (await connect()).embed(["a", "b"], purpose="document"), expected, atol=1e-6)


async def test_prefixes_and_input_types_go_with_their_purpose(server: Played, connect: Connect) -> None:
    server.answer = lambda asked: embeddings(
        Asked(asked.method, asked.path, asked.headers, {k: v for k, v in asked.body.items() if k != "input_type"})
    )
    embedder = await connect(
        query_prefix="query: ", document_prefix="passage: ", query_input_type="query", document_input_type="passage"
    )
    await embedder.embed(["a"], purpose="query")
    await embedder.embed(["a"], purpose="document")
    query, document = (asked.body for asked in server.asked)
    assert (query["input"], query["input_type"]) == ("query: a", "query")
    assert (document["input"], document["input_type"]) == (["passage: a"], "passage")


async def test_documents_go_in_parts_that_the_server_takes_and_a_few_at_a_time(
    server: Played, connect: Connect
) -> None:
    embedder = await connect(max_texts=3, max_request_bytes=20, concurrency=2)
    texts = ["x" * 15, *"abcdefg", "y" * 50, "é" * 9, "z"]
    vectors = await embedder.embed(texts, purpose="document")
    sent = [asked.body["input"] for asked in server.asked]
    assert sorted(text for part in sent for text in part) == sorted(texts)
    assert all(len(part) <= 3 and (len(part) == 1 or sum(len(text.encode()) for text in part) <= 20) for part in sent)
    assert server.most_in_flight <= 2
    for text, found in zip(texts, vectors, strict=True):
        expected = np.asarray(vector(text), np.float32)
        np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-6)


async def test_queries_do_not_wait_for_documents(server: Played, connect: Connect) -> None:
    embedder = await connect(concurrency=1)
    server.answer = lambda asked: embeddings(asked) if isinstance(asked.body["input"], str) else HANG
    ingest = asyncio.create_task(embedder.embed(["a document"], purpose="document"))
    await server.arrived.wait()
    assert (await embedder.embed(["q"], purpose="query")).shape == (1, DIM)
    ingest.cancel()
    await asyncio.gather(ingest, return_exceptions=True)
    await server.left.wait()


async def test_a_long_text_is_cut_before_it_is_sent(server: Played, connect: Connect) -> None:
    embedder = await connect(max_tokens=20, document_prefix="passage: ")
    await embedder.embed(["one two " * 50, "short"], purpose="document")
    long, short = server.asked[0].body["input"]
    assert long == "passage: " + ("one two " * 50)[: len(long) - len("passage: ")]
    assert len(embedder.token_spans(long)) <= 20 - 4
    assert short == "passage: short"


# ── limits and errors ────────────────────────────────────────────────────────────────────────────────────────────────


def limited(seconds: str | None = "0.01", status: int = 429) -> Answer:
    error = {
        "message": f"Rate limit reached for {KEY}",
        "type": "requests",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    return Answer({"error": error}, status, {"retry-after": seconds} if seconds else {})


@pytest.mark.parametrize("status", [429, 503])
async def test_documents_wait_as_long_as_the_server_says(server: Played, connect: Connect, status: int) -> None:
    embedder = await connect()
    server.answer = then(limited(status=status), limited(status=status))
    assert (await embedder.embed(["a"], purpose="document")).shape == (1, DIM)
    assert len(server.asked) == 3


@pytest.mark.parametrize(("seconds", "patience", "asked"), [("30", 5, 1), ("0", 0.2, 3), ("0", 0, 1), (None, 0.5, 1)])
async def test_but_not_longer_than_their_patience(
    server: Played, connect: Connect, seconds: str | None, patience: float, asked: int
) -> None:
    embedder = await connect(patience_s=patience)
    server.answer = lambda _: limited(seconds)
    with pytest.raises(Busy):
        await embedder.embed(["a"], purpose="document")
    assert len(server.asked) == asked


async def test_a_query_does_not_wait(server: Played, connect: Connect) -> None:
    embedder = await connect()
    server.answer = then(limited("0"))
    with pytest.raises(EngineUnavailable) as caught:
        await embedder.embed(["a"], purpose="query")
    assert len(server.asked) == 1
    assert isinstance(caught.value, Busy)
    assert caught.value.retry_after_s == 0


def openai_error(message: str, type_: str = "invalid_request_error", code: str | None = None) -> object:
    return {"error": {"message": message, "type": type_, "param": None, "code": code}}


TOO_LONG = (
    "This model's maximum context length is 8192 tokens, however you requested 9001 tokens for 'the secret apple'."
)
DOCUMENTED: list[tuple[int, object, type[EngineError], str]] = [
    (400, openai_error(TOO_LONG), EngineRejected, "embedder.max_tokens"),
    (400, openai_error("This model does not support specifying dimensions."), EngineRejected, "dimensions"),
    (401, openai_error(f"Incorrect API key provided: {KEY}", code="invalid_api_key"), EngineDenied, "embedder.api_key"),
    (403, openai_error("Country, region, or territory not supported"), EngineDenied, "embedder.api_key"),
    (404, openai_error("The model `large` does not exist", code="model_not_found"), EngineRejected, "embedder.model"),
    (429, openai_error("You exceeded your current quota", "insufficient_quota", "insufficient_quota"), EngineDenied, "quota"),
    (429, openai_error("Rate limit reached", "requests", "rate_limit_exceeded"), Busy, "embedder.concurrency"),
    (500, openai_error("The server had an error", "server_error"), EngineError, "log"),
    (503, openai_error("The engine is currently overloaded", "overloaded"), Busy, "limit"),
    # vLLM
    (400, {"object": "error", "message": TOO_LONG, "type": "BadRequestError", "code": 400}, EngineRejected, "max_tokens"),
    (404, {"error": {"message": "No model `large`.", "type": "NotFoundError", "code": 404}}, EngineRejected, "model"),
    # TEI
    (413, {"error": "`inputs` must have less than 9 tokens. Given: 60", "error_type": "Validation"}, EngineRejected, "tokens"),
    (413, {"error": "batch size 64 > maximum allowed batch size 32", "error_type": "Validation"}, EngineRejected, "max_texts"),
    (424, {"error": "Inference failed", "error_type": "Backend"}, EngineError, "log"),
    (429, {"error": "Model is overloaded", "error_type": "Overloaded"}, Busy, "limit"),
    # in between
    (302, b"<html>the secret apple", EngineRejected, "redirects"),
    (408, b"", EngineTimeout, "embedder.timeout_s"),
    (418, ["the secret apple"], EngineRejected, "log"),
    (502, b"<html>the secret apple", EngineUnavailable, "reachable"),
    (504, b"", EngineTimeout, "embedder.timeout_s"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "error", "step"), DOCUMENTED)
async def test_every_refusal_has_its_error_and_what_to_do(
    server: Played, connect: Connect, status: int, body: object, error: type[EngineError], step: str
) -> None:
    embedder = await connect(patience_s=0)
    for purpose in ("query", "document"):
        server.answer = lambda _: Answer(body, status)
        with pytest.raises(error) as caught:
            await embedder.embed(["the secret apple"], purpose=purpose)
        assert type(caught.value) is error
        assert step in caught.value.next_step
        for secret in (KEY, "apple"):
            assert secret not in f"{caught.value!s} {caught.value!r}"
        server.answer = embeddings
        assert (await embedder.embed(["again"], purpose=purpose)).shape == (1, DIM)


def _given(*vectors: object, **more: object) -> Answer:
    data = [{"object": "embedding", "index": n, "embedding": one} for n, one in enumerate(vectors)]
    return Answer({"object": "list", "data": data, "model": "large", **more})


NAN = base64.b64encode(np.full(DIM, np.nan, "<f4").tobytes()).decode()


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (_given([1.0] * 9), EngineRejected, "9 components"),
        (_given(NAN), EngineError, "NaN"),
        (_given([0.0] * DIM), EngineError, "no length"),
        (_given(), EngineError, "0 vectors came for 1"),
        (_given([1.0] * DIM, [1.0] * DIM), EngineError, "2 vectors came for 1"),
        (Answer({"data": [{"index": 1, "embedding": [1.0] * DIM}]}), EngineError, "shape"),
        (Answer({"data": [{"index": -1, "embedding": [1.0] * DIM}]}), EngineError, "index"),
        (Answer({"data": [{"embedding": [1.0] * DIM}]}), EngineError, "shape"),
        (Answer({"data": [{"index": 0, "embedding": "no base64!"}]}), EngineError, "shape"),
        (Answer({"data": [{"index": 0, "embedding": ["x"]}]}), EngineError, "shape"),
        (Answer({"data": [{"index": 0, "embedding": [[1.0]]}]}), EngineRejected, "components"),
        (Answer({"error": "the secret apple"}), EngineError, "shape"),
        (Answer(b"<html>the secret apple"), EngineError, "shape"),
        (b"no http at all\r\n\r\n", EngineUnavailable, "broke off"),
        (b"", EngineUnavailable, "broke off"),
    ],
)
async def test_an_answer_that_is_none_is_not_taken(
    server: Played, connect: Connect, answer: Answer | bytes, error: type[EngineError], words: str
) -> None:
    embedder = await connect()
    server.answer = lambda _: answer
    with pytest.raises(error, match=words) as caught:
        await embedder.embed(["the secret apple"], purpose="document")
    assert type(caught.value) is error
    assert "apple" not in str(caught.value)


async def test_an_index_that_comes_twice_is_not_taken(server: Played, connect: Connect) -> None:
    embedder = await connect()
    server.answer = lambda _: Answer({"data": [{"index": 0, "embedding": [1.0] * DIM}] * 2})
    with pytest.raises(EngineError, match="twice"):
        await embedder.embed(["a", "b"], purpose="document")


async def test_a_server_that_falls_silent_is_given_up(server: Played, connect: Connect) -> None:
    embedder = await connect(timeout_s=0.3)
    server.answer = lambda _: HANG
    for purpose in ("query", "document"):
        with pytest.raises(EngineTimeout, match="within"):
            await embedder.embed(["a"], purpose=purpose)
    await server.left.wait()


async def test_one_part_that_fails_stops_the_others(server: Played, connect: Connect) -> None:
    embedder = await connect(max_texts=1)
    server.answer = lambda asked: Answer({}, 500) if asked.body["input"] == ["bad"] else HANG
    with pytest.raises(EngineError, match="500"):
        await embedder.embed(["good", "bad", "good"], purpose="document")
    await server.left.wait()


async def test_nobody_there() -> None:
    with pytest.raises(EngineUnavailable, match="cannot be reached"):
        await OpenAIEmbedder.connect(EmbedderSettings(url=f"{nowhere()}/v1", model="large"))


# ── the space ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_space_names_what_document_vectors_depend_on(connect: Connect) -> None:
    space = (await connect()).space
    assert (space.model, space.precision, space.dim, space.max_tokens) == ("large", PRECISION, DIM, 512)
    assert (await connect(query_prefix="query: ", concurrency=9)).space == space
    others: list[dict[str, object]] = [{"revision": "2026-01"}, {"document_prefix": "passage: "}, {"dimensions": 4}]
    spaces = {(await connect(**other)).space for other in others}
    assert len({one.id for one in spaces | {space}}) == 4


async def test_a_model_that_the_provider_has_changed_is_noticed_at_the_start(server: Played, tmp_path: Path) -> None:
    def system(**changes: Any) -> Settings:
        return Settings(
            data_dir=tmp_path, embedder=EmbedderSettings(url=f"{server.url}/v1", model="large", api_key=KEY, **changes)
        )

    await (await build(system())).aclose()
    server.answer = lambda asked: _noisy(embeddings(asked))
    await (await build(system())).aclose()  # the last digits are nobody's model
    server.answer = lambda asked: _other(embeddings(asked))
    with pytest.raises(ConfigurationError, match=r"changed the model large") as caught:
        await build(system())
    assert "embedder.revision" in caught.value.next_step
    renamed = await build(system(revision="2026-11"))
    found = await renamed.search.search(SearchRequest("words", "default", frozenset()))
    assert found.degraded == ("dense",)
    await renamed.aclose()


async def test_away_at_the_start_the_other_leg_answers_until_it_is_back(server: Played, tmp_path: Path) -> None:
    chosen = EmbedderSettings(url=f"{server.url}/v1", model="large", api_key=KEY)
    system = await build(Settings(data_dir=tmp_path, embedder=chosen))
    house = House(system)
    await house.accept("leave.txt", "Everyone has 28 days of paid leave a year.")
    await house.work()
    await system.aclose()
    there = server.answer
    server.answer = lambda asked: Answer({}, 500)
    system = await build(Settings(data_dir=tmp_path, embedder=chosen))
    try:
        await system.warm()
        found = await system.search.search(SearchRequest("paid leave", "default", frozenset()))
        assert (len(found.passages), found.degraded) == (1, ("dense",))
        server.answer = lambda asked: _other(embeddings(asked))
        with pytest.raises(EngineRejected, match="changed the model large while it was away"):
            await system.embedder.embed(["a text"], purpose="document")
        server.answer = there
        found = await system.search.search(SearchRequest("paid leave, again", "default", frozenset()))
        assert (len(found.passages), found.degraded) == (1, ())
    finally:
        await system.aclose()


async def test_away_at_the_very_first_start_nobody_knows_the_dimension(server: Played, tmp_path: Path) -> None:
    server.answer = lambda asked: Answer({}, 500)
    chosen = EmbedderSettings(url=f"{server.url}/v1", model="large", api_key=KEY)
    with pytest.raises(EngineError, match="500"):
        await build(Settings(data_dir=tmp_path, embedder=chosen))


def _changed(answer: Answer, how: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Answer:
    body: Any = answer.body
    for item in body["data"]:
        numbers = np.frombuffer(base64.b64decode(item["embedding"]), "<f4")
        item["embedding"] = base64.b64encode(how(numbers).astype("<f4").tobytes()).decode()
    return Answer(body)


def _noisy(answer: Answer) -> Answer:
    return _changed(answer, lambda numbers: numbers * 1.003 + 0.01)


def _other(answer: Answer) -> Answer:
    return _changed(answer, lambda numbers: np.roll(numbers, 1))


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_model_must_be_named() -> None:
    with pytest.raises(ConfigurationError, match=r"embedder\.model"):
        await OpenAIEmbedder.connect(EmbedderSettings(url="http://127.0.0.1/v1"))


async def test_a_password_in_the_address_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="credentials") as caught:
        await OpenAIEmbedder.connect(EmbedderSettings(url=f"https://user:{KEY}@example.org/v1", model="large"))
    assert KEY not in str(caught.value)


async def test_a_dimension_that_the_model_does_not_give_is_refused(server: Played, connect: Connect) -> None:
    server.answer = lambda asked: embeddings(
        Asked(asked.method, asked.path, asked.headers, {**asked.body, "dimensions": 6})
    )
    with pytest.raises(ConfigurationError, match=r"embedder\.dimensions is 4"):
        await connect(dimensions=4)


async def test_a_tokenizer_that_is_not_there_is_named(connect: Connect, tmp_path: Path) -> None:
    with pytest.raises(MissingDependency, match=r"embedder\.tokenizer"):
        await connect(tokenizer=str(tmp_path / "none"))


def test_a_servers_setting_beside_a_local_model_is_refused() -> None:
    with pytest.raises(ValidationError, match="max_texts: only for an http"):
        EmbedderSettings(max_texts=5)


# ── tokens without the tokenizer ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name", ["on-the-origin-of-species.txt", "chemical-elements.csv", "planets.jsonl", "si-units.md"]
)
def test_approximate_tokens_are_about_as_many_as_the_models(embedder: LocalEmbedder, name: str) -> None:
    """The figures of docs/adr/0014."""
    text = (Path(__file__).resolve().parents[2] / "demo" / "documents" / name).read_text("utf-8")
    assert 0.95 <= len(approximate_spans(text)) / len(embedder.token_spans(text)) <= 1.2


def test_spans_of_a_named_tokenizer_leave_out_white_space_that_its_tokens_have() -> None:
    tokenizer = Tokenizer(WordLevel({"▁two": 0, "▁words": 1, "▁": 2}, unk_token="▁"))
    tokenizer.pre_tokenizer = Metaspace()
    text = "two  words "
    spans = NamedTokenizer(tokenizer).spans(text)
    assert [text[start:end] for start, end in spans] == ["two", "words"]
