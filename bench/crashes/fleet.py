"""What is under test, on servers: the API and each role a process of its own, over PostgreSQL, Kafka, Milvus and Elasticsearch.

Every connection to an engine goes through a wire, which is cut under load; the harness itself looks at PostgreSQL past it.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx

from bench.crashes.program import Program
from bench.crashes.service import Left, age, age_s
from bench.server import RAGLINE
from bench.servers import servers
from ragline.chaos.wire import Wire
from tests.engines.server import free_port

COMMANDS = {"gateway": ("serve",), "parse": ("work", "parse"), "embed": ("work", "embed"), "index": ("work", "index")}

PASSED_IN = {
    "gateway": (
        "contents.put_original", "documents.", "namespaces.plan_epoch", "namespaces.start_building", "vectors.create",
        "keywords.create",
    ),
    "index": ("contents.put_vectors", "vectors.upsert", "keywords.upsert", "claims.mark_live"),
    "embed": (),
}  # fmt: skip
"""Where a failpoint is passed under this load; what is not here, in `parse`. `log.append` in two roles."""

ALL_AT_ONCE = 0.1
"""Share of the kills at a random moment that end every process."""

CUT = 0.5
"""Share of the loads in which connections are cut."""

BETWEEN_CUTS_S, AWAY_S = (0.1, 1.5), (0.0, 1.5)

SILENT = 0.2
"""Share of these in which the engine falls silent instead."""

SILENT_S = {"registry": (0.5, 8.0), "log": (0.5, 8.0), "vectors": (0.5, 5.0), "keywords": (0.5, 5.0)}
"""And for how long: longer than a lease, but for the stores: what a worker that is killed had sent to one lands within it."""

VARIABLES = {
    "RAGLINE_INGEST__LEASE_S": "6",
    "RAGLINE_INGEST__CHUNKED_DEADLINE_S": "60",
    "RAGLINE_INGEST__TOMBSTONE_RETENTION_S": str(7 * 86_400),
}
"""A worker that was killed is not waited for long, nor a document that was killed between its state and its chunks; what Kafka
still holds is shorter-lived than the memory of deletions."""


@dataclass(frozen=True, slots=True)
class Engines:
    """URLs by setting: through the wires, and `direct`, past them."""

    urls: Mapping[str, str]
    direct: Mapping[str, str]
    wires: tuple[Wire, ...]


@asynccontextmanager
async def engines(folder: Path) -> AsyncIterator[Engines]:
    """All four, started anew, with their data in `folder`."""
    port = free_port()
    async with servers(folder, log_port=port) as started, wired(started.urls, log_port=port) as engines:
        yield engines


@asynccontextmanager
async def wired(direct: Mapping[str, str], *, log_port: int) -> AsyncIterator[Engines]:
    """The engines of these URLs, by setting, each behind a wire; `log_port`: which the broker tells its clients."""
    async with AsyncExitStack() as stack:
        wires = {
            name: Wire(name, ("127.0.0.1", urlsplit(url).port or 0), port=log_port if name == "log" else free_port())
            for name, url in direct.items()
        }
        for wire in wires.values():
            await stack.enter_async_context(wire)
        urls = {name: _through(url, wires[name].port) for name, url in direct.items()}
        yield Engines(urls, direct, tuple(wires.values()))


class Fleet:
    """`folder` is for blobs and logs. `variables` are the settings of every start."""

    has_log = cuts = True

    def __init__(self, folder: Path, variables: Mapping[str, str], engines: Engines, *, dice: random.Random) -> None:
        self.url = ""
        self.tally: Counter[str] = Counter()
        self._blobs = _made(folder / "blobs")
        self._switch = folder / "armed"
        self._engines = engines
        self._dice = dice
        self._variables = {**variables, **VARIABLES, "RAGLINE_BLOBS": str(self._blobs)}
        self._variables |= {f"RAGLINE_{name.upper()}": url for name, url in engines.urls.items()}
        self._programs = {
            role: Program((*command, "--port", "0", "--json"), folder / f"{role}.log") for role, command in COMMANDS.items()
        }  # fmt: skip
        self._started: list[str] = []
        self._victims: list[str] = []

    async def start(self, *, failpoint: str = "") -> None:
        """One that a failpoint is for begins anew, at rest: it is armed when it starts."""
        self._switch.unlink(missing_ok=True)
        roles = list(COMMANDS)
        armed = self._role(failpoint) if failpoint else None
        if armed:
            self._victims = [armed]
            if self._programs[armed].runs:
                await self._programs[armed].kill()
        else:
            self._victims = roles if self._dice.random() < ALL_AT_ONCE else [self._dice.choice(roles)]
        self._started = [role for role in roles if not self._programs[role].runs]
        for role in self._started:
            point = {"RAGLINE_FAILPOINT": f"{failpoint}@{self._switch}"} if role == armed else {}
            await self._programs[role].start({**self._variables, **point})

    async def ready(self) -> float:
        start = time.perf_counter()
        for role in self._started:
            told = await self._programs[role].ready()
            if role == "gateway":
                self.url = str(told["url"])
        return time.perf_counter() - start

    async def owner(self) -> str:
        """Who has the engines' URLs makes the first key."""
        made = await asyncio.create_subprocess_exec(
            *RAGLINE, "keys", "create", "owner", "--role", "admin", "--json",
            env=self._variables, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        told, _ = await made.communicate()
        return str(json.loads(told)["token"])

    def arm(self) -> None:
        self._switch.touch()

    async def disturb(self, until: asyncio.Event) -> None:
        if self._dice.random() >= CUT:
            return
        while True:
            try:
                await asyncio.wait_for(until.wait(), self._dice.uniform(*BETWEEN_CUTS_S))
            except TimeoutError:
                wire = self._dice.choice(self._engines.wires)
                if self._dice.random() < SILENT:
                    self.tally[f"{wire.name} silent"] += 1
                    await wire.silence(self._dice.uniform(*SILENT_S[wire.name]))
                    continue
                self.tally[f"connections to {wire.name} cut"] += 1
                await wire.cut(away_s=max(0.0, self._dice.uniform(-AWAY_S[1], AWAY_S[1])))
            else:
                return

    async def died(self) -> None:
        await self._gone(self._victims)

    async def kill(self, *, starting: bool = False) -> None:
        victims = self._started if starting else self._victims
        for role in victims:
            self.tally[f"{role} killed"] += 1
        await asyncio.gather(*(self._programs[role].kill() for role in victims))

    async def stop(self) -> None:
        await asyncio.gather(*(program.stop() for program in self._programs.values()))

    async def left(self) -> Left:
        due = "settled < revision OR sweep = 1"
        try:
            (row,) = await self._ask(
                f"SELECT (SELECT count(*) FROM documents WHERE {due}) AS due, "
                f"(SELECT count(*) FROM documents WHERE ({due}) AND lease_until > 0) AS at_work, "
                "(SELECT count(*) FROM namespaces WHERE building IS NOT NULL) AS building"
            )
        except asyncpg.UndefinedTableError:  # killed before it had made them
            return Left(0, 0, 0)
        return Left(*row)

    async def written(self) -> object:
        """The rows of the registry, and how many the keyword index has had: a re-index moves those alone."""
        rows = await self._ask(
            "SELECT state, count(*), sum(settled), sum(live), sum(content) FROM documents GROUP BY state ORDER BY state"
        )
        node = urlsplit(self._engines.direct["keywords"]).netloc
        async with httpx.AsyncClient(timeout=60.0, trust_env=False) as http:
            told = await http.get(f"http://{node}/_stats/docs,indexing", params={"filter_path": "_all.primaries"})
        return rows, told.text

    def blob_age_s(self) -> float:
        return age_s(self._blobs)

    def age_blobs(self, by_s: float) -> None:
        age(self._blobs, by_s)

    async def _ask(self, statement: str) -> list[tuple[int, ...]]:
        connection = await asyncpg.connect(self._engines.direct["registry"])
        try:
            return [tuple(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()

    async def _gone(self, victims: list[str]) -> None:
        """Return once they are. Raises RuntimeError: another one has ended, or one of them by itself."""
        gone = {asyncio.create_task(self._programs[role].died()) for role in victims}
        others = {asyncio.create_task(self._programs[role].died()) for role in COMMANDS if role not in victims}
        try:
            while gone - (done := {task for task in gone | others if task.done()}):
                if early := done & others:
                    await early.pop()
                    raise RuntimeError("A process was killed that nobody meant to kill.")
                await asyncio.wait((gone | others) - done, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.gather(*gone)
        finally:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    def _role(self, failpoint: str) -> str:
        if failpoint.startswith("log."):
            return self._dice.choice(["parse", "embed"])
        return next((role for role, points in PASSED_IN.items() if points and failpoint.startswith(points)), "parse")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _through(url: str, port: int) -> str:
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{port}"))
