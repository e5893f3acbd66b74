"""A real server on a socket, with what may stand before it: a gate that refuses, a line that is cut."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from fastapi import FastAPI
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ragline.cli.server import listen, serving
from ragline.cli.up import address
from ragline.client import AsyncClient
from ragline.settings import HttpSettings
from tests.api.conftest import OWNER, Api
from tests.api.conftest import api as api
from tests.job_house import TEXTS, Scripted, says

WITHIN_S = 20.0
"""No judgement: how long a test waits before it is called stuck."""


@asynccontextmanager
async def on_a_socket(app: ASGIApp) -> AsyncIterator[str]:
    listener = listen("127.0.0.1", 0)
    with listener:
        async with serving(cast(FastAPI, app), listener, HttpSettings(), work=None):
            yield address(listener)


class Gate:
    """Answers the next requests with what is in `answers`, by hand; then lets them pass. `seen`: headers of all of them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.answers: list[Response] = []
        self.seen: list[dict[str, str]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.seen.append({"": f"{scope['method']} {scope['path']}", **headers})
        await (self.answers.pop(0) if self.answers else self._app)(scope, receive, send)

    def passed(self, name: str = "") -> list[str | None]:
        """A header of each request so far; empty: its method and path."""
        return [headers.get(name) for headers in self.seen]


@pytest.fixture(scope="module", autouse=True)
async def pages(api: Api) -> None:
    await api.upload(*TEXTS.items())


@pytest.fixture
def gate(api: Api) -> Gate:
    return Gate(api.app)


@pytest.fixture
async def url(gate: Gate) -> AsyncIterator[str]:
    async with on_a_socket(gate) as url:
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(url, key=OWNER, timeout_s=WITHIN_S) as client:
        yield client


@pytest.fixture
def model(api: Api) -> Any:
    """Jobs are answered by the generator that the test names; afterwards by whatever it was."""

    def use(generator: Scripted) -> Scripted:
        says(api.system, generator)
        return generator

    kept = api.system.jobs.answers
    yield use
    api.system.jobs.answers = kept
