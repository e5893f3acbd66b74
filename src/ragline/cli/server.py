"""An HTTP server in this process: on a port for `up` and `serve`, on a private socket for a command that found none."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from ragline.errors import ConfigurationError
from ragline.settings import HttpSettings

DRAIN_S = 10
"""What requests in flight still get when the server stops."""

BACKLOG = 16_384
"""Connections that may wait to be taken, when thousands come back at once; the system has a bound of its own (somaxconn)."""

KEEP_ALIVE_S = 620
"""How long a connection is kept that nobody uses: longer than load balancers keep theirs (Google's 600 s, Amazon's 60 s), or a
request that comes just then is answered by a reset. So is one that came while the process stood still."""

FILES = 65_536
"""Wanted at most: each connection is one, and a stream of events is held for minutes. Systems begin processes with 1,024."""


class _Server(uvicorn.Server):
    """Signals are the command's: they cancel it, and leaving `serving` stops the server."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(
    app: FastAPI, listener: socket.socket, http: HttpSettings, *, work: Callable[[], Awaitable[None]] | None
) -> AsyncIterator[None]:
    """Serve `app`, and run `work` beside it, until the block ends; a crash of either ends the block with its error."""
    _allow_files()
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", ws="none", server_header=False, backlog=BACKLOG,
        proxy_headers=bool(http.trusted_proxies), forwarded_allow_ips=list(http.trusted_proxies),
        timeout_graceful_shutdown=DRAIN_S, timeout_keep_alive=KEEP_ALIVE_S,
    )  # fmt: skip
    server, me = _Server(config), asyncio.current_task()
    assert me
    crashes: list[BaseException] = []

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            crashes.append(error)
            me.cancel()

    answering = asyncio.create_task(server.serve(sockets=[listener]))
    working = asyncio.create_task(_run(work)) if work else None
    tasks = [task for task in (answering, working) if task]
    for task in tasks:
        task.add_done_callback(ended)
    try:
        yield
    except asyncio.CancelledError:
        if not crashes:
            raise
    finally:
        server.should_exit = True  # requests in flight may wait for the workers, so these stop last
        await asyncio.wait([answering])
        if working:
            working.cancel()
            await asyncio.wait([working])
    if crashes:
        raise _cause(crashes[0])


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigurationError: the port is in use, the address is not this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
            listener.setblocking(False)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    return listener


def listen_privately(folder: Path) -> tuple[socket.socket, Path]:
    """A listening Unix socket in `folder`, which is ours alone."""
    path = folder / "http"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener, path


def _allow_files() -> None:
    """As many open files as the system lets this user have, up to FILES."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _run(work: Callable[[], Awaitable[None]]) -> None:
    await work()


def _cause(error: BaseException) -> BaseException:
    """What a task group wraps, when it is one error."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _cannot_listen(host: str, port: int, error: OSError) -> ConfigurationError:
    if error.errno == errno.EADDRINUSE:
        return ConfigurationError(
            f"Port {port} on {host} is in use.",
            next_step="Stop what uses it, or choose another with --port; `--port 0` takes a free one.",
        )
    if error.errno == errno.EACCES:
        return ConfigurationError(
            f"Port {port} on {host} is not allowed for this user.", next_step="Choose one above 1023 with --port."
        )
    return ConfigurationError(
        f"This machine cannot listen on {host}:{port}: {error.strerror or error}.",
        next_step="Correct --host (http.host) to an address of this machine.",
    )
