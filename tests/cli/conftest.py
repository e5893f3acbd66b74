"""The program as a user runs it, and one `ragline up` for a whole test module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
from typer.testing import CliRunner

from ragline.cli.main import app

PROGRAM = [sys.executable, "-W", "error::ResourceWarning", "-c", "from ragline.cli.main import run; run()"]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("RAGLINE_")} | more


def start(*arguments: str, cwd: Path, errors: IO[str] | int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PROGRAM, *arguments], cwd=cwd, env=environment(), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
    )  # fmt: skip


def ragline(*arguments: str, cwd: Path, stdin: bytes = b"", **variables: str) -> Result:
    """A process of its own."""
    done = subprocess.run(
        [*PROGRAM, *arguments], cwd=cwd, env=environment(**variables), input=stdin, capture_output=True, timeout=240
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


@contextmanager
def up(folder: Path, *arguments: str, command: Sequence[str] = ("up",)) -> Iterator[dict[str, Any]]:
    """A server until the block ends; what it says about itself, and its process."""
    with tempfile.TemporaryFile("w+") as errors:  # a pipe that nobody reads would stop it once it is full
        process = start(*command, "--port", "0", "--json", *arguments, cwd=folder, errors=errors)
        assert process.stdout
        try:
            line = process.stdout.readline()
            if not line:
                errors.seek(0)
                raise AssertionError(errors.read())
            yield {**json.loads(line), "process": process}
        finally:
            process.terminate()
            process.communicate(timeout=120)


class Shell:
    """Commands against one server, in this process: what they print and exit with is the same, and it is faster."""

    def __init__(self, about: dict[str, Any], folder: Path) -> None:
        self.url: str = about["url"]
        self.data_dir = Path(about["data_dir"])
        self.folder = folder

    def __call__(self, *arguments: str, stdin: bytes = b"", code: int = 0, key: str | None = None) -> Result:
        """As the folder's owner, or with `key` as anyone; asserts the exit code."""
        where = ["--url", self.url, "--key", key] if key else ["--data-dir", str(self.data_dir)]
        done = CliRunner(env=dict.fromkeys(("RAGLINE_URL", "RAGLINE_KEY"), "")).invoke(
            app, [*arguments, *where], input=stdin
        )
        assert done.exit_code == code, (done.stdout, done.stderr, done.exception)
        return Result(done.exit_code, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp("served")
    with up(folder, "--data-dir", str(folder / "data")) as about:
        yield Shell(about, folder)
