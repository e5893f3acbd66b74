"""`ragline up` as a process of its own, and `ragline` commands against it: what a user runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

RAGLINE = (sys.executable, "-c", "from ragline.cli.main import run; run()")
READY_WITHIN_S = 120.0


@dataclass(frozen=True, slots=True)
class Server:
    """Units: `ready_s` seconds from its start until /readyz said yes."""

    url: str
    ready_s: float
    process: subprocess.Popen[str]


CACHE_OFF = {"RAGLINE_CACHE__URL": "off"}
"""Benches ask the same questions again, and mean the path behind the cache; the one that means the cache says so."""


@contextmanager
def up(folder: Path, *, program: Sequence[str] = RAGLINE, env: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A server on `folder` and a free port, ended when the block ends. `program`: what is run as `ragline`; `env`: its settings,
    as variables.

    Raises RuntimeError: it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(f"{folder.name}.log")
    start = time.perf_counter()
    with log.open("w") as errors:
        command = (*program, "up", "--data-dir", str(folder), "--port", "0", "--json")
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**CACHE_OFF, **os.environ, **(env or {})}
        )
    try:
        assert process.stdout
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"`ragline up` ended at once: {log.read_text()[-500:]}")
        url = str(json.loads(line)["url"])
        _wait_until_ready(url)
        yield Server(url, time.perf_counter() - start, process)
    finally:
        process.terminate()
        process.wait()


def command(*arguments: str) -> Any:
    """What a `ragline` command prints under --json. Raises RuntimeError: it failed."""
    done = subprocess.run((*RAGLINE, *arguments, "--json"), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"`ragline {' '.join(arguments)}` failed: {done.stderr[-500:]}")
    return json.loads(done.stdout)


def _wait_until_ready(url: str) -> None:
    deadline = time.perf_counter() + READY_WITHIN_S
    while time.perf_counter() < deadline:
        if httpx.get(f"{url}/readyz", trust_env=False).status_code == 200:
            return
        time.sleep(0.02)
    raise RuntimeError(f"{url}/readyz did not say yes within {READY_WITHIN_S:.0f} s")
