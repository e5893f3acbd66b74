"""`ragline up` and `ragline serve`: the HTTP API as a process of its own."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragline.cli.options import Config, DataDir, Debug, Json
from ragline.cli.screen import Screen
from ragline.cli.session import STOP_S, run_to_exit

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ragline.registry.keys import Keys
    from ragline.settings import Settings

Host = Annotated[str | None, typer.Option("--host", help="Address to listen on.")]
Port = Annotated[int | None, typer.Option("--port", "-p", min=0, max=65535, help="Port to listen on; 0: a free one.")]


SWITCH_S = 0.0005
"""Longest a computing thread keeps the interpreter while the event loop waits for it; Python's own 5 ms add up over a request."""


class Part(StrEnum):
    GATEWAY = "gateway"
    RETRIEVER = "retriever"
    EMBEDDER = "embedder"


@dataclass(frozen=True, slots=True)
class _Service:
    """What one process serves. `words` tell a person about it."""

    app: FastAPI
    keys: Keys
    work: Callable[[], Awaitable[None]] | None
    words: str


def up(
    *, data_dir: DataDir = None, host: Host = None, port: Port = None, config: Config = None, as_json: Json = False,
    debug: Debug = False,
) -> None:  # fmt: skip
    """Run all of Ragline on this machine: API, workers and embedded engines in one process, until Ctrl-C."""
    given = given_settings(data_dir, host, port, config)
    served = _serve(Part.GATEWAY, given, Screen(as_json=as_json), works=True)
    run_to_exit(served, as_json=as_json, debug=debug, loop=fast_loop(), stop_s=STOP_S)


def serve(
    part: Annotated[Part, typer.Argument(help="Which routes: all, /v1/search only, or /v1/embeddings only.")] = Part.GATEWAY,
    *, data_dir: DataDir = None, host: Host = None, port: Port = None, config: Config = None, as_json: Json = False,
    debug: Debug = False,
) -> None:  # fmt: skip
    """Serve the HTTP API, or one layer of it. With every engine a server the workers are processes of their own, `ragline
    work`; as long as one is embedded they run here, as under `up`."""
    given = given_settings(data_dir, host, port, config)
    run_to_exit(
        _serve(part, given, Screen(as_json=as_json)), as_json=as_json, debug=debug, loop=fast_loop(), stop_s=STOP_S
    )


def given_settings(data_dir: Path | None, host: str | None, port: int | None, config: Path | None) -> dict[str, Any]:
    http = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    given = {"data_dir": data_dir, "config": config, "http": http or None}
    return {name: value for name, value in given.items() if value is not None}


async def _serve(part: Part, given: dict[str, Any], screen: Screen, *, works: bool = False) -> None:
    """`works`: the workers run here, whatever the engines."""
    from ragline import logs
    from ragline.cli.server import serving
    from ragline.settings import load_settings

    settings = load_settings(**given)
    logs.configure(settings.log_level)
    token = secrets.token_urlsafe(32)
    works = part is Part.GATEWAY and (works or bool(settings.embedded))
    opened = _embedder(settings, token) if part is Part.EMBEDDER else _whole(part, settings, token, works=works)
    try:
        async with opened as (service, listener, announce):
            open_to_all = not await service.keys.exist()
            if open_to_all and not _is_loopback(settings.http.host):
                raise _must_be_closed(settings.http.host)
            url = address(listener)
            # What stands by now stays: left to the collector, looking through it stops every request for 70 ms, again and again.
            gc.collect()
            gc.freeze()
            sys.setswitchinterval(SWITCH_S)
            async with serving(service.app, listener, settings.http, work=service.work):
                announce(url)
                _welcome(screen, part, settings, url, service.words, open_to_all=open_to_all, works=works)
                await asyncio.Event().wait()
    except asyncio.CancelledError:
        screen.note("Stopped.")  # a signal is how a server ends


@asynccontextmanager
async def _whole(
    part: Part, settings: Settings, token: str, *, works: bool
) -> AsyncIterator[tuple[_Service, socket.socket, Callable[[str], None]]]:
    """Gateway or retriever: the folder is taken if an engine stands in it, then the port, then everything is built."""
    from ragline.api.app import gateway, retriever
    from ragline.build import build
    from ragline.cli.server import listen
    from ragline.datafolder import Holder, held

    with held(settings, token) as folder, listen(settings.http.host, settings.http.port) as listener:
        system = await build(settings)
        try:
            await system.warm()
            if part is Part.RETRIEVER:
                service = _Service(
                    retriever(system, owner_token=token), system.keys, None, "/v1/search only; no workers"
                )
            else:
                app = gateway(system, owner_token=token)
                words = f"API and workers; embedded: {', '.join(settings.embedded) or 'nothing'}"
                service = _Service(
                    app, system.keys, system.work if works else None, words if works else "API; no workers"
                )

            def announce(url: str) -> None:
                if folder:
                    folder.announce(Holder(os.getpid(), url, token))

            yield service, listener, announce
        finally:
            await system.aclose()


@asynccontextmanager
async def _embedder(
    settings: Settings, token: str
) -> AsyncIterator[tuple[_Service, socket.socket, Callable[[str], None]]]:
    """The model, and the keys of the registry when there is one; the folder is not taken, so it may run beside `up`."""
    from ragline.api.app import embedder
    from ragline.build import merged, open_embedder, open_tracer
    from ragline.cli.server import listen
    from ragline.clock import SystemClock
    from ragline.connections.database import Database, sqlite_url
    from ragline.registry.keys import Keys
    from ragline.registry.migrations import SCHEMA

    registry = settings.data_dir.absolute() / "registry.sqlite"
    with listen(settings.http.host, settings.http.port) as listener, tempfile.TemporaryDirectory() as empty:
        none = Path(empty, "registry.sqlite")
        database = await Database.open(settings.registry or sqlite_url(registry if registry.exists() else none), SCHEMA)
        try:
            clock = SystemClock()
            keys = Keys(database, clock)
            tracer = open_tracer(settings)
            model = merged(await open_embedder(settings), settings)
            try:
                app = embedder(model, settings.http, keys, clock, owner_token=token, tracer=tracer)
                yield _Service(app, keys, None, f"/v1/embeddings of {model.space.model}"), listener, lambda url: None
            finally:
                if tracer:
                    await tracer.aclose()
                await model.aclose()
        finally:
            await database.aclose()


def _welcome(
    screen: Screen, part: Part, settings: Settings, url: str, words: str, *, open_to_all: bool, works: bool
) -> None:
    folder = settings.data_dir.absolute()
    if screen.as_json:
        return screen.data({"url": url, "docs": f"{url}/docs", "data_dir": str(folder), "pid": os.getpid()})
    screen.line(f"Ragline answers at {url}  ({words})")
    screen.line(f"  API reference  {url}/docs")
    if part is not Part.EMBEDDER and settings.embedded:
        screen.line(f"  Data folder    {folder}")
    if part is Part.GATEWAY and not works:
        screen.line("  Workers        none here; start them with `ragline work`")
    if open_to_all:
        screen.line("  Access         this machine only, without a key; `ragline keys create NAME` makes the first")
    if part is Part.GATEWAY:
        screen.line("  Try            ragline ingest PATH, then ragline ask QUESTION")
    screen.line("Ctrl-C stops it.")
    return None


def fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where there is one (not on Windows): a request costs a third less of the processor."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def address(listener: socket.socket) -> str:
    """Where this machine reaches it: an address that means all of them is reached by loopback."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _must_be_closed(host: str) -> Exception:
    from ragline.errors import ConfigurationError

    return ConfigurationError(
        f"{host} can be reached from other machines, and no API key exists: anyone could read and write everything.",
        next_step="Make a key with `ragline keys create NAME --role admin`, then start again.",
    )
