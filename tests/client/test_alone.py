"""The client without the server: what it imports, and the samples of its page."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ragline.client import AsyncClient
from tests.api.conftest import OWNER
from tests.client.conftest import Gate

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "client.md").read_text("utf-8"), re.DOTALL)

ALLOWED = set("ragline httpx httpcore h11 anyio sniffio idna certifi typing_extensions".split())
EXTRAS = set("h2 hpack hyperframe socksio brotli zstandard click rich pygments markdown_it mdurl".split())
"""What httpx needs; and what it picks up where it happens to be installed."""


def test_the_client_imports_nothing_of_the_server() -> None:
    code = """
import sys
before = set(sys.modules)
import ragline.client
print(*sorted(name for name in set(sys.modules) - before))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(ran.stdout.split())
    assert {name for name in loaded if name.partition(".")[0] == "ragline"} == {"ragline", "ragline.client"} | {
        f"ragline.client.{path.stem}" for path in (ROOT / "src/ragline/client").glob("[a-z]*.py")
    }
    heads = {name.partition(".")[0] for name in loaded}
    assert heads - set(sys.stdlib_module_names) - ALLOWED - EXTRAS == set()
    assert "httpx" in heads


@pytest.mark.parametrize("sample", SAMPLES)
async def test_the_samples_of_the_page_run(sample: str, gate: Gate, url: str, tmp_path: Path) -> None:
    (tmp_path / "returns.md").write_text("# Returns\n\nYou may return an item within 30 days of delivery.")
    code = sample.replace("http://127.0.0.1:8080", url).replace("rgl_…", OWNER)
    assert code.count(url) == 1
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", code, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    assert gate.seen
    assert re.search("30 days|nosuch", said.decode())


def test_the_page_names_every_method() -> None:
    page = (ROOT / "docs" / "client.md").read_text("utf-8")
    methods = {name for name in vars(AsyncClient) if not name.startswith("_")} - {"aclose"}
    assert {name for name in methods if f"`{name}`" not in page} == set()
