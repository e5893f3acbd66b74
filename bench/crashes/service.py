"""What is under test, on the embedded engines: `ragline up` on a folder, and what a kill leaves in its registry."""

from __future__ import annotations

import asyncio
import math
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.crashes.program import Program
from ragline.datafolder import DataFolder

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


class UnderTest(Protocol):
    """The processes that are killed, and what they leave."""

    url: str
    """Of the API, once it is ready."""

    has_log: bool
    """Whether a chunk log is among the engines."""

    cuts: bool
    """Whether connections to engines are cut: then a request may be answered that one is away, and have come through or not."""

    tally: Counter[str]
    """What was done to it, for the table: words → times."""

    async def start(self, *, failpoint: str = "") -> None:
        """Begin whatever does not run, and arm the failpoint; `ready` waits for it."""

    async def ready(self) -> float:
        """Seconds until it answered, from now. Raises RuntimeError: it does not start."""

    async def owner(self) -> str:
        """The token of somebody who may make keys."""

    def arm(self) -> None:
        """From now on the failpoint counts."""

    async def disturb(self, until: asyncio.Event) -> None:
        """Whatever else is done to it under load."""

    async def died(self) -> None:
        """Return once what is to be killed is gone. Raises RuntimeError: something ended in another way than by SIGKILL."""

    async def kill(self, *, starting: bool = False) -> None:
        """Kill what is to be killed; `starting`: what was begun last."""

    async def stop(self) -> None: ...

    async def left(self) -> Left:
        """What stands in the registry, read beside whoever has it."""

    async def written(self) -> object:
        """Another value once anything has moved."""

    def blob_age_s(self) -> float:
        """Seconds since a blob was last written. Reads the whole folder: seconds, where there are many."""

    def age_blobs(self, by_s: float) -> None:
        """Make what lies in the blob folder older, so that an orphan need not be waited for."""


class Service:
    """`variables` are the settings of every start."""

    has_log = cuts = False

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        self.url = ""
        self.tally: Counter[str] = Counter()
        self._switch = folder.with_name(f"{folder.name}.armed")
        """While this file exists, an armed failpoint counts."""
        self._variables = variables
        command = ("up", "--data-dir", str(folder), "--port", "0", "--json")
        self._program = Program(command, folder.with_name(f"{folder.name}.log"))

    async def start(self, *, failpoint: str = "") -> None:
        self._switch.unlink(missing_ok=True)
        armed = {"RAGLINE_FAILPOINT": f"{failpoint}@{self._switch}"} if failpoint else {}
        await self._program.start({**self._variables, **armed})

    async def ready(self) -> float:
        start = time.perf_counter()
        self.url = str((await self._program.ready())["url"])
        return time.perf_counter() - start

    async def owner(self) -> str:
        """As the command line becomes it: by the folder."""
        while True:
            holder = DataFolder(self.folder).holder()
            if holder and holder.url:
                return holder.token
            await asyncio.sleep(0.01)

    def arm(self) -> None:
        self._switch.touch()

    async def disturb(self, until: asyncio.Event) -> None:
        return

    async def died(self) -> None:
        await self._program.died()

    async def kill(self, *, starting: bool = False) -> None:
        await self._program.kill()

    async def stop(self) -> None:
        await self._program.stop()

    async def left(self) -> Left:
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

    async def written(self) -> object:
        """When a file of either store was last written, and how many there are."""
        stores = (path for room in ("vectors", "keywords") for path in (self.folder / room).rglob("*"))
        times = [at for path in stores if (at := _written(path))]
        return max(times, default=0.0), len(times)

    def blob_age_s(self) -> float:
        return age_s(self.folder / "blobs")

    def age_blobs(self, by_s: float) -> None:
        age(self.folder / "blobs", by_s)


def age_s(folder: Path) -> float:
    """Seconds since a file in it was last written; infinite: there is none."""
    newest = max((_written(path) for path in folder.rglob("*") if path.is_file()), default=-math.inf)
    return time.time() - newest


def age(folder: Path, by_s: float) -> None:
    at = time.time() - by_s
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (at, at))


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # a segment that was merged meanwhile, a blob that was swept
        return 0.0
