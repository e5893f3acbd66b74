"""A local S3: moto's server as a process, which answers as S3 does and keeps everything in memory.

``RAGLINE_TEST_S3=http://host:9000`` (a MinIO, with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) is used instead when it is set;
tests that take its keys away are skipped then, because it is the user's.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.engines.server import free_port, given, missing, running


class S3:
    """`endpoint`: as AWS_ENDPOINT_URL."""

    def __init__(self, endpoint: str, command: list[str] | None = None, folder: Path | None = None) -> None:
        self.endpoint = endpoint
        self._command, self._folder = command, folder
        self._running = ExitStack()

    @property
    def variables(self) -> dict[str, str]:
        """What every client of S3 reads."""
        own = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"} if self._command else {}
        return own | {
            "AWS_ENDPOINT_URL": self.endpoint, "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip

    def bucket(self) -> str:
        """A new, empty one."""
        name = f"t{secrets.token_hex(6)}"
        self.client().create_bucket(Bucket=name)
        return name

    def client(self) -> Any:
        """Past everything that is tested: botocore's own."""
        import botocore.session

        keys = {
            name: self.variables.get(name) or os.environ[name]
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        }
        return botocore.session.Session().create_client(
            "s3", region_name="us-east-1", endpoint_url=self.endpoint, aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip

    def keys(self, bucket: str) -> list[str]:
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [one["Key"] for page in pages for one in page.get("Contents", ())]

    def ask_for_keys(self, answer: bool) -> None:
        """From now on only keys that it knows are good, and it knows none."""
        self._ours()
        body = b"0" if answer else b"1000000000"
        url, kind = f"{self.endpoint}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, data=body, headers=kind), timeout=30).close()

    def start(self) -> None:
        self._ours()
        assert self._command
        assert self._folder
        self._running.enter_context(running(self._command, name="moto", folder=self._folder, ready=self._answers))

    def stop(self) -> None:
        self._running.close()

    def _ours(self) -> None:
        if self._command is None:
            pytest.skip("the server is the user's")

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.endpoint}/moto-api/data.json", timeout=5).close()
        except OSError:
            return False
        return True


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    if url := given("RAGLINE_TEST_S3"):
        yield S3(url.rstrip("/"))
        return
    server = made(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """The server, and this process's clients of S3 use it."""
    for name, value in s3_server.variables.items():
        monkeypatch.setenv(name, value)
    return s3_server


def made(folder: Path) -> S3:
    program = shutil.which("moto_server", path=str(Path(sys.executable).parent))
    if not program:
        missing("A server that speaks S3", "pip install 'moto[server,s3]'")
    port = free_port()
    return S3(f"http://127.0.0.1:{port}", [program, "-H", "127.0.0.1", "-p", str(port)], folder)
