"""A whole system on the embedded engines, one a test module, spoken to over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest

from ragline.api.app import gateway
from ragline.build import build
from ragline.settings import Settings
from ragline.system import System

OWNER = "owner-token"


class Api:
    """The HTTP interface as a user scripts it. Every call asserts the status it expects."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.app = gateway(system, owner_token=OWNER)

    @contextlib.asynccontextmanager
    async def client(self, key: str | None = OWNER, *, peer: str = "127.0.0.1") -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, client=(peer, 1234))
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8080", headers=headers) as client:
            yield client

    async def call(self, method: str, path: str, *, key: str | None = OWNER, status: int = 200, **kwargs: Any) -> Any:
        async with self.client(key) as client:
            response = await client.request(method, path, **kwargs)
        assert response.status_code == status, response.text
        return response.json() if "json" in response.headers.get("content-type", "") else response

    async def upload(
        self, *files: tuple[str, bytes | str], namespace: str = "default", status: int = 200, key: str | None = OWNER,
        wait: bool = True, metadata: Mapping[str, Any] | None = None, **fields: Any,
    ) -> Any:  # fmt: skip
        parts = [("file", (name, data.encode() if isinstance(data, str) else data)) for name, data in files]
        form = {**fields, "metadata": json.dumps(metadata or {})}
        path = f"/v1/namespaces/{namespace}/documents"
        return await self.call(
            "POST", path, files=parts, data=form, params={"wait": str(wait).lower()}, status=status, key=key
        )

    async def search(self, query: str, *, key: str | None = OWNER, status: int = 200, **body: Any) -> Any:
        return await self.call("POST", "/v1/search", json={"query": query, **body}, key=key, status=status)

    async def new_key(self, **body: Any) -> str:
        made = await self.call("POST", "/v1/keys", json={"principal": "tester", **body}, status=201)
        return str(made["token"])


@pytest.fixture(scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    system = await build(Settings(data_dir=tmp_path_factory.mktemp("data")))
    work = asyncio.create_task(system.work())
    yield Api(system)
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work
    await system.aclose()
