"""The process under test: `ragline up` on a folder, killed by SIGKILL, and what it leaves in its registry."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bench.server import RAGLINE

DUE = "settled < revision OR sweep = 1"


@dataclass(frozen=True, slots=True)
class Left:
    """What a registry holds that is still to be done. `at_work`: due documents that a worker had claimed."""

    due: int
    at_work: int
    building: int

    @property
    def anything(self) -> bool:
        return bool(self.due or self.building)


class Service:
    """`variables` are the settings of every start."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        self.switch = folder.with_name(f"{folder.name}.armed")
        """While this file exists, an armed failpoint counts."""
        self.log = folder.with_name(f"{folder.name}.log")
        self.url = ""
        self._variables = variables
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *, failpoint: str = "") -> None:
        """Begin; `ready` waits for it."""
        self.switch.unlink(missing_ok=True)
        given = {name: value for name, value in os.environ.items() if not name.startswith("RAGLINE_")}
        given |= self._variables
        if failpoint:
            given["RAGLINE_FAILPOINT"] = f"{failpoint}@{self.switch}"
        with self.log.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *RAGLINE, "up", "--data-dir", str(self.folder), "--port", "0", "--json",
                stdout=asyncio.subprocess.PIPE, stderr=errors, env=given,
            )  # fmt: skip

    async def ready(self) -> float:
        """Seconds until it answered, from now. Raises RuntimeError: it does not start."""
        assert self._process
        assert self._process.stdout
        start = time.perf_counter()
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"`ragline up` ended at once:\n{self.log.read_text()[-2000:]}")
        self.url = str(json.loads(line)["url"])
        return time.perf_counter() - start

    def arm(self) -> None:
        self.switch.touch()

    async def died(self) -> None:
        """Return once the process is gone. Raises RuntimeError: it ended in another way than by SIGKILL."""
        assert self._process
        code = await self._process.wait()
        if code != -signal.SIGKILL:
            raise RuntimeError(f"`ragline up` ended with {code}:\n{self.log.read_text()[-2000:]}")

    async def kill(self) -> None:
        assert self._process
        if self._process.returncode is None:
            self._process.kill()
        await self.died()

    async def stop(self) -> None:
        """In order, as Ctrl-C does."""
        if self._process and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    def left(self) -> Left:
        """What stands in the registry, read beside whoever has it."""
        path = self.folder / "registry.sqlite"
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30.0)) as sql:
                due, at_work = sql.execute(
                    f"SELECT count(*), coalesce(sum(lease_until > 0), 0) FROM documents WHERE {DUE}"
                ).fetchone()
                (building,) = sql.execute("SELECT count(*) FROM namespaces WHERE building IS NOT NULL").fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error) or "unable to open" in str(error):  # killed before it had made them
                return Left(0, 0, 0)
            raise
        return Left(due, at_work, building)

    def written(self) -> tuple[float, int]:
        """When a file of either store was last written, and how many there are."""
        stores = (path for room in ("vectors", "keywords") for path in (self.folder / room).rglob("*"))
        times = [at for path in stores if (at := _written(path))]
        return max(times, default=0.0), len(times)

    def blob_age_s(self) -> float:
        """Seconds since a blob was last written. Reads the whole folder: seconds, where there are many."""
        newest = max(
            (_written(path) for path in (self.folder / "blobs").rglob("*") if path.is_file()), default=-math.inf
        )
        return time.time() - newest

    def age_blobs(self, by_s: float) -> None:
        """Make what lies in the blob folder older, so that an orphan need not be waited for."""
        at = time.time() - by_s
        for path in (self.folder / "blobs").rglob("*"):
            if path.is_file():
                os.utime(path, (at, at))


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # a segment that was merged meanwhile, a blob that was swept
        return 0.0
