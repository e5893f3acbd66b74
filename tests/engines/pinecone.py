"""A played Pinecone: a control plane, and each index on an address of its own (`pinecone_index`).

There is no Pinecone that runs here. Set ``RAGLINE_TEST_PINECONE=pinecone://INDEX?cloud=aws&region=us-east-1`` (with the key in
PINECONE_API_KEY) and the contract runs against the service instead; it makes and drops namespaces named ``ragline.contract-…``.

    python -m tests.engines.pinecone        plays until it is stopped, for bench/adapters; prints the URL for `vectors`
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.engines.pinecone_index import PlayedIndex
from tests.engines.played import Answer, Asked, Played
from tests.engines.server import given

KEY = "pcsk_played"
VERSION = "2026-07"
Reply = Answer | bytes | None

UNAUTHORIZED = Answer(b"Invalid API Key", status=401, headers={"content-type": "text/plain"})


def error(http: int, code: str, message: str) -> Answer:
    """The body of the control plane's errors (ErrorResponse)."""
    return Answer({"status": http, "error": {"code": code, "message": message}}, status=http)


class Address(Played):
    """A server that can go, with its connections, and come back where it was."""

    def __init__(self, answer: Callable[[Asked], Reply]) -> None:
        super().__init__(answer=answer)
        self._server: asyncio.Server | None = None
        self._lines: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}

    async def start(self) -> None:
        port = urlsplit(self.url).port or 0
        self._server = await asyncio.start_server(self.handle, "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for line in self._lines.values():
            line.close()
        if self._lines:
            await asyncio.wait(list(self._lines))

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._lines[task] = writer
        try:
            await super().handle(reader, writer)
        finally:
            del self._lines[task]


class PlayedPinecone:
    """`say` lays an answer out before what is true; `asked` is every request so far, as (method, path)."""

    def __init__(self, *, lag: int = 2) -> None:
        self.lag, self.key = lag, KEY
        self.indexes: dict[str, PlayedIndex] = {}
        self.addresses: dict[str, Address] = {}
        self.asked: list[tuple[str, str]] = []
        self._said: list[tuple[str, Reply, int]] = []
        self._starting: set[asyncio.Task[None]] = set()
        self._told: dict[str, dict[str, Any]] = {}
        self.control = Address(self._control)

    def url(self, indexes: str = "docs", key: str = KEY, **words: object) -> str:
        """As `vectors` is set."""
        more = "".join(f"&{name}={value}" for name, value in words.items())
        return f"pinecone://:{key}@{indexes}?control={self.control.url}&cloud=aws&region=us-east-1{more}"

    async def add(self, name: str, dim: int, metric: str = "cosine", **told: Any) -> PlayedIndex:
        index = self._made(name, dim, metric, **told)
        await asyncio.gather(*self._starting)
        return index

    async def remove(self, name: str) -> None:
        """Deleted in the console, say."""
        del self.indexes[name], self._told[name]
        await self.addresses[name].stop()

    async def restart(self, name: str = "docs") -> None:
        await self.addresses[name].stop()
        await self.addresses[name].start()

    def say(self, path: str, reply: Reply, times: int = 1) -> None:
        """To the next requests whose path begins so."""
        self._said.append((path, reply, times))

    @property
    def refused(self) -> list[str]:
        return [words for index in self.indexes.values() for words in index.refused]

    def _made(self, name: str, dim: int, metric: str, **told: Any) -> PlayedIndex:
        index = self.indexes[name] = PlayedIndex(name, dim, metric, lag=self.lag)
        address = self.addresses[name] = Address(lambda asked: self._asked(asked, index.answer))
        field = {"type": "dense_vector", "dimension": dim, "metric": metric}
        self._told[name] = {
            "name": name, "schema": {"fields": {"_values": field}}, "deletion_protection": "disabled", "tags": None,
            "deployment": {"deployment_type": "managed", "cloud": "aws", "region": "us-east-1"},
            "read_capacity": {"mode": "OnDemand", "status": {"state": "Ready"}},
            "status": {"ready": True, "state": "Ready"}, **told,
        }  # fmt: skip
        self._starting.add(task := asyncio.ensure_future(address.start()))
        task.add_done_callback(self._starting.discard)
        return index

    def _asked(self, asked: Asked, answer: Callable[[Asked], Reply]) -> Reply:
        self.asked.append((asked.method, asked.path))
        assert asked.headers["x-pinecone-api-version"] == VERSION
        assert "python-client" in asked.headers["user-agent"] or "pinecone" in asked.headers["user-agent"]
        for at, (path, reply, times) in enumerate(self._said):
            if asked.path.startswith(path):
                self._said[at : at + 1] = [(path, reply, times - 1)] if times > 1 else []
                return reply
        if asked.headers.get("api-key") != self.key:
            return UNAUTHORIZED
        return answer(asked)

    def _control(self, asked: Asked) -> Reply:
        return self._asked(asked, self._controlled)

    def _controlled(self, asked: Asked) -> Reply:
        name = asked.path.removeprefix("/indexes").strip("/")
        if asked.method == "GET" and name:
            if name not in self._told:
                return error(404, "NOT_FOUND", f"Resource {name} not found")
            told = self._told[name]
            host = self.addresses[name].url
            # An index that was made this moment has no address yet.
            return Answer(
                {**told, **({"host": host} if host else {"status": {"ready": False, "state": "Initializing"}})}
            )
        assert (asked.method, name) == ("POST", ""), f"there is no {asked.method} {asked.path}"
        body = asked.body
        assert body.keys() <= {"name", "schema", "deployment", "deletion_protection", "tags"}
        if body["name"] in self._told:
            return error(409, "ALREADY_EXISTS", "Resource already exists.")
        ((field, how),) = body["schema"]["fields"].items()
        assert field == "_values", "an index of another field is not served by the vectors API"
        assert how.keys() == {"type", "dimension", "metric"}
        assert how["type"] == "dense_vector"
        if not 1 <= how["dimension"] <= 20_000:
            return error(400, "INVALID_ARGUMENT", "dimension must be 1 to 20000")
        if body["deployment"] != {"deployment_type": "managed", "cloud": "aws", "region": "us-east-1"}:
            where = body["deployment"]
            return error(404, "NOT_FOUND", f"Resource cloud: {where['cloud']} region: {where['region']} not found.")
        self._made(body["name"], how["dimension"], how["metric"])
        return Answer(
            {**self._told[body["name"]], "status": {"ready": False, "state": "Initializing"}}, status=201
        )  # fmt: skip

    async def stop(self) -> None:
        for address in (self.control, *self.addresses.values()):
            await address.stop()
        wrong = [one for address in (self.control, *self.addresses.values()) for one in address.wrong]
        if wrong:
            raise wrong[0]


@asynccontextmanager
async def played_pinecone(*, lag: int = 2) -> AsyncIterator[PlayedPinecone]:
    ours = PlayedPinecone(lag=lag)
    await ours.control.start()
    try:
        yield ours
    finally:
        await ours.stop()


@pytest.fixture(scope="module")
async def pinecone_url() -> AsyncIterator[str]:
    """A user's project, else a played one, which has no reason to refuse anything."""
    if url := given("RAGLINE_TEST_PINECONE"):
        yield url
        return
    async with played_pinecone() as ours:
        yield ours.url()
        assert ours.refused == []


async def main() -> None:
    async with played_pinecone(lag=0) as ours:
        print(ours.url(), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
