"""`POST /v1/redrive`, as Alertmanager calls it."""

from __future__ import annotations

import pytest

from .conftest import Api

FIRING = {"version": "4", "status": "firing", "alerts": [{"labels": {"alertname": "RaglinePassagesStale"}}]}


async def test_what_is_stale_is_told_with_what_was_done(api: Api) -> None:
    await api.call("PATCH", "/v1/namespaces/default", json={"verify_within_s": 3600})
    made = await api.upload(("a.txt", "Apples are red."))
    assert await api.call("POST", "/v1/redrive", json=FIRING) == {"counts": {}, "documents": []}
    back = "UPDATE documents SET verified_at = verified_at - 4000"
    await api.system.database.write(lambda c: c.exec_driver_sql(back).rowcount)
    told = await api.call("POST", "/v1/namespaces/default/redrive")
    assert told["counts"] == {"unverified": 1}
    (one,) = told["documents"]
    assert (one["id"], one["uri"], one["why"]) == (made["documents"][0]["id"], "a.txt", "unverified")
    await api.upload(("a.txt", "Apples are red."))  # found unchanged
    assert (await api.call("POST", "/v1/redrive", json=FIRING))["counts"] == {}
    brief = await api.call("PATCH", "/v1/namespaces/default", json={"verify_within_s": 0})
    assert brief["settings"]["verify_within_s"] is None


async def test_only_admins_and_only_their_namespaces(api: Api) -> None:
    await api.call("PUT", "/v1/namespaces/other", status=201)
    writer = await api.new_key(role="write")
    bound = await api.new_key(role="admin", namespaces=["other"])
    await api.call("POST", "/v1/redrive", key=writer, status=403)
    assert (await api.call("POST", "/v1/redrive", key=bound))["documents"] == []
    await api.call("POST", "/v1/namespaces/default/redrive", key=bound, status=403)
    await api.call("POST", "/v1/namespaces/nowhere/redrive", status=404)


@pytest.mark.parametrize("body", [b"", b"no json", b"[1, 2]"])
async def test_the_body_is_not_looked_at(api: Api, body: bytes) -> None:
    await api.call("POST", "/v1/redrive", content=body)
