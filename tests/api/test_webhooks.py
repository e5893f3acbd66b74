"""Webhooks over HTTP: asked for with a question, told of its end, listed and replayed by their owner."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ragline.build import build
from ragline.settings import JobsSettings, Settings, WebhooksSettings
from ragline.webhooks.signing import Signing
from tests.api.conftest import OWNER, Api
from tests.engines.postgres import Postgres
from tests.receiving import SECRET, Answer, receiving

QUESTION = {"query": "How many days do customers have to return an unopened item?"}
LOOPBACK = {"allow_http": True, "allow_networks": ["127.0.0.0/8"], "first_backoff_s": 0.001, "attempts": 2}
WITHIN_S = 60.0


@pytest.fixture(scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """As `ragline up` is by default, but for its receivers, which are on loopback."""
    webhooks = WebhooksSettings.model_validate(LOOPBACK)
    system = await build(Settings(data_dir=tmp_path_factory.mktemp("data"), webhooks=webhooks))
    work = asyncio.create_task(system.work())
    api = Api(system)
    await api.upload(
        ("returns.md", "# Returns\n\nCustomers may return an unopened item within 30 days. A receipt is needed.")
    )
    yield api
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work
    await system.aclose()


async def _ask(api: Api, webhook: str, *, key: str | None = OWNER, status: int = 202, **body: Any) -> Any:
    return await api.call("POST", "/v1/queries", json=QUESTION | {"webhook": webhook} | body, key=key, status=status)


async def _deliveries(api: Api, *, key: str | None = OWNER, many: int = 1, **params: str) -> list[Any]:
    async with asyncio.timeout(WITHIN_S):
        while (
            len(found := (await api.call("GET", "/v1/webhooks/deliveries", key=key, params=params))["deliveries"])
            < many
        ):
            await asyncio.sleep(0.02)
    return list(found)


async def test_the_end_of_a_job_is_told_as_the_job_shows_it(api: Api) -> None:
    ann = await api.new_key(principal="told")
    async with receiving() as receiver:
        accepted = await _ask(api, receiver.url("/hook?token=abc"), key=ann)
        (delivery,) = await _deliveries(api, key=ann, state="delivered")
    (got,) = receiver.got
    (secret,) = await Signing(api.system.settings).secrets()
    event = got.verified(secret)
    job = await api.call("GET", f"/v1/jobs/{accepted['job_id']}", key=ann)
    assert event["type"] == "job.done"
    assert event["data"] == {"job_id": job["job_id"], "answer": job["answer"]}
    assert "30 days" in event["data"]["answer"]["answer"]
    assert delivery == {
        "id": got.id, "job_id": job["job_id"], "principal": "told", "url": receiver.url("/hook?token=abc"),
        "state": "delivered", "attempts": 1, "created_at": delivery["created_at"], "due_at": None, "status": 204, "error": None,
    }  # fmt: skip
    assert job["webhook"] == receiver.url("/hook?token=abc")


async def test_a_failure_is_told_too(api: Api) -> None:
    ann = await api.new_key(principal="failing")
    async with receiving() as receiver:
        accepted = await _ask(api, receiver.url(), key=ann, deadline_s=0.000_001)
        await _deliveries(api, key=ann, state="delivered")
    event = receiver.got[0].verified((await Signing(api.system.settings).secrets())[0])
    assert event["type"] == "job.failed"
    job = await api.call("GET", f"/v1/jobs/{accepted['job_id']}", key=ann)
    assert event["data"] == {"job_id": job["job_id"], "error": job["error"]}
    assert job["error"]["reason"] == "deadline"


async def test_a_dead_delivery_is_replayed_by_its_owner(api: Api) -> None:
    ann = await api.new_key(principal="ann")
    bob = await api.new_key(principal="bob")
    async with receiving(Answer(500)) as receiver:
        await _ask(api, receiver.url(), key=ann)
        (dead,) = await _deliveries(api, key=ann, state="dead")
        assert (dead["attempts"], dead["status"], dead["error"]) == (2, 500, "It answered 500.")
        assert await _deliveries(api, key=bob, many=0) == []
        path = f"/v1/webhooks/deliveries/{dead['id']}/replay"
        foreign = await api.call("POST", path, key=bob, status=404)
        none = await api.call("POST", path.replace("msg_", "msg_0"), key=bob, status=404)
        assert foreign["next_step"] == none["next_step"]
        receiver.answers[:] = [Answer()]
        again = await api.call("POST", path, key=ann, status=202)
        assert (again["id"], again["state"]) == (dead["id"], "waiting")
        (found,) = await _deliveries(api, key=ann, state="delivered")
        assert found["attempts"] == 3
        assert {got.id for got in receiver.got} == {dead["id"]}
        await api.call("POST", path, key=ann, status=202)  # one that was delivered, too
        await receiver.until(lambda: len(receiver.got) == 4)


async def test_an_admin_sees_all_but_the_paths_which_may_be_secret(api: Api) -> None:
    ann = await api.new_key(principal="cora")
    root = await api.new_key(principal="root", role="admin")
    bound = await api.new_key(principal="bound", role="admin", namespaces=["default"])
    async with receiving() as receiver:
        await _ask(api, receiver.url("/T0/secret"), key=ann)
        (own,) = await _deliveries(api, key=ann, state="delivered")
        (seen,) = [one for one in await _deliveries(api, key=root) if one["id"] == own["id"]]
        assert own["url"].endswith("/T0/secret")
        assert seen["url"] == f"http://127.0.0.1:{receiver.port}/…"
        assert await _deliveries(api, key=bound, many=0) == []
        await api.call("POST", f"/v1/webhooks/deliveries/{own['id']}/replay", key=root, status=202)
        await api.call("POST", f"/v1/webhooks/deliveries/{own['id']}/replay", key=bound, status=404)
        await receiver.until(lambda: len(receiver.got) == 2)


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/latest/meta-data/", "http://[::ffff:127.0.0.1]:1/x", "http://10.0.0.1/", "http://0/"],
)
async def test_where_it_must_not_go_is_said_at_once(api: Api, url: str) -> None:
    before = await api.system.jobs.store.lengths()
    refused = await _ask(api, url, status=422)
    assert refused["field"] == "webhook"
    assert "webhooks.allow_networks" in refused["next_step"]
    assert await api.system.jobs.store.lengths() == before


async def test_odd_requests(api: Api) -> None:
    await api.call("GET", "/v1/webhooks/deliveries", params={"state": "odd"}, status=422)
    await api.call("GET", "/v1/webhooks/deliveries", params={"limit": "0"}, status=422)
    for id in ("none", "%00", "x" * 4_000, "..%2f..", "msg_é"):
        await api.call("POST", f"/v1/webhooks/deliveries/{id}/replay", status=404)
    await api.new_key(principal="somebody")
    await api.call("GET", "/v1/webhooks/deliveries", key=None, status=401)


async def test_without_a_secret_on_a_server_none_is_accepted(postgres: Postgres, tmp_path: Path) -> None:
    for given, status in (({}, 422), ({"secrets": [SECRET]}, 202)):
        webhooks = WebhooksSettings.model_validate(LOOPBACK | given)
        jobs = JobsSettings(url=await postgres.database())
        system = await build(Settings(data_dir=tmp_path, jobs=jobs, webhooks=webhooks))
        try:
            assert (system.webhook_worker is None) is (status == 422)
            refused = await _ask(Api(system), "http://127.0.0.1/", status=status)
            if status == 422:
                assert refused["field"] == "webhook"
                assert "webhooks.secrets" in refused["next_step"]
        finally:
            await system.aclose()
