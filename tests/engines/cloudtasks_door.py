"""What stands between Google Cloud Tasks and a worker: the token that Google signs for each call, and the keys it publishes."""

from __future__ import annotations

import asyncio
import datetime
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import FastAPI
from google.auth import crypt, jwt
from starlette.responses import JSONResponse, PlainTextResponse

from tests.engines.cloudtasks import ACCOUNT


class Issuer:
    """Who signs tokens, and publishes the keys: as Google does, with RSA keys of its own."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers = True
        self.url = ""
        self._keys: dict[str, rsa.RSAPrivateKey] = {}
        self.rotate()

    def rotate(self) -> None:
        """Another key; the old ones are published no more."""
        self._keys = {secrets.token_hex(4): rsa.generate_private_key(public_exponent=65537, key_size=2048)}

    @property
    def keys(self) -> dict[str, str]:
        pem, spki = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        return {kid: key.public_key().public_bytes(pem, spki).decode() for kid, key in self._keys.items()}

    def token(self, audience: str, *, kid: str | None = "", **claims: Any) -> str:
        """As Google signs it. `kid`: that it names another key, or None. `claims`: other ones; None: without it."""
        now = int(datetime.datetime.now(tz=datetime.UTC).timestamp())
        said = {
            "iss": self.url, "aud": audience, "sub": "1", "email": ACCOUNT, "email_verified": True, "iat": now,
            "exp": now + 3600,
        } | claims  # fmt: skip
        (own, key), *_ = self._keys.items()
        signer = crypt.RSASigner(key, key_id=own if kid == "" else kid)  # type: ignore[no-untyped-call]
        made: bytes = jwt.encode(signer, {k: v for k, v in said.items() if v is not None})  # type: ignore[no-untyped-call]
        return made.decode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        await JSONResponse(self.keys if self.answers else {}, 200 if self.answers else 503)(scope, receive, send)


class Door:
    """The workers' address, as Google reaches it: it puts the token into each call and gives it to the application."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self.app: FastAPI | None = None
        self.url = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/certs":
            return await self.issuer(scope, receive, send)
        if self.app is None:
            return await PlainTextResponse("no worker", 503)(scope, receive, send)
        bearer = (b"authorization", f"Bearer {self.issuer.token(self.url)}".encode())
        return await self.app({**scope, "headers": [*scope["headers"], bearer]}, receive, send)

    def words(self) -> str:
        """Of the URL of a queue whose workers are here."""
        return f"target={self.url}&account={ACCOUNT}&issuer={self.issuer.url}&keys={self.url}/certs"


@asynccontextmanager
async def door() -> AsyncIterator[Door]:
    ours = Door(Issuer())
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    ours.url = ours.issuer.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    config = uvicorn.Config(ours, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    serving = uvicorn.Server(config)
    task = asyncio.create_task(serving.serve(sockets=[listening]))
    while not serving.started:
        await asyncio.sleep(0.01)
    try:
        yield ours
    finally:
        serving.should_exit = True
        await task
        listening.close()


async def post(app: FastAPI, path: str, body: bytes, token: str | None) -> httpx.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://worker") as client:
        return await client.post(path, content=body, headers=headers)
