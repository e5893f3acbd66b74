"""Jobs over HTTP: accepted once, followed on any connection from any place on, read by their owner alone."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from ragline.cli.server import listen, serving
from ragline.cli.up import address
from ragline.settings import HttpSettings
from ragline.types import JobLimits
from tests.api.conftest import OWNER, Api
from tests.job_house import Scripted, says

QUESTION = {"query": "How many days do customers have to return an unopened item?", "namespace": "help"}
WITHIN_S = 60.0


@pytest.fixture(scope="module", autouse=True)
async def help_pages(api: Api) -> None:
    await api.call("PUT", "/v1/namespaces/help", status=201)
    await api.upload(
        ("returns.md", "# Returns\n\nCustomers may return an unopened item within 30 days. A receipt is needed."),
        ("shipping.md", "# Shipping\n\nOrders leave the warehouse on the next working day. Shipping costs 5 euros."),
        namespace="help",
    )


@pytest.fixture
def model(api: Api) -> Any:
    """Answers come from the generator that the test names; afterwards from whatever it was."""

    def use(generator: Scripted) -> Scripted:
        says(api.system, generator)
        return generator

    kept = api.system.jobs.answers
    yield use
    api.system.jobs.answers = kept


@pytest.fixture
async def url(api: Api) -> AsyncIterator[str]:
    """A real server: only over a connection does a stream come piece by piece."""
    listener = listen("127.0.0.1", 0)
    with listener:
        async with serving(api.app, listener, HttpSettings(), work=None):
            yield address(listener)


@asynccontextmanager
async def _client(url: str, key: str = OWNER) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=WITHIN_S, trust_env=False) as client:
        yield client


async def _accept(api: Api, *, status: int = 202, key: str | None = OWNER, headers: Any = None, **body: Any) -> Any:
    return await api.call("POST", "/v1/queries", json=QUESTION | body, status=status, key=key, headers=headers)


async def _ended(api: Api, id: str) -> Any:
    async with asyncio.timeout(WITHIN_S):
        while True:
            job = await api.call("GET", f"/v1/jobs/{id}")
            if job["state"] in ("done", "failed"):
                return job
            await asyncio.sleep(0.02)


def _parsed(text: str) -> list[tuple[int, str, Any]]:
    events = []
    for block in re.sub(r"(?m)^:.*\n\n?", "", text).strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        events.append((int(lines["id"]), lines["event"], json.loads(lines["data"])))
    return events


async def test_a_question_is_accepted_followed_and_answered(api: Api) -> None:
    async with api.client() as client:
        response = await client.post("/v1/queries", json=QUESTION)
    assert response.status_code == 202
    accepted = response.json()
    id = accepted["job_id"]
    assert accepted == {"job_id": id, "state": "queued", "events_url": f"/v1/jobs/{id}/events"}
    assert response.headers["location"] == f"/v1/jobs/{id}"
    events = await api.call("GET", accepted["events_url"])
    assert events.headers["content-type"].startswith("text/event-stream")
    assert events.headers["cache-control"] == "no-store"
    told = _parsed(events.text)
    assert [number for number, _, _ in told] == list(range(1, len(told) + 1))
    names = list(dict.fromkeys(name for _, name, _ in told))
    assert names == ["queued", "retrieving", "passages", "generating", "token", "done"]
    job = await _ended(api, id)
    assert job["state"] == "done"
    assert "30 days" in job["answer"]["answer"]
    assert job["answer"]["passages"][0]["uri"] == "returns.md"
    assert told[-1][2] == job["answer"]
    assert (job["query"], job["namespace"], job["error"]) == (QUESTION["query"], "help", None)
    listed = (await api.call("GET", "/v1/jobs", params={"limit": 1}))["jobs"]
    assert [one["job_id"] for one in listed] == [id]
    assert listed[0]["answer"] is None


async def test_a_stream_cut_anywhere_goes_on_byte_for_byte(api: Api) -> None:
    accepted = await _accept(api)
    path = accepted["events_url"]
    whole = (await api.call("GET", path)).text
    blocks = whole.split("\n\n")[:-1]
    assert len(blocks) >= 6
    for last in range(1, len(blocks)):
        rest = await api.call("GET", path, headers={"Last-Event-ID": str(last)})
        assert "\n\n".join(blocks[:last]) + "\n\n" + rest.text == whole
    after = await api.call("GET", path, headers={"Last-Event-ID": str(len(blocks))}, status=204)
    assert after.text == ""


@pytest.mark.parametrize("last", ["1000000", "-1", "x", "1.5", "9" * 30, "٣"])
async def test_a_last_event_id_that_cannot_be_is_refused_in_words(api: Api, last: str) -> None:
    path = (await _accept(api))["events_url"]
    refused = await api.call("GET", path, headers={"Last-Event-ID": last.encode()}, status=422)
    assert refused["field"] == "Last-Event-ID"
    assert refused["next_step"]


async def test_events_are_gone_after_their_time_and_the_job_is_not(api: Api) -> None:
    id = (await _accept(api))["job_id"]
    await _ended(api, id)
    await api.system.jobs.store.upkeep(events_s=-3600.0, jobs_s=1e6)
    gone = await api.call("GET", f"/v1/jobs/{id}/events", status=410)
    assert gone["type"].endswith("#Gone")
    assert f"/v1/jobs/{id}" in gone["next_step"]
    assert (await api.call("GET", f"/v1/jobs/{id}"))["answer"]


async def test_a_stream_comes_piece_by_piece_and_ends_with_a_cancel(api: Api, url: str, model: Any) -> None:
    steps = asyncio.Semaphore(1)
    generator = model(Scripted(steps=steps))
    id = (await _accept(api))["job_id"]
    async with _client(url) as client, client.stream("GET", f"/v1/jobs/{id}/events") as response:
        text = ""
        async with asyncio.timeout(WITHIN_S):
            async for piece in response.aiter_text():
                text += piece
                if "event: token" in text and "failed" not in text:
                    cancelled = await client.delete(f"/v1/jobs/{id}")
                    assert cancelled.json()["error"]["reason"] == "cancelled"
                    steps.release()
    assert _parsed(text)[-1][1:] == ("failed", cancelled.json()["error"])
    async with asyncio.timeout(WITHIN_S):
        while not generator.closed:
            await asyncio.sleep(0.01)
    assert len(generator.asked) == 1
    again = await api.call("DELETE", f"/v1/jobs/{id}")
    assert again == cancelled.json()


async def test_a_client_that_leaves_costs_the_job_nothing(api: Api, url: str, model: Any) -> None:
    steps = asyncio.Semaphore(1)
    model(Scripted(steps=steps))
    id = (await _accept(api))["job_id"]
    async with _client(url) as client, client.stream("GET", f"/v1/jobs/{id}/events") as response:
        async with asyncio.timeout(WITHIN_S):
            async for piece in response.aiter_text():
                if "event: token" in piece:
                    break
    for _ in range(9):
        steps.release()
    assert (await _ended(api, id))["state"] == "done"
    async with asyncio.timeout(WITHIN_S):
        while api.system.job_watching._followed:
            await asyncio.sleep(0.01)


async def test_a_failed_job_is_begun_again(api: Api, model: Any) -> None:
    steps = asyncio.Semaphore(0)
    model(Scripted(steps=steps))
    id = (await _accept(api))["job_id"]
    refused = await api.call("POST", f"/v1/jobs/{id}/retry", status=409)
    assert "only a failed one" in refused["detail"]
    await api.call("DELETE", f"/v1/jobs/{id}")
    model(Scripted())
    again = await api.call("POST", f"/v1/jobs/{id}/retry", json={"deadline_s": 60}, status=202)
    assert again == {"job_id": id, "state": "queued", "events_url": f"/v1/jobs/{id}/events"}
    job = await _ended(api, id)
    assert (job["state"], job["retries"], job["error"]) == ("done", 1, None)
    told = [name for _, name, _ in _parsed((await api.call("GET", f"/v1/jobs/{id}/events")).text)]
    assert told.count("queued") == 2
    assert told[-1] == "done"


async def test_fifty_at_once_with_one_key_are_one_job_and_one_call(api: Api, url: str, model: Any) -> None:
    generator = model(Scripted())
    async with _client(url) as client:
        asked = [client.post("/v1/queries", json=QUESTION, headers={"Idempotency-Key": "fifty"}) for _ in range(50)]
        answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} == {202}
    ids = {answer.json()["job_id"] for answer in answers}
    assert len(ids) == 1
    await _ended(api, ids.pop())
    assert len(generator.asked) == 1


async def test_the_same_key_is_the_same_job_in_any_state_and_no_other_body(api: Api) -> None:
    headers = {"Idempotency-Key": "mine"}
    first = await _accept(api, headers=headers)
    await _ended(api, first["job_id"])
    again = await _accept(api, headers=headers)
    assert (again["job_id"], again["state"]) == (first["job_id"], "done")
    for other in ({"top_k": 3}, {"deadline_s": 5}, {"filters": {}, "min_sequence": 1}, {"query": "Another one?"}):
        refused = await _accept(api, status=422, headers=headers, **other)
        assert refused["field"] == "Idempotency-Key"
        assert first["job_id"] in refused["detail"]


async def test_somebody_elses_job_looks_like_none(api: Api) -> None:
    ann, bob = await api.new_key(principal="ann"), await api.new_key(principal="bob")
    more = await api.new_key(principal="ann", groups=["hr"])
    id = (await _accept(api, key=ann))["job_id"]
    of_hr = (await _accept(api, key=more))["job_id"]
    unknown = "0" * 32
    for method, path, status in (
        ("GET", "/v1/jobs/{}", 200), ("GET", "/v1/jobs/{}/events", 200), ("POST", "/v1/jobs/{}/retry", 409),
        ("DELETE", "/v1/jobs/{}", 200),
    ):  # fmt: skip
        foreign = await api.call(method, path.format(id), key=bob, status=404)
        none = await api.call(method, path.format(unknown), key=bob, status=404)
        assert foreign.pop("request_id") != none.pop("request_id")
        assert json.dumps(foreign).replace(id, "") == json.dumps(none).replace(unknown, "")
        await api.call(method, path.format(of_hr), key=ann, status=404)  # asked by a key that may read more
        await _ended_or_not(api, id)
        assert (await api.call(method, path.format(id), key=more, status=status)) is not None
    assert (await api.call("GET", "/v1/jobs", key=bob))["jobs"] == []
    await api.call("GET", f"/v1/jobs/{id}", key=None, status=401)


async def _ended_or_not(api: Api, id: str) -> None:
    async with asyncio.timeout(WITHIN_S):
        while (await api.system.jobs.store.get(id)).queue is not None:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"query": " "}, "query"), ({"query": "x" * 10_000}, "query"), ({"top_k": 0}, "top_k"),
        ({"top_k": 10_000}, "top_k"), ({"deadline_s": 0}, "deadline_s"), ({"deadline_s": 1e9}, "deadline_s"),
        ({"deadline_s": "soon"}, "deadline_s"), ({"filters": {"no": 1}}, "filters.no"), ({"min_sequence": -1}, "min_sequence"),
        ({"webhook": "ftp://example.org"}, "webhook"), ({"webhook": "https://user:secret@example.org"}, "webhook"),
        ({"webhook": "https://"}, "webhook"), ({"webhook": "https://example.org:99999/"}, "webhook"),
        ({"webhook": "https://example.org/" + "x" * 3_000}, "webhook"), ({"webhook": "https://[::1/"}, "webhook"),
        ({"groups": ["hr"]}, "groups"), ({"query": "\ud800"}, "query"), ({"webhook": "http://a b/"}, "webhook"),
    ],
)  # fmt: skip
async def test_what_is_wrong_with_a_question_is_said_at_once(api: Api, body: Any, field: str) -> None:
    before = await api.system.jobs.store.lengths()
    refused = await api.call(
        "POST", "/v1/queries", content=json.dumps(QUESTION | body), headers={"Content-Type": "application/json"},
        status=422,
    )  # fmt: skip
    assert refused["field"] == field
    assert refused["next_step"]
    assert "secret" not in json.dumps(refused)
    assert await api.system.jobs.store.lengths() == before


async def test_keys_that_cannot_be_and_namespaces_that_are_not(api: Api) -> None:
    for key in ("", "x" * 256):
        refused = await _accept(api, status=422, headers={"Idempotency-Key": key})
        assert refused["field"] == "Idempotency-Key"
    await _accept(api, status=404, namespace="none")
    elsewhere = await api.new_key(principal="ann", namespaces=["other"])
    await _accept(api, status=403, key=elsewhere)
    for id in ("x", "..%2f..", "%00", "A" * 32, "9" * 4_000):
        await api.call("GET", f"/v1/jobs/{id}", status=404)
    await api.call("GET", "/v1/jobs", params={"before": "x"}, status=422)
    await api.call("GET", "/v1/jobs", params={"state": "odd"}, status=422)


async def test_a_full_queue_is_a_429_with_a_time_to_wait(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.system.jobs, "_limits", JobLimits(most=0, of_namespace=0))
    async with api.client() as client:
        refused = await client.post("/v1/queries", json=QUESTION)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["retryable"] is True


async def test_ready_and_metrics_know_of_jobs(api: Api) -> None:
    assert (await api.call("GET", "/readyz"))["ready"] is True
    accepted = await _accept(api)
    await _ended(api, accepted["job_id"])
    async with asyncio.timeout(WITHIN_S):
        while 'queue_length{queue="generation"}' not in (text := (await api.call("GET", "/metrics")).text):
            await asyncio.sleep(0.05)
    assert 'jobs_total{outcome="done"}' in text
