"""Before which engines a wire can stand, and where the process under test then finds them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ragline.chaos.experiment import Fault
from ragline.chaos.wires import Wires, places, through, why_none
from ragline.settings import CacheSettings, JobsSettings, Settings


@pytest.mark.parametrize(
    ("url", "at", "then"),
    [
        ("milvus://u:p%40@m/db?index=FLAT", [("m", 19530)], "milvus://u:p%40@127.0.0.1:1/db?index=FLAT"),
        (
            "elasticsearch://:key@a:1200,b/pre?replicas=0", [("a", 1200), ("b", 9200)],
            "elasticsearch://:key@127.0.0.1:1,127.0.0.1:2/pre?replicas=0",
        ),
        ("redis://[::1]/3", [("::1", 6379)], "redis://127.0.0.1:1/3"),
        ("postgresql://u@h/d?sslmode=prefer", [("h", 5432)], "postgresql://u@127.0.0.1:1/d?sslmode=prefer"),
    ],
)  # fmt: skip
def test_a_url_keeps_all_but_its_addresses(url: str, at: list[tuple[str, int]], then: str) -> None:
    assert why_none(url) == ""
    assert places(url) == at
    assert through(url, [1, 2][: len(at)]) == then


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("milvuss://m", "certificate"),
        ("elasticsearchs://e:9200", "certificate"),
        ("rediss://r", "certificate"),
        ("postgresql://h/d?sslmode=verify-full&sslrootcert=ca.pem", "certificate"),
        ("postgresql://h/d?sslmode=require", "certificate"),
        ("kafka://k:9092", "brokers tell"),
        ("pinecone://index", "no wire is known to work before pinecone://"),
        ("postgresql:///d", "names no host"),
    ],
)
def test_where_none_can_stand_it_is_said_why(url: str, why: str) -> None:
    assert why in why_none(url)


async def test_each_engine_has_its_own_though_two_are_on_one_server() -> None:
    at, cluster = "postgresql://u@h/d", "elasticsearch://e"
    async with Wires(
        Settings(data_dir=Path("none"), registry=at, vectors=cluster, keywords=cluster, log="kafka://k")
    ) as wires:
        assert set(wires.variables) == {
            "RAGLINE_REGISTRY", "RAGLINE_JOBS__URL", "RAGLINE_VECTORS", "RAGLINE_KEYWORDS",
        }  # fmt: skip
        assert len(set(wires.variables.values())) == 4
        assert list(wires.inside) == ["log"]
        assert wires.takes(Fault("jobs", "hang", 1.0))
        for fault in (Fault("log", "hang", 1.0), Fault("embedder", "slow", 1.0), Fault("clock", "skew", 1.0)):
            assert not wires.takes(fault)


@pytest.mark.parametrize("cache", ["", "off", "memory://"])
def test_what_is_no_server_has_none(cache: str) -> None:
    settings = Settings(data_dir=Path("none"), cache=CacheSettings(url=cache), jobs=JobsSettings(url="redis://r"))
    assert not Wires(settings).takes(Fault("cache", "hang", 1.0))
    assert Wires(settings).takes(Fault("jobs", "hang", 1.0))


async def test_a_fault_ends_when_another_begins_or_none() -> None:
    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(1))
        writer.close()

    async def answers() -> bytes:
        reader, writer = await asyncio.open_connection(*places(wires.variables["RAGLINE_CACHE__URL"])[0])
        try:
            writer.write(b"a")
            async with asyncio.timeout(0.2) if hangs else asyncio.timeout(60):
                return await reader.read(1)
        finally:
            writer.transport.abort()

    async with await asyncio.start_server(served, "127.0.0.1", 0) as server:
        url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Wires(Settings(data_dir=Path("none"), cache=CacheSettings(url=url))) as wires:
            hangs = True
            for kind in ("hang", "slow"):
                await wires.play({"cache": Fault("cache", kind, 1.0, by=3600.0)})
                with pytest.raises(TimeoutError):
                    await answers()
            await wires.play({"cache": Fault("cache", "refuse", 1.0)})
            with pytest.raises(ConnectionRefusedError):
                await answers()
            await wires.play({})
            hangs = False
            assert await answers() == b"a"
