"""Start a real server for the tests: a free port, a folder of its own, ready when it answers, its log when it does not.

Each engine has a file beside this one that says how it is started and asked. A URL in the environment (as in
``RAGLINE_TEST_POSTGRES``) is used instead, so that a compose file of the user's serves as well.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

READY_WITHIN_S = 180.0
"""A JVM on two busy cores takes a minute; nothing is asserted about how long it took."""

LOG_TAIL = 4_000


PORTS = range(12_000, 32_000)
"""Below those that systems give to clients' connections (Linux: from 32768): a free one of these is not taken by the next
connection before its server stands, nor while a proxy on it is away."""


def free_port() -> int:
    """One that nobody else of these processes is told either, as far as chance goes."""
    for _ in range(100):
        port = secrets.SystemRandom().choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"No port of {PORTS} is free.")


def given(variable: str) -> str | None:
    """The URL of a server that the user runs already."""
    return os.environ.get(variable) or None


def missing(what: str, get_it: str) -> NoReturn:
    """A laptop may lack an engine; CI may not."""
    words = f"{what} is not here. Get it: {get_it}"
    if os.environ.get("CI"):
        pytest.fail(words, pytrace=False)
    pytest.skip(words)


@contextmanager
def running(
    command: Sequence[str | Path], *, name: str, folder: Path, ready: Callable[[], bool],
    env: Mapping[str, str] | None = None, user: str | None = None, stop: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:  # fmt: skip
    """Run `command` in `folder` until the block ends. `ready` is asked until it says so; a failure shows the log's end."""
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(part) for part in command], cwd=folder, env={**os.environ, **(env or {})}, user=user, group=user,
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        _wait(process, name, log, ready)
        yield process
    finally:
        stopped(process, stop)


def stopped(process: subprocess.Popen[bytes], with_: signal.Signals = signal.SIGTERM) -> None:
    """Ask it to stop, by its id; after half a minute it is killed."""
    if process.poll() is None:
        process.send_signal(with_)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], name: str, log: Path, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            how = f"ended with {process.returncode}" if process.returncode is not None else "is not ready"
            tail = log.read_text(errors="replace")[-LOG_TAIL:]
            pytest.fail(f"{name} {how}. The end of its log:\n{tail}", pytrace=False)
        time.sleep(0.05)
