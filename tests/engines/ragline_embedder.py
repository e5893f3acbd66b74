"""Our own `ragline serve embedder`, as a process of its own: the real server of the OpenAI-compatible embedder."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import httpx
import pytest

from tests.engines.server import free_port, given, running


@pytest.fixture(scope="session")
def embedder_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its ``/v1``, or that of RAGLINE_TEST_EMBEDDER."""
    if url := given("RAGLINE_TEST_EMBEDDER"):
        yield url
        return
    folder = tmp_path_factory.mktemp("embedder-server")
    address = f"http://127.0.0.1:{(port := free_port())}"
    program = "from ragline.cli.main import run; run()"
    command = [sys.executable, "-c", program, "serve", "embedder", "--port", str(port), "--data-dir", str(folder)]

    def ready() -> bool:
        try:
            return httpx.get(f"{address}/readyz", timeout=5).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    with running(command, name="embedder", folder=folder, ready=ready):
        yield f"{address}/v1"
