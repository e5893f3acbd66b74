"""A real Prometheus and its tools: the programs `promtool`, `prometheus` and `amtool` of Debian."""

from __future__ import annotations

import json
import shutil
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

from tests.engines.server import free_port, missing, running


def program(name: str, package: str = "prometheus") -> str:
    return shutil.which(name) or missing(name, f"apt-get install --no-install-recommends {package}")


WITHIN_S = 120.0


def until(true: Callable[[], Any]) -> Any:
    """Ask until it is so; a busy machine takes as long as it takes."""
    deadline = time.monotonic() + WITHIN_S
    while not (found := true()):
        assert time.monotonic() < deadline, true
        time.sleep(0.2)
    return found


class Prometheus:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant vector."""
        found = self._get(f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        return list(found["data"]["result"])

    def firing(self, alert: str) -> list[dict[str, Any]]:
        alerts = self._get("/api/v1/alerts")["data"]["alerts"]
        return [one for one in alerts if one["labels"]["alertname"] == alert and one["state"] == "firing"]

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2.0) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=10.0) as answer:
            return json.load(answer)


@contextmanager
def server(folder: Path, config: Path) -> Iterator[Prometheus]:
    port = free_port()
    ours = Prometheus(port)
    command = [
        program("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]  # fmt: skip
    with running(command, name="prometheus", folder=folder, ready=ours.ready):
        yield ours


@contextmanager
def alertmanager(folder: Path, config: Path) -> Iterator[str]:
    """Its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        program("prometheus-alertmanager", "prometheus-alertmanager"), f"--config.file={config}",
        f"--storage.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=",
        "--log.level=warn",
    ]  # fmt: skip
    with running(command, name="alertmanager", folder=folder, ready=Prometheus(port).ready):
        yield url
