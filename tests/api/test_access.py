"""Keys: hashed, for a role, for namespaces, for groups; open only on this machine and only while there is none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from ragline.api import access
from ragline.build import build
from ragline.settings import Settings
from tests.api.conftest import OWNER, Api


@pytest.fixture
async def fresh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """A system without any key."""
    system = await build(Settings(data_dir=tmp_path_factory.mktemp("data")))
    yield Api(system)
    await system.aclose()


async def _status(api: Api, *, key: str | None = None, peer: str = "127.0.0.1", **headers: str) -> int:
    async with api.client(key, peer=peer) as client:
        return (await client.get("/v1/namespaces", headers=headers)).status_code


async def test_without_a_key_only_this_machine_may_call(fresh: Api) -> None:
    assert await _status(fresh) == 200
    assert await _status(fresh, peer="192.0.2.7") == 401
    assert await _status(fresh, **{"X-Forwarded-For": "192.0.2.7"}) == 401
    assert await _status(fresh, Host="evil.example") == 401
    assert await _status(fresh, Origin="https://evil.example") == 401
    assert await _status(fresh, Origin="http://localhost:8080") == 200


async def test_once_a_key_exists_every_call_needs_one(fresh: Api) -> None:
    key = await fresh.new_key(role="admin")
    assert await _status(fresh) == 401
    assert await _status(fresh, key="rgl_0123_wrong") == 401
    assert await _status(fresh, key="not even a key") == 401
    assert await _status(fresh, key=key) == 200
    assert await _status(fresh, key=OWNER) == 200
    async with fresh.client(None) as client:
        refused = await client.get("/v1/namespaces")
        assert refused.headers["www-authenticate"] == "Bearer"
        assert "rgl_" in refused.json()["next_step"]
        assert (await client.get("/healthz")).status_code == 200


async def test_the_secret_is_kept_nowhere(fresh: Api) -> None:
    token = await fresh.new_key(role="read")
    secret = token.split("_", 2)[2].encode()
    await fresh.system.keys.caller(token)
    files = [path for path in fresh.system.settings.data_dir.rglob("*") if path.is_file()]
    assert files
    assert not any(secret in path.read_bytes() for path in files)


@pytest.mark.parametrize(
    ("role", "method", "path", "allowed"),
    [
        ("read", "GET", "/v1/namespaces/default", True),
        ("read", "POST", "/v1/namespaces/default/documents", False),
        ("read", "DELETE", "/v1/namespaces/default/documents/x", False),
        ("write", "DELETE", "/v1/namespaces/default/documents/x", True),
        ("write", "PATCH", "/v1/namespaces/default", False),
        ("write", "GET", "/v1/keys", False),
        ("admin", "GET", "/v1/keys", True),
    ],
)
async def test_a_role_bounds_what_a_key_may_do(api: Api, role: str, method: str, path: str, allowed: bool) -> None:
    key = await api.new_key(role=role)
    async with api.client(key) as client:
        status = (await client.request(method, path, json={} if method == "PATCH" else None)).status_code
    assert (status != 403) == allowed


async def test_a_key_for_another_namespace_is_refused_whether_or_not_it_exists(api: Api) -> None:
    await api.call("PUT", "/v1/namespaces/theirs", status=201)
    key = await api.new_key(namespaces=["default"], role="admin")
    for name in ("theirs", "not-there"):
        problem = await api.search("x", namespace=name, key=key, status=403)
        assert name in problem["detail"]
        await api.call("GET", f"/v1/namespaces/{name}", key=key, status=403)
        await api.call("POST", "/v1/answers", json={"query": "x", "namespace": name}, key=key, status=403)
    names = [one["name"] for one in (await api.call("GET", "/v1/namespaces", key=key))["namespaces"]]
    assert names == ["default"]


async def test_rotation_keeps_the_old_token_for_its_grace_and_revocation_ends_both(api: Api) -> None:
    old = await api.new_key()
    id = old.split("_")[1]
    new = (await api.call("POST", f"/v1/keys/{id}/rotate", params={"grace_s": 3600}))["token"]
    assert [await _status(api, key=key) for key in (old, new)] == [200, 200]
    newer = (await api.call("POST", f"/v1/keys/{id}/rotate", params={"grace_s": 0}))["token"]
    assert [await _status(api, key=key) for key in (old, new, newer)] == [401, 401, 200]
    await api.call("DELETE", f"/v1/keys/{id}")
    assert await _status(api, key=newer) == 401
    await api.call("DELETE", f"/v1/keys/{id}", status=404)


async def test_an_expired_key_is_refused(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "KEEP_S", -1.0)
    key = await api.new_key(expires_in_s=0.000001)
    problem = await api.search("x", key=key, status=401)
    assert "expired" in problem["detail"]


async def test_groups_of_the_caller_come_from_the_key_alone(api: Api) -> None:
    await api.upload(("board.txt", "The merger closes in March."), groups=["board"])
    outsider = await api.new_key()
    for attempt in ({"groups": ["board"]}, {"filters": {"groups": "board"}}):
        await api.search("merger", key=outsider, status=422, **attempt)
    found = await api.search("merger", key=outsider)
    assert all(passage["uri"] != "board.txt" for passage in found["passages"])


@pytest.mark.parametrize(
    "header",
    [
        {"Origin": "null"},  # a sandboxed frame of any site
        {"Origin": "file://"},
        {"Origin": ""},
        {"Origin": "http://["},
        {"Host": "["},
        {"Host": "[::1"},
        {"Host": ""},
        {"Via": "1.1 proxy"},
        {"X-Real-IP": "192.0.2.7"},
        {"X-Forwarded-Host": "rag.example"},
        {"Forwarded": "for=192.0.2.7"},
    ],
)
async def test_what_is_not_plainly_local_is_refused_while_there_is_no_key(fresh: Api, header: dict[str, str]) -> None:
    assert await _status(fresh, **header) == 401


async def test_a_caller_behind_a_unix_socket_has_no_address_and_is_local(fresh: Api) -> None:
    transport = httpx.ASGITransport(fresh.app, client=None)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/v1/namespaces")).status_code == 200
        assert (await client.get("/v1/namespaces", headers={"Host": ""})).status_code == 401


async def test_an_admin_of_some_namespaces_hands_out_no_more_than_it_holds(api: Api) -> None:
    admin = await api.new_key(role="admin", namespaces=["default", "mine"], groups=["hr"])

    async def create(status: int, **body: Any) -> Any:
        return await api.call("POST", "/v1/keys", json={"principal": "x", **body}, key=admin, status=status)

    await create(403)
    await create(403, role="admin", namespaces=None)
    await create(403, namespaces=["mine", "theirs"])
    await create(403, namespaces=["mine"], groups=["board"])
    made = await create(201, role="admin", namespaces=["mine"], groups=["hr"])
    assert (made["namespaces"], made["groups"]) == (["mine"], ["hr"])
    await api.call("POST", f"/v1/keys/{made['id']}/rotate", key=admin)
    await api.call("DELETE", f"/v1/keys/{made['id']}", key=admin)


async def test_an_admin_of_some_namespaces_administers_only_the_keys_bound_to_them(api: Api) -> None:
    admin = await api.new_key(role="admin", namespaces=["default"])
    ours = (await api.new_key(namespaces=["default"])).split("_")[1]
    for body in ({}, {"namespaces": ["theirs"]}, {"namespaces": ["default", "theirs"]}):
        other = (await api.new_key(**body)).split("_")[1]
        await api.call("POST", f"/v1/keys/{other}/rotate", key=admin, status=403)
        await api.call("DELETE", f"/v1/keys/{other}", key=admin, status=403)
    seen = (await api.call("GET", "/v1/keys", key=admin))["keys"]
    assert ours in {key["id"] for key in seen}
    assert all(key["namespaces"] == ["default"] for key in seen)
    boards = (await api.new_key(namespaces=["default"], groups=["board"])).split("_")[1]
    await api.call("POST", f"/v1/keys/{boards}/rotate", key=admin, status=403)  # its token would read for the board


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/keys", '{"principal": "x", "expires_in_s": Infinity}'), ("/v1/keys/x/rotate", "")]
)
async def test_a_key_ends_at_a_finite_time(api: Api, path: str, body: str) -> None:
    json_body = {"Content-Type": "application/json"}
    problem = await api.call("POST", path, params={"grace_s": "nan"}, content=body, headers=json_body, status=422)
    assert problem["field"] in ("expires_in_s", "grace_s")
