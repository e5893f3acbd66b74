"""`ragline prove` on servers, PostgreSQL, Redis, Milvus and Elasticsearch: connections to them fail, and nothing is left."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from ragline.build import open_vectors
from ragline.chaos.experiment import Experiment, shipped
from ragline.chaos.proving import Pace, Proving
from ragline.chaos.stack import Stack
from ragline.chaos.wires import ON_CONNECTION, Wires
from ragline.clock import SystemClock
from ragline.connections.database import Database
from ragline.registry.keys import Keys
from ragline.registry.migrations import SCHEMA
from ragline.settings import Settings
from tests.chaos.processes import PROGRAM, alive, proof
from tests.engines.elasticsearch import Elasticsearch
from tests.engines.milvus import Milvus
from tests.engines.postgres import Postgres
from tests.engines.redis import Redis
from tests.engines.server import stopped

PACE = Pace(rate=10.0, before_s=2.5, after_s=3.5)
FAULT_S, HEALED_S = 4.5, 6.0

UNHURRIED = {
    f"RAGLINE_QUERY__{name}_MS": "3000"
    for name in ("KEYWORD_DEADLINE", "DENSE_DEADLINE", "LEAST_DEADLINE", "GRACE", "GUARD_DEADLINE")
} | {"RAGLINE_QUERY__TARGET_MS": "60000"}  # fmt: skip
"""Deadlines that a busy machine meets, and what hangs does not."""


@dataclass(frozen=True)
class Servers:
    settings: Settings
    variables: dict[str, str]

    async def ask(self, statement: str) -> list[Any]:
        connection = await asyncpg.connect(self.settings.registry)
        try:
            return [row[0] for row in await connection.fetch(statement)]
        finally:
            await connection.close()

    async def namespaces(self) -> list[str]:
        return await self.ask("SELECT name FROM namespaces ORDER BY name")

    async def keys(self) -> list[str]:
        return await self.ask("SELECT principal FROM keys WHERE revoked_at IS NULL ORDER BY principal")


@pytest.fixture(scope="module")
async def servers(
    postgres: Postgres, redis: Redis, milvus: Milvus, elasticsearch: Elasticsearch,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Servers]:  # fmt: skip
    """With a key, so that nobody is let in without one, and a worker of its own: it sees no fault."""
    folder = tmp_path_factory.mktemp("servers")
    urls = {
        "registry": await postgres.database(), "vectors": milvus.url, "keywords": elasticsearch.url(),
        "blobs": str(folder / "blobs"),
    }  # fmt: skip
    cache = redis.url()
    settings = Settings.model_validate({**urls, "data_dir": folder / "none", "cache": {"url": cache}})
    mine = {name: value for name, value in os.environ.items() if not name.startswith("RAGLINE_")}
    variables = {f"RAGLINE_{name.upper()}": url for name, url in urls.items()} | {
        "RAGLINE_CACHE__URL": cache, "RAGLINE_INGEST__PARSE_PROCESSES": "1", "RAGLINE_LOG_LEVEL": "warning",
    }  # fmt: skip
    database = await Database.open(settings.registry, SCHEMA)
    try:
        owner = Keys(database, SystemClock())
        await owner.create("owner", "admin", namespaces=None, groups=frozenset(), expires_at=None)
    finally:
        await database.aclose()
    vectors = open_vectors(settings)
    try:
        before = set(await vectors.collections())
        with _working(folder, mine | variables):
            yield Servers(settings, mine | variables)
        for left in (
            set(await vectors.collections()) - before
        ):  # until the housekeeper's time has come; others share the server
            await vectors.drop(left)
    finally:
        await vectors.aclose()


@contextmanager
def _working(folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    with (folder / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [*PROGRAM, "work", "parse", "embed", "index", "--port", "0"], cwd=folder, env=dict(environment),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield
    finally:
        stopped(worker)


def _folders(within: Path) -> list[str]:
    return [one.name for one in within.glob("ragline-prove-*")]


def _timeless(one: Experiment) -> Experiment:
    expect = replace(one.expect, mean_ratio=None, p95_ratio=None, p95_ms=None, healed_after_s=HEALED_S)
    return replace(one, expect=expect, faults=tuple(replace(fault, for_s=FAULT_S) for fault in one.faults))


@pytest.mark.timeout(600)
async def test_the_rungs_hold_on_the_connections_and_nothing_is_left(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in servers.variables.items():
        monkeypatch.setenv(name, value)
    chosen = {
        one.name: one
        for one in shipped()
        if one.name in ("vector_store_black_hole", "keyword_store_down", "registry_down")
    }
    wires = Wires(servers.settings)
    verdicts = {}
    async with Stack(tmp_path, UNHURRIED, wires=wires) as stack:
        process = stack._process
        assert await stack.left() == []
        assert stack.namespace in await servers.namespaces()
        assert stack.namespace in await servers.keys()
        proving = Proving(stack, PACE)
        for name, one in chosen.items():
            verdicts[name] = await proving.run(_timeless(one))
    assert {name: verdict.faults for name, verdict in verdicts.items()} == dict.fromkeys(chosen, ())
    for verdict in verdicts.values():
        assert set(verdict.where.values()) == {ON_CONNECTION}
        assert verdict.during.errors == 0
    for name, step in (("vector_store_black_hole", "dense"), ("keyword_store_down", "keyword")):
        assert verdicts[name].during.degraded[step] > 0
        assert verdicts[name].during.degraded.keys() == {step}
    assert await servers.namespaces() == ["default"]
    assert await servers.keys() == ["owner"]
    assert process
    assert process.returncode is not None
    for url in wires.variables.values():
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", urlsplit(url).port)


@pytest.mark.timeout(900)
async def test_killed_it_takes_its_process_along_and_what_is_left_is_named_to_the_next_which_ctrl_c_ends_in_order(
    servers: Servers, tmp_path: Path
) -> None:
    environment = servers.variables | UNHURRIED | {"TMPDIR": str(tmp_path)}
    with proof("--only", "vector_store_black_hole", folder=tmp_path, environment=environment) as killed:
        while not (left := [name for name in await servers.namespaces() if name.startswith("prove-")]):
            assert killed.process.poll() is None, killed.said
            await asyncio.sleep(0.1)
        children = killed.children()
        assert children
        killed.process.kill()
        while any(map(alive, children)):
            await asyncio.sleep(0.05)
    assert left == [name for name in await servers.keys() if name.startswith("prove-")]
    with proof("--only", "keyword_store_down", "--rate", "10", folder=tmp_path, environment=environment) as second:
        named = [second.until("remove it: ").partition("remove it: ")[2].strip() for _ in range(2)]
        second.until("keywords fails on the connection")
        children = second.children()
        assert children
        os.killpg(second.process.pid, signal.SIGINT)
        assert second.ended() == 130, second.said
        assert not any(map(alive, children))
    assert [name for name in await servers.namespaces() if name.startswith("prove-")] == left
    assert await servers.keys() == ["owner", *left]
    assert _folders(tmp_path) == []
    for command in named:
        words = [*PROGRAM, *shlex.split(command)[1:]]
        done = await asyncio.to_thread(subprocess.run, words, env=environment, cwd=tmp_path, capture_output=True)
        assert done.returncode == 0, done.stderr
    assert [name for name in await servers.namespaces() if name.startswith("prove-")] == []
    assert await servers.keys() == ["owner"]
