"""The client without the server: what it imports, and the samples of its page."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "client.md").read_text("utf-8"), re.DOTALL)

ALLOWED = {
    "ragline",
    "httpx",
    "httpcore",
    "h11",
    "h2",
    "anyio",
    "sniffio",
    "idna",
    "certifi",
    "typing_extensions",
    "socksio",
}
"""httpx, anyio, and what they bring; of their extras, what happens to be installed."""


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
    assert heads - set(sys.stdlib_module_names) - ALLOWED == set()
    assert "httpx" in heads
