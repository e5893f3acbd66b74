"""A real Milvus standalone (2.3.5), from the package milvus, whose programs are unpacked once into the user's cache.

One server a session; each test has collections of its own. ``RAGLINE_TEST_MILVUS=milvus://host:19530`` is used instead when it
is set; tests that restart the server are skipped then, because it is the user's.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.engines.server import free_port, given, missing, running

VERSION = "2.3.5"

_ETCD = """\
listen-client-urls: http://127.0.0.1:{clients}
advertise-client-urls: http://127.0.0.1:{clients}
listen-peer-urls: http://127.0.0.1:{peers}
initial-advertise-peer-urls: http://127.0.0.1:{peers}
initial-cluster: default=http://127.0.0.1:{peers}
"""
"""Of the etcd inside it, which else takes the ports that every etcd takes."""


class Milvus:
    """`url`: as the adapter is given it."""

    def __init__(self, url: str, folder: Path | None = None, programs: Path | None = None, health: int = 0) -> None:
        self.url = url
        self._folder, self._programs, self._health = folder, programs, health
        self._running = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def start(self) -> None:
        assert self._folder
        assert self._programs
        env = {
            "DEPLOY_MODE": "STANDALONE", "METRICS_PORT": str(self._health), "MILVUS_RUN_DIR": str(self._folder / "run"),
            "LD_LIBRARY_PATH": f"{self._programs}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        }  # fmt: skip
        command = [str(self._programs / "milvus"), "run", "standalone"]
        server = running(
            command, name="milvus", folder=self._folder, ready=self._answers, env=env,
            stop=signal.SIGKILL,  # asked in order it takes half a minute, for data that nobody keeps
        )  # fmt: skip
        self._process = self._running.enter_context(server)

    def kill(self) -> None:
        """As a power failure. A user's own server is left alone."""
        if self._process is None:
            pytest.skip("the server is the user's: it is not killed")
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._running.close()

    def stop(self) -> None:
        self._running.close()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._health}/healthz", timeout=5.0) as answer:
                return b"OK" in answer.read()
        except OSError:
            return False


@pytest.fixture(scope="session")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Milvus]:
    if url := given("RAGLINE_TEST_MILVUS"):
        yield Milvus(url)
        return
    server = standalone(tmp_path_factory.mktemp("milvus"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def own_milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Milvus]:
    """One more, for what is done to it: it asks for a password (root, Milvus), and may be killed."""
    server = standalone(tmp_path_factory.mktemp("own-milvus"), authorization_enabled=True)
    server.start()
    yield server
    server.stop()


def standalone(folder: Path, **words: object) -> Milvus:
    """One that is not started yet, with its data in `folder`. `words`: of its configuration."""
    programs, port = _programs(), _configured(folder, **words)
    return Milvus(f"milvus://127.0.0.1:{port}", folder, programs, free_port())


def _configured(folder: Path, **words: object) -> int:
    """The package's own configuration, with every port a free one. Returns the one that clients connect to."""
    from milvus import MilvusServerConfig

    config = MilvusServerConfig(data_dir=str(folder))
    config.configs.update({name: free_port() for name in config.configurable_items if name.endswith("_port")})
    for name, value in words.items():
        config.set(name, value)
    config.resolve()
    etcd = folder / "etcd.yaml"
    etcd.write_text(_ETCD.format(clients=config.get("etcd_port"), peers=free_port()))
    settings = folder / "configs" / "milvus.yaml"
    settings.write_text(settings.read_text().replace("\netcd:\n", f"\netcd:\n  config:\n    path: {etcd}\n"))
    return int(config.get("proxy_port"))


def _programs() -> Path:
    """The folder of the server's programs: from the cache, else unpacked from the package."""
    if find_spec("milvus") is None:
        missing(f"Milvus {VERSION}", f"pip install milvus=={VERSION}")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ragline-tests"
    programs = cache / f"milvus-{VERSION}"
    if not programs.exists():
        from milvus import _initialize_data_files

        half = cache / f"milvus-{VERSION}-{secrets.token_hex(4)}"
        half.mkdir(parents=True)
        _initialize_data_files(str(half))
        with suppress(OSError):  # another session was quicker
            (half / "bin").rename(programs)
        shutil.rmtree(half, ignore_errors=True)
    return programs
