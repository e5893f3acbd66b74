"""The audit over HTTP: who may ask for it, and what of."""

from __future__ import annotations

from .conftest import Api


async def test_an_audit_finds_and_mends(api: Api) -> None:
    body = await api.upload(("audited.txt", "Herons wade."))
    id = body["documents"][0]["id"]
    before = await api.call("POST", "/v1/audit")
    assert before["findings"] == []
    assert before["documents"] >= 1
    namespace = await api.system.namespaces.get("default")
    live = (await api.call("GET", f"/v1/namespaces/default/documents/{id}"))["live"]
    await api.system.vectors.delete(namespace.epoch.vectors, {id: live + 1})
    (found,) = (await api.call("POST", "/v1/audit", json={"namespaces": ["default"]}))["findings"]
    assert (found["kind"], found["document"], found["remedy"], found["mended"]) == (
        "missing chunks", id, "parse it again", None,
    )  # fmt: skip
    (mended,) = (await api.call("POST", "/v1/audit", json={"mend": True}))["findings"]
    assert mended["mended"] == "made due again: to be parsed"
    sequence = (await api.call("GET", "/v1/namespaces/default"))["sequence"]
    assert await api.system.documents.settled("default", sequence, deadline_s=60.0)
    assert (await api.call("POST", "/v1/audit"))["findings"] == []


async def test_only_admins_audit_and_only_their_namespaces(api: Api) -> None:
    await api.call("PUT", "/v1/namespaces/theirs", status=201)
    scoped = await api.new_key(role="admin", namespaces=["theirs"])
    writer = await api.new_key(role="write")
    await api.call("POST", "/v1/audit", key=writer, status=403)
    assert (await api.call("POST", "/v1/audit", key=scoped))["namespaces"] == 1
    await api.call("POST", "/v1/audit", key=scoped, json={"namespaces": ["default"]}, status=403)
    await api.call("POST", "/v1/audit", json={"namespaces": ["nowhere"]}, status=404)
    wrong = await api.call("POST", "/v1/audit", json={"mend": "perhaps"}, status=422)
    assert wrong["field"] == "mend"
