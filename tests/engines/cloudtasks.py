"""Google Cloud Tasks, played by `gcloud-tasks-emulator` from PyPI in an environment of its own: it needs another protobuf.

It keeps tasks in memory, calls with one of a queue at a time, tries again after a tenth of a second whatever the queue says, and
takes a second task of the same name. What it leaves out, the token in each call, cloudtasks_door.py adds.
``RAGLINE_TEST_CLOUDTASKS=host:port`` names another emulator that speaks gRPC.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.engines.server import free_port, given, missing, running

PACKAGE = "gcloud-tasks-emulator==0.6.2"
PARENT = "projects/tests/locations/here"
ACCOUNT = "caller@tests.iam.gserviceaccount.com"
QUEUES = ("retrieval", "generation")


class Emulator:
    """`host`: ``host:port``."""

    def __init__(self, host: str, command: list[str] | None = None, folder: Path | None = None) -> None:
        self.host = host
        self._command, self._folder = command, folder
        self._running = ExitStack()
        self._made: list[str] = []

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Past everything that is tested."""
        import grpc
        from google.cloud import tasks_v2
        from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

        with grpc.insecure_channel(self.host) as channel:
            yield tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))

    def queues(self) -> str:
        """Makes both, and says the prefix of their names."""
        prefix = f"t{secrets.token_hex(6)}"
        with self.client() as client:
            for queue in QUEUES:
                name = f"{PARENT}/queues/{prefix}-{queue}"
                client.create_queue(parent=PARENT, queue={"name": name})
                self._made.append(name)
        return prefix

    def delete_queues(self) -> None:
        """Tasks that nobody takes would be tried for ever."""
        with self.client() as client:
            while self._made:
                client.delete_queue(name=self._made.pop())

    def start(self) -> None:
        assert self._command
        assert self._folder
        running_ = running(self._command, name="cloudtasks", folder=self._folder, ready=self._answers)
        self._running.enter_context(running_)

    def stop(self) -> None:
        self._made.clear()
        self._running.close()

    def _answers(self) -> bool:
        host, _, port = self.host.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=2).close()
        except OSError:
            return False
        return True


@pytest.fixture(scope="session")
def cloudtasks_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    if host := given("RAGLINE_TEST_CLOUDTASKS"):
        yield Emulator(host)
        return
    with server(tmp_path_factory.mktemp("cloudtasks")) as ours:
        yield ours


@pytest.fixture
def cloudtasks(cloudtasks_server: Emulator) -> Iterator[Emulator]:
    yield cloudtasks_server
    cloudtasks_server.delete_queues()


@contextmanager
def server(folder: Path, *queues: str) -> Iterator[Emulator]:
    """One of its own. `queues`: names, whole, of those that are there also after a restart."""
    port = free_port()
    words = [word for queue in queues for word in ("--default-queue", queue)]
    program = "from gcloud_tasks_emulator.__main__ import main; main()"
    command = [str(_python()), "-W", "ignore", "-c", program, "start", "--port", str(port), "--quiet", *words]
    ours = Emulator(f"localhost:{port}", command, folder)
    ours.start()
    try:
        yield ours
    finally:
        ours.stop()


def _python() -> Path:
    """Of an environment with the emulator: from the cache, else by pip."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ragline-tests"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = cache / f"{PACKAGE.replace('==', '-')}-python{version}"
    python, ready = folder / "bin" / "python", folder / "ready"
    if ready.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    venv.create(folder, with_pip=True)
    install = [str(python), "-m", "pip", "install", "--quiet", PACKAGE, "setuptools<81"]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        missing(f"{PACKAGE} ({done.stderr[-500:]})", f"pip must reach an index: {' '.join(install)}")
    ready.touch()
    return python
