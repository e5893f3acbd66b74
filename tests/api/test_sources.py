"""Documents that a sync brings: whose they are, in which version, and what only that sync may delete."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Api

NAMESPACE = "synced"


@pytest.fixture(scope="module")
async def brought(api: Api) -> dict[str, str]:
    """uri → id of what two sources and a plain upload have brought."""
    await api.call("PUT", f"/v1/namespaces/{NAMESPACE}", status=201)
    files = [("a.md", "The anchor is heavy."), ("b.md", "The boat is blue.")]
    one = await api.upload(*files, namespace=NAMESPACE, source="one:/docs", version=["1", "2"])
    two = await api.upload(("c.md", "The crane is tall."), namespace=NAMESPACE, source="two:/docs", version=["3"])
    plain = await api.upload(("d.md", "The dock is dry."), namespace=NAMESPACE)
    return {one["uri"]: one["id"] for answer in (one, two, plain) for one in answer["documents"]}


async def synced(api: Api, source: str, **params: Any) -> Any:
    path = f"/v1/namespaces/{NAMESPACE}/sources/documents"
    return await api.call("GET", path, params={"source": source, **params})


async def test_sources_and_their_documents(api: Api, brought: dict[str, str]) -> None:
    listed = await api.call("GET", f"/v1/namespaces/{NAMESPACE}/sources")
    assert listed == {"sources": [{"source": "one:/docs", "documents": 2}, {"source": "two:/docs", "documents": 1}]}
    page = await synced(api, "one:/docs", limit=1)
    rest = await synced(api, "one:/docs", cursor=page["next"])
    both = page["documents"] + rest["documents"]
    assert {one["uri"]: one["version"] for one in both} == {"a.md": "1", "b.md": "2"}
    assert all(one["current"] and one["state"] == "indexed" for one in both)
    assert rest["next"] is None
    assert (await synced(api, "nobody"))["documents"] == []


async def test_a_document_has_one_source(api: Api, brought: dict[str, str]) -> None:
    path = f"/v1/namespaces/{NAMESPACE}/documents/{brought['a.md']}"
    before = await api.call("GET", path)
    refused = await api.upload(
        ("a.md", "Another anchor."), namespace=NAMESPACE, source="two:/docs", version=["9"], status=409
    )
    assert "one of the source 'one:/docs'" in refused["detail"]
    assert (await api.call("GET", path))["revision"] == before["revision"]


async def test_another_upload_leaves_the_version_unknown(api: Api, brought: dict[str, str]) -> None:
    await api.upload(("b.md", "The boat is blue."), namespace=NAMESPACE)
    versions = {one["uri"]: one["version"] for one in (await synced(api, "one:/docs"))["documents"]}
    assert versions["b.md"] == "2", "nothing has changed"
    await api.upload(("b.md", "The boat is red."), namespace=NAMESPACE)
    versions = {one["uri"]: one["version"] for one in (await synced(api, "one:/docs"))["documents"]}
    assert versions == {"a.md": "1", "b.md": ""}


async def test_only_its_own_documents_are_deleted(api: Api, brought: dict[str, str]) -> None:
    body = {"source": "two:/docs", "documents": [*brought.values(), "0" * 24]}
    gone = await api.call("POST", f"/v1/namespaces/{NAMESPACE}/sources/delete", json=body)
    assert gone["deleted"] == [brought["c.md"]]
    assert (await synced(api, "two:/docs"))["documents"] == []
    listed = (await api.call("GET", f"/v1/namespaces/{NAMESPACE}/documents"))["documents"]
    assert {one["uri"] for one in listed} == {"a.md", "b.md", "d.md"}


async def test_what_was_compared_counts_as_fresh(api: Api, brought: dict[str, str]) -> None:
    async def verified() -> dict[str, float]:
        listed = (await api.call("GET", f"/v1/namespaces/{NAMESPACE}/documents"))["documents"]
        return {one["uri"]: one["verified_at"] for one in listed}

    before = await verified()
    body = {"source": "one:/docs", "leave_out": [brought["b.md"]]}
    assert await api.call("POST", f"/v1/namespaces/{NAMESPACE}/sources/verified", json=body) == {"verified": 1}
    after = await verified()
    assert {uri for uri in after if after[uri] > before[uri]} == {"a.md"}


async def test_who_may_and_what_must_be_whole(api: Api, brought: dict[str, str]) -> None:
    reader = await api.new_key(role="read")
    for method, path in (("GET", ""), ("GET", "/documents?source=x"), ("POST", "/delete"), ("POST", "/verified")):
        await api.call(method, f"/v1/namespaces/{NAMESPACE}/sources{path}", key=reader, status=403)
    await api.call("GET", "/v1/namespaces/nowhere/sources", status=404)
    files = (("e.md", "E."), ("f.md", "F."))
    await api.upload(*files, namespace=NAMESPACE, source="one:/docs", version=["1"], status=422)
    await api.upload(*files, namespace=NAMESPACE, source=["one:/docs", "two:/docs"], status=422)
    await api.upload(*files, namespace=NAMESPACE, source="x" * 2_001, status=422)


async def test_a_namespace_made_anew_has_no_sources(api: Api) -> None:
    path = "/v1/namespaces/anew"
    for _ in range(2):
        await api.call("PUT", path, status=201)
        assert await api.call("GET", f"{path}/sources") == {"sources": []}
        await api.upload(("a.md", "The anchor."), namespace="anew", source="one:/docs", version=["1"])
        await api.call("DELETE", path)
