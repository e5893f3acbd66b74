"""A real Redis: the program `redis-server`, in memory or with an append-only file.

One server a session; each test has keys of its own by a prefix. ``RAGLINE_TEST_REDIS=redis://host:6379`` is used instead when
it is set; tests that stop the server or change its settings start one of their own by `server`, and never touch the user's.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.engines.server import free_port, given, missing, running


class Redis:
    """`netloc`: ``[user:password@]host:port``."""

    def __init__(self, netloc: str, command: list[str] | None = None, folder: Path | None = None) -> None:
        self.netloc = netloc
        self._command = command
        self._folder = folder
        self._running = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, **words: object) -> str:
        """Of keys that nobody else uses."""
        query = "&".join(f"{name}={value}" for name, value in ({"prefix": f"t{secrets.token_hex(6)}"} | words).items())
        return f"redis://{self.netloc}/0?{query}"

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(f"redis://{self.netloc}")
        assert parts.hostname
        return parts.hostname, parts.port or 6379

    def start(self) -> None:
        """Again, on the same port and folder."""
        assert self._command
        assert self._folder
        host, port = self.address
        self._process = self._running.enter_context(
            running(self._command, name="redis", folder=self._folder, ready=lambda: answers(host, port))
        )

    def kill(self) -> None:
        """As a power cut does."""
        assert self._process
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._running.close()

    def pause(self) -> None:
        """From now on it takes connections and answers nothing, as a black hole does."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process and self._process.poll() is None:
            self.resume()
        self._running.close()


def answers(host: str, port: int) -> bool:
    """Whether it answers PING: also with an error, where it wants a password."""
    try:
        with socket.create_connection((host, port), timeout=2.0) as asking:
            asking.sendall(b"PING\r\n")
            answer = asking.recv(64)
    except OSError:
        return False
    return answer.startswith((b"+PONG", b"-NOAUTH"))


@contextmanager
def server(folder: Path, *words: str, login: str = "") -> Iterator[Redis]:
    """One of its own, with its data in `folder`. `words`: of the command line, such as ``"--maxmemory", "2mb"``. Nothing is
    saved unless they say so. `login`: ``:password``, as in the URL."""
    program = shutil.which("redis-server")
    if not program:
        missing("Redis", "apt-get install redis-server")
    port = free_port()
    command = [program, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", "", *words]
    ours = Redis(f"{login}@127.0.0.1:{port}" if login else f"127.0.0.1:{port}", command, folder)
    ours.start()
    try:
        yield ours
    finally:
        ours.stop()


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    if url := given("RAGLINE_TEST_REDIS"):
        yield Redis(urlsplit(url).netloc)
        return
    with server(tmp_path_factory.mktemp("redis"), "--appendonly", "no") as ours:
        yield ours


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Redis]:
    """One that a test may stop, pause and kill. It keeps what it was given: an append-only file, written at every command."""
    if os.environ.get("RAGLINE_TEST_REDIS") and not shutil.which("redis-server"):
        pytest.skip("the server is the user's")
    folder = tmp_path / "redis"
    folder.mkdir()
    with server(folder, "--appendonly", "yes", "--appendfsync", "always") as ours:
        yield ours
