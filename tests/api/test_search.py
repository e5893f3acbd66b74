"""Search over HTTP: filters, legs, batches, and clear words for a bad request."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import routing

from ragline.api.problems import problem
from ragline.errors import InvalidRequest
from ragline.types import Namespace, NamespaceSettings
from tests.api.conftest import Api

FIELDS = {"year": "integer", "kind": "keyword", "price": "number", "sold": "boolean", "day": "date"}


@pytest.fixture(scope="module", autouse=True)
async def shelves(api: Api) -> None:
    await api.call("PUT", "/v1/namespaces/shop", json={"fields": FIELDS}, status=201)
    for n in range(12):
        await api.upload(
            (f"{n}.txt", f"Garden chair number {n}, made of teak."), namespace="shop",
            metadata={"year": 2010 + n, "kind": "even" if n % 2 == 0 else "odd", "price": n + 0.5, "sold": n > 8,
                      "day": f"2024-01-{n + 1:02}"},
        )  # fmt: skip


async def _uris(api: Api, **body: Any) -> set[str]:
    found = await api.search("teak garden chair", namespace="shop", top_k=50, **body)
    return {passage["uri"] for passage in found["passages"]}


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({}, range(12)),
        ({"year": 2013}, [3]),
        ({"year": [2013, 2015]}, [3, 5]),
        ({"year": {"gte": 2019}}, [9, 10, 11]),
        ({"kind": "even", "price": {"lte": 4.5}}, [0, 2, 4]),
        ({"sold": True}, [9, 10, 11]),
        ({"day": {"gte": "2024-01-11", "lte": "2024-01-11"}}, [10]),
        ({"kind": "neither"}, []),
    ],
)
@pytest.mark.parametrize("legs", [["keyword"], ["dense"], ["keyword", "dense"]])
async def test_filters_hold_in_every_leg(api: Api, filters: dict[str, Any], wanted: list[int], legs: list[str]) -> None:
    assert await _uris(api, filters=filters, legs=legs) == {f"{n}.txt" for n in wanted}


@pytest.mark.parametrize(
    ("body", "field", "word"),
    [
        ({"query": "  "}, "query", "empty"),
        ({"query": "x" * 100_000}, "query", "8000"),
        ({"query": "x", "top_k": 0}, "top_k", "from 1"),
        ({"query": "x", "top_k": 1_000_000}, "top_k", "200"),
        ({"query": "x", "groups": ["admin"]}, "groups", "key"),
        ({"query": "x", "filters": {"colour": "red"}}, "filters.colour", "year"),
        ({"query": "x", "filters": {"year": "late"}}, "filters.year", "integer"),
        ({"query": "x", "filters": {"year": {"gt": 1}}}, "filters.year", "gte"),
        ({"query": "x", "filters": {"kind": {"gte": "a"}}}, "filters.kind", "range"),
        ({"query": "x", "legs": []}, "legs", "keyword"),
        ({"query": "x", "legs": ["sparse"]}, "legs", "keyword"),
        ({"query": 7}, "query", "string"),
        ({}, "query", "required"),
    ],
)
async def test_a_bad_request_names_the_field_the_reason_and_the_next_step(
    api: Api, body: dict[str, Any], field: str, word: str
) -> None:
    problem = await api.call("POST", "/v1/search", json={"namespace": "shop", **body}, status=422)
    assert field in problem["field"]
    assert word in problem["detail"] + problem["next_step"]
    assert problem["next_step"]


async def test_an_unknown_namespace_is_a_404_that_says_how_to_make_it(api: Api) -> None:
    problem = await api.search("x", namespace="nowhere", status=404)
    assert problem["title"] == "Not found"
    assert "PUT /v1/namespaces" in problem["next_step"]


async def test_a_batch_answers_each_query_in_order_and_get_is_the_same_as_post(api: Api) -> None:
    queries = ["chair number 3", "chair number 7"]
    bodies = [{"query": query, "namespace": "shop", "top_k": 1} for query in queries]
    batch = (await api.call("POST", "/v1/search", json=bodies))["results"]
    alone = [await api.call("GET", "/v1/search", params={"q": q, "namespace": "shop", "top_k": 1}) for q in queries]
    assert [one["passages"] for one in batch] == [one["passages"] for one in alone]
    assert [one["passages"][0]["uri"] for one in batch] == ["3.txt", "7.txt"]


async def test_distinct_documents_are_shown_once(api: Api) -> None:
    long = "\n\n".join(f"# Part {n}\n\n" + f"Windmills grind grain in part {n}. " * 30 for n in range(8))
    await api.upload(("windmills.md", long), namespace="shop")
    chunks = await api.search("windmills grind grain", namespace="shop", top_k=8)
    documents = await api.search("windmills grind grain", namespace="shop", top_k=8, distinct="document")
    assert [p["uri"] for p in chunks["passages"]].count("windmills.md") > 1
    assert [p["uri"] for p in documents["passages"]].count("windmills.md") == 1
    assert [p["n"] for p in documents["passages"]] == list(range(1, len(documents["passages"]) + 1))


async def test_min_sequence_from_the_future_answers_and_says_that_it_is_not_yet_visible(api: Api) -> None:
    system = api.system
    fast = system.settings.query.model_copy(update={"deadline_ms": 50})
    system.query._settings = fast
    found = await api.search("chair", namespace="shop", min_sequence=10**9)
    system.query._settings = system.settings.query
    assert found["degraded"] == ["not_yet_visible"]
    assert found["passages"]


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", "/v1/search", '{"query": "\\ud800"}', "query"),
        ("POST", "/v1/search", '{"query": "x", "namespace": "\\ud800"}', "namespace"),
        ("POST", "/v1/search", '{"query": "x", "filters": {"\\ud800": 1}}', "filters"),
        ("POST", "/v1/search", '{"query": "x", "\\ud800": 1}', ""),
        ("POST", "/v1/answers", '{"query": "\\ud800"}', "query"),
        ("POST", "/v1/embeddings", '{"input": ["x", "\\ud800"]}', "input"),
        ("PUT", "/v1/namespaces/odd", '{"fields": {"\\ud800": "integer"}}', "fields"),
        ("PUT", "/v1/namespaces/odd", '{"fusion": {"weights": {"dense": Infinity}}}', "fusion.weights.dense"),
        ("PUT", "/v1/namespaces/odd", '{"fusion": {"weights": {"dense": NaN}}}', "fusion.weights.dense"),
        ("PUT", "/v1/namespaces/odd", '{"fusion": {"weights": {"dense": 1e308}}}', "fusion.weights.dense"),
        ("POST", "/v1/search", '{"query": "x", "min_sequence": 9223372036854775808}', "min_sequence"),
        ("POST", "/v1/answers", '{"query": "x", "min_sequence": 9223372036854775808}', "min_sequence"),
        ("GET", "/v1/search?q=x&min_sequence=-1", "", "min_sequence"),
        ("GET", "/v1/search?q=x&min_sequence=9223372036854775808", "", "min_sequence"),
        ("GET", "/v1/search?q=x&filters=%7B%22%5Cud800%22:1%7D", "", "filters"),
        ("GET", "/v1/search?q=x&filters=%7B%22year%22:NaN%7D", "", "filters"),
    ],
)
async def test_what_no_engine_can_hold_is_a_bad_request(
    api: Api, method: str, path: str, body: str, field: str
) -> None:
    json_body = {"Content-Type": "application/json"}
    refused = await api.call(method, path, content=body, headers=json_body, status=422)
    assert refused.get("field", "") == field


def test_a_problem_can_be_encoded_whatever_it_repeats() -> None:
    answer = problem(InvalidRequest("No \ud800.", next_step="Not \udfff.", field="filters.\ud800"))
    assert json.loads(bytes(answer.body))["field"] == "filters.\\ud800"


async def test_a_body_that_grows_over_the_limit_while_it_is_read_is_too_large(api: Api) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(api.system.settings.http.max_body_bytes // 65_536 + 2):
            yield b" " * 65_536

    json_body = {"Content-Type": "application/json"}
    refused = await api.call("POST", "/v1/search", content=chunks(), headers=json_body, status=413)
    assert "http.max_body_bytes" in refused["next_step"]


async def test_two_that_create_a_namespace_at_once_both_have_it(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    creates, both = api.system.epochs.create_namespace, asyncio.Barrier(2)

    async def create(name: str, settings: NamespaceSettings) -> Namespace:
        await both.wait()
        return await creates(name, settings)

    monkeypatch.setattr(api.system.epochs, "create_namespace", create)
    async with api.client() as client:
        put = [client.put("/v1/namespaces/twins", json={"fields": {"year": "integer"}}) for _ in range(2)]
        answers = await asyncio.gather(*put)
    assert sorted(answer.status_code for answer in answers) == [200, 201]
    assert all(answer.json()["settings"]["fields"] == {"year": "integer"} for answer in answers)


async def test_tokens_are_counted_off_the_event_loop(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    served, threads = api.app.state.embedder, set()

    def token_spans(text: str) -> Any:
        threads.add(threading.current_thread())
        return served.token_spans(text)

    watched = SimpleNamespace(space=served.space, embed=served.embed, token_spans=token_spans)
    monkeypatch.setattr(api.app.state, "embedder", watched)
    answer = await api.call("POST", "/v1/embeddings", json={"input": "hello world"})
    assert answer["usage"]["prompt_tokens"] > 0
    assert threads
    assert threading.current_thread() not in threads


async def test_a_good_request_goes_straight_to_its_endpoint(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """FastAPI's way would cost half as much again as the search; what is wrong still takes it, for its words."""

    async def never(**_: Any) -> None:
        raise AssertionError("FastAPI's way was taken")

    monkeypatch.setattr(routing, "solve_dependencies", never)
    assert (await api.search("item", namespace="shop"))["passages"]
    await api.search("item", namespace="shop", key="rgl_unknown", status=401)
    monkeypatch.undo()
    refused = await api.call("POST", "/v1/search", json={"query": 7}, status=422)
    assert "query" in str(refused)


async def test_a_body_that_is_not_called_json_is_told_so(api: Api) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    told = await api.call("POST", "/v1/search", content=b'{"query": "item"}', headers=form, status=422)
    assert "application/json" in told["next_step"]
