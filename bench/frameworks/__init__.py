"""What a user would otherwise write: hybrid retrieval with LangChain, LlamaIndex and Haystack, served over HTTP.

`served` starts one of them on given passages and vectors; they embed queries by the model that Ragline embeds them by,
and keep no cache. Each has an environment of its own, made from requirements-NAME.txt, so that Ragline depends on none
of them. One process each, as `ragline up` is one.

txtai is left out: its wheel needs torch, and on Linux the one in the package index brings CUDA with it, 3.0 GB to
download (txtai 9.14, torch 2.15).
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

PATHS = {"langchain": "/search", "llamaindex": "/search", "haystack": "/search/run"}
"""The frameworks, and where each answers POST {"query": …, "top_k": …} with {"result": [{"id": …, "text": …}, …]}."""

QUIET = {"HAYSTACK_TELEMETRY_ENABLED": "False", "HAYHOOKS_LOG_LEVEL": "WARNING"}
"""Haystack's usage statistics off; Hayhooks' log without a line per request, as in the other servers."""

READY_WITHIN_S = 300.0
STOPPED_WITHIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Served:
    """`url` is the whole address to POST a query to; `pid` the only process."""

    url: str
    pid: int


@contextmanager
def served(name: str, *, corpus: Path, vectors: Path, model: Path, work: Path) -> Iterator[Served]:
    """The server of framework `name`, ready, ended when the block ends. Its environment and log stand in `work`.

    Shapes:  `corpus`, `vectors` and `model` as `given.arguments` says; `model_folder` makes the last.
    Raises:  ValueError: no such framework; RuntimeError: its environment cannot be made, or it does not answer within
             READY_WITHIN_S.
    """
    if name not in PATHS:
        raise ValueError(f"There is no server for {name!r}; there are {', '.join(PATHS)}.")
    work.mkdir(parents=True, exist_ok=True)
    python = _environment(name, work.resolve())
    port = _free_port()
    command = [str(python), "-m", f"bench.frameworks.{name}_server", "--port", str(port)]
    for option, path in (("--corpus", corpus), ("--vectors", vectors), ("--model", model)):
        command += [option, str(path.resolve())]
    log = work / f"{name}.log"
    with log.open("w") as lines:
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | QUIET, stdout=lines, stderr=lines)
    try:
        url = f"http://127.0.0.1:{port}{PATHS[name]}"
        _wait_until_ready(url, process, log)
        yield Served(url, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def model_folder(work: Path) -> Path:
    """The default embedder's files as Ragline runs them, in one folder, for `served`."""
    # Here, because the servers import this package, too, and have no Ragline.
    from ragline.embedders.model_files import locate, prepare

    folder = work / "model"
    files = prepare(locate("package"), cache_dir=folder)
    shutil.copy(files.tokenizer, folder / "tokenizer.json")
    return folder


def _environment(name: str, work: Path) -> Path:
    """The Python of the environment for `name`, made if `work` has none from the same requirements."""
    requirements = HERE / f"requirements-{name}.txt"
    folder = work / f"venv-{name}"
    python, made_from = folder / "bin" / "python", folder / "made-from.txt"
    if not made_from.is_file() or made_from.read_bytes() != requirements.read_bytes():
        uv = shutil.which("uv") or str(ROOT / ".tools" / "uv" / "bin" / "uv")
        _run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder))
        _run(uv, "pip", "install", "--quiet", "--python", str(python), "--requirement", str(requirements))
        shutil.copy(requirements, made_from)
    return python


def _run(*command: str) -> None:
    environment = {"UV_SYSTEM_CERTS": "true"} | os.environ
    try:
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise RuntimeError(f"{command[0]} is missing; run `make setup`, which brings uv.") from error
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"`{' '.join(command)}` failed: {error.stderr[-500:]}") from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Ready is who answers a query: they load before they listen, and what is lazy is then awake."""
    query = json.dumps({"query": "ready", "top_k": 1}).encode()
    request = urllib.request.Request(url, query, {"Content-Type": "application/json"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.perf_counter() + READY_WITHIN_S
    while process.poll() is None and time.perf_counter() < deadline:
        try:
            with direct.open(request, timeout=READY_WITHIN_S):
                return
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{url} answers a query with {error.code}: {log.read_text()[-500:]}") from error
        except urllib.error.URLError:
            time.sleep(0.1)  # it does not listen yet
    raise RuntimeError(f"{url} does not answer: {log.read_text()[-500:]}")
