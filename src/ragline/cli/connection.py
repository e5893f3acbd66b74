"""One code path for all commands: HTTP to a Ragline server, wherever that is.

    --url is given                 that server
    every engine is a server       the same API runs in this process on a private Unix socket, without workers
    `ragline up` has the folder    the server it announced, as the folder's owner
    else                           the folder is taken, and the API runs in this process, with workers

So a command behaves the same in all of them, and needs no key on the machine that has the data, or the engines' URLs.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import httpx

from ragline import __version__
from ragline.cli.failures import NotReachable, Refused, WrongUsage
from ragline.errors import ConfigurationError, DataFolderInUse

if TYPE_CHECKING:
    from ragline.datafolder import DataFolder
    from ragline.settings import Settings

WAIT_FOR_FOLDER_S = 10.0
"""How long a command waits while another one has the folder: most take less."""

TIMEOUT = httpx.Timeout(connect=10.0, read=300.0, write=300.0, pool=None)


@dataclass(frozen=True, slots=True)
class Where:
    """Where requests go, as the command line says it."""

    url: str | None = None
    key: str | None = None
    data_dir: Path | None = None
    config: Path | None = None


class Connection:
    """Requests to one server. `local`: it ends with this command, and its workers with it."""

    def __init__(self, http: httpx.AsyncClient, name: str, *, local: bool) -> None:
        self._http = http
        self.name = name
        self.local = local

    async def get(self, *path: str, **params: Any) -> Any:
        return await self.send("GET", *path, params=params)

    async def post(
        self, *path: str, body: object = None, headers: Mapping[str, str] | None = None, **params: Any
    ) -> Any:  # fmt: skip
        return await self.send("POST", *path, params=params, body=body, headers=headers)

    async def put(self, *path: str, body: object = None) -> Any:
        return await self.send("PUT", *path, body=body)

    async def patch(self, *path: str, body: object) -> Any:
        return await self.send("PATCH", *path, body=body)

    async def delete(self, *path: str, **params: Any) -> Any:
        return await self.send("DELETE", *path, params=params)

    async def send(
        self, method: str, *path: str, params: Mapping[str, Any] | None = None, body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:  # fmt: skip
        """The JSON of the answer. `path` is joined by slashes, each part quoted.

        Raises:  Refused: the server said no.  NotReachable: nothing answered, or it is no Ragline server.
        """
        given = {name: value for name, value in (params or {}).items() if value is not None}
        return await self._answer(
            self._http.build_request(method, _path(path), params=given, json=body, headers=headers)
        )

    async def upload(
        self, namespace: str, *, files: Sequence[tuple[str, Any]], form: Mapping[str, str | list[str]]
    ) -> Any:  # fmt: skip
        """Multipart; `files` are (media type, bytes or binary file), `form` the other fields. Raises as `send`."""
        parts = [("file", (f"{n}", content, media_type)) for n, (media_type, content) in enumerate(files)]
        path = _path(("v1", "namespaces", namespace, "documents"))
        return await self._answer(self._http.build_request("POST", path, data=form, files=parts))

    async def pieces(self, *path: str) -> AsyncGenerator[bytes, None]:
        """The bytes of an answer, as they come. Raises as `send`, also midway."""
        try:
            async with self._http.stream("GET", _path(path)) as response:
                if response.status_code >= 300:
                    await response.aread()
                    raise self._refused(response)
                async for piece in response.aiter_raw():
                    yield piece
        except httpx.TransportError as error:
            raise self._silent(error) from error

    async def events(self, *path: str, body: object) -> AsyncGenerator[tuple[str, Any], None]:
        """Server-sent events as (name, data). Raises as `send`, also midway."""
        request = self._http.build_request("POST", _path(path), json=body)
        async with aclosing(self._events(request)) as events:
            async for _, name, data in events:
                yield name, data

    async def follow(self, *path: str, after: int) -> AsyncGenerator[tuple[int, str, Any], None]:
        """The same of a GET that goes on behind the event `after`, as (id, name, data); none: there is nothing more."""
        headers = {"Last-Event-ID": str(after)} if after else {}
        request = self._http.build_request("GET", _path(path), headers=headers)
        async with aclosing(self._events(request)) as events:
            async for id, name, data in events:
                yield int(id), name, data

    async def _events(self, request: httpx.Request) -> AsyncGenerator[tuple[str, str, Any], None]:
        try:
            response = await self._http.send(request, stream=True)
            try:
                if response.status_code >= 400:
                    await response.aread()
                    raise self._refused(response)
                id, name = "0", ""
                async for line in _lines(response):
                    if line.startswith("id:"):
                        id = line.removeprefix("id:").strip()
                    elif line.startswith("event:"):
                        name = line.removeprefix("event:").strip()
                    elif line.startswith("data:"):
                        yield id, name, json.loads(line.removeprefix("data:"))
            finally:
                await response.aclose()
        except httpx.TransportError as error:
            raise self._silent(error) from error

    async def _answer(self, request: httpx.Request) -> Any:
        try:
            response = await self._http.send(request)
        except httpx.TransportError as error:
            raise self._silent(error) from error
        if response.status_code >= 300:
            raise self._refused(response)
        try:
            return response.json()
        except ValueError as error:
            raise self._stranger(response) from error

    def _refused(self, response: httpx.Response) -> Refused | NotReachable:
        try:
            problem = response.json()
        except ValueError:
            problem = None
        if not isinstance(problem, dict) or "detail" not in problem:
            return self._stranger(response)
        after = response.headers.get("retry-after", "")
        return Refused(
            problem, http_status=response.status_code, retry_after_s=float(after) if after.isdigit() else None
        )

    def _stranger(self, response: httpx.Response) -> NotReachable:
        kind = response.headers.get("content-type", "nothing").partition(";")[0]
        location = response.headers.get("location")
        moved = f" and points to {location}" if location else ""
        return NotReachable(
            f"{self.name} answered {response.status_code} with {kind}{moved}: no Ragline server.",
            next_step="Correct --url (RAGLINE_URL) to where Ragline answers.",
        )

    def _silent(self, error: httpx.TransportError) -> NotReachable:
        why = str(error) or type(error).__name__
        return NotReachable(
            f"{self.name} does not answer: {why}.",
            next_step="Check that it runs (`ragline up`), and --url (RAGLINE_URL).",
        )


@asynccontextmanager
async def connect(where: Where, *, makes_folder: bool = False, warm: bool = True) -> AsyncIterator[Connection]:
    """Raises ConfigurationError, NotReachable, EngineError; whatever was started here has ended when the block ends."""
    if where.url:
        async with _client(_checked(where.url), where.key) as http:
            yield Connection(http, where.url, local=False)
        return
    from ragline.datafolder import DataFolder
    from ragline.settings import load_settings

    given = {"config": where.config, "data_dir": where.data_dir}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    folder, token = DataFolder(settings.data_dir), secrets.token_urlsafe(32)
    if not settings.embedded:
        async with _here(settings, token, where.key or token, warm=False) as connection:
            yield connection
        return
    if not makes_folder and not folder.path.exists():
        raise ConfigurationError(
            f"There is no data folder {folder.path}, so there are no documents.",
            next_step="Make one with `ragline ingest PATH` or `ragline up`, or name it with --data-dir, or a server with --url.",
        )
    holder = await _take(folder, token)
    if holder is not None:
        url, owner = holder
        async with _client(url, where.key or owner) as http:
            yield Connection(http, url, local=False)
        return
    try:
        async with _here(settings, token, where.key or token, warm=warm) as connection:
            yield connection
    finally:
        folder.release()


async def _take(folder: DataFolder, token: str) -> tuple[str, str] | None:
    """None: the folder is ours. Else where its holder answers, and the token that makes us the owner there."""
    deadline = time.monotonic() + WAIT_FOR_FOLDER_S
    while True:
        try:
            folder.take(token)
            return None
        except DataFolderInUse:
            holder = folder.holder()
            if holder and holder.url:
                return holder.url, holder.token
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)


@asynccontextmanager
async def _here(settings: Settings, token: str, key: str, *, warm: bool) -> AsyncIterator[Connection]:
    """The whole system in this process; the folder is ours, or no engine stands in it."""
    from ragline import logs
    from ragline.api.app import gateway
    from ragline.build import build
    from ragline.cli.server import listen_privately, serving

    logs.configure("warning")
    with tempfile.TemporaryDirectory(prefix="ragline-") as private:
        system = await build(settings)
        try:
            if warm:
                await system.warm()
            listener, path = listen_privately(Path(private))
            app = gateway(system, owner_token=token)
            work = system.work if settings.embedded else None
            async with serving(app, listener, settings.http, work=work):
                transport = httpx.AsyncHTTPTransport(uds=str(path))
                async with _client("http://localhost", key, transport) as http:
                    name = f"The data folder {settings.data_dir}" if settings.embedded else "This process"
                    yield Connection(http, name, local=bool(settings.embedded))
        finally:
            await system.aclose()


async def _lines(response: httpx.Response) -> AsyncGenerator[str, None]:
    """Lines by their line feeds alone: `aiter_lines` would also split at the separators that a text may hold."""
    rest = ""
    async for text in response.aiter_text():
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            yield line
    yield rest


def _client(url: str, key: str | None, transport: httpx.AsyncHTTPTransport | None = None) -> httpx.AsyncClient:
    headers = {"User-Agent": f"ragline/{__version__}"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    near = urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")  # never through a proxy
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT, transport=transport, trust_env=not near)


def _checked(url: str) -> str:
    whole = url if "://" in url else f"http://{url}"
    try:
        parts = httpx.URL(whole)
        if parts.scheme in ("http", "https") and parts.host:
            return whole.rstrip("/")
    except httpx.InvalidURL:
        pass
    raise WrongUsage(f"--url {url!r} is no HTTP address.", next_step="Write it as http://HOST:PORT.")


def _path(parts: Sequence[str]) -> str:
    return "/" + "/".join(quote(part, safe="") for part in parts)
