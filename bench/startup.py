"""How long until it answers: `ragline up` on a folder it knows, and `import ragline` in somebody else's program."""

from __future__ import annotations

import subprocess
import sys

from bench.figures import Figure, Ground, median
from bench.server import up

STARTS, IMPORTS = 3, 7

_TIMED_IMPORT = "import time; start = time.perf_counter(); import ragline; print(time.perf_counter() - start)"


async def run(ground: Ground) -> list[Figure]:
    folders = {"an empty folder": ground.work / "startup"}
    if ground.indexed.exists():
        folders["collections indexed"] = ground.indexed
    found = [Figure("import ragline", median([_import_s() for _ in range(IMPORTS)]), "s", at_most=0.3)]
    for words, folder in folders.items():
        with up(folder):
            pass  # the first start converts the model and makes the folder
        ready: list[float] = []
        for _ in range(STARTS):
            with up(folder) as server:
                ready.append(server.ready_s)
        note = f"median of {STARTS}, process start included"
        found.append(Figure(f"ragline up → /readyz, {words}", median(ready), "s", at_most=3.0, note=note))
    return found


def _import_s() -> float:
    done = subprocess.run((sys.executable, "-c", _TIMED_IMPORT), capture_output=True, text=True, check=True)
    return float(done.stdout)
