"""A data folder of every version that had another one is brought forward; one of a newer version is refused."""

from __future__ import annotations

import json
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ragline.build import build
from ragline.errors import ConfigurationError, EngineRejected
from ragline.registry.migrations import HEAD, SCHEMA
from ragline.settings import Settings
from ragline.system import System
from ragline.types import LegName, Passage, SearchRequest, State, Upload

FOLDERS = sorted((Path(__file__).parent / "folders").glob("*.tar.xz"))
"""Made by `scripts/old_folder.py`, each by the version it is of."""


@pytest.fixture(params=FOLDERS, ids=lambda path: path.name.removesuffix(".tar.xz"))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with tarfile.open(request.param) as tar:
        safe: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4 and later
        tar.extractall(tmp_path, **safe)
    return tmp_path


async def opened(folder: Path, use: Callable[[System], Any]) -> None:
    system = await build(Settings(data_dir=folder))
    try:
        await use(system)
    finally:
        await system.aclose()


async def ask(
    system: System, query: str, leg: LegName, namespace: str = "default", **more: Any
) -> tuple[Passage, ...]:  # fmt: skip
    request = SearchRequest(query, namespace, more.pop("groups", frozenset()), legs=(leg,), **more)
    return (await system.search.search(request)).passages


def test_folders_are_kept_from_the_first_schema_on() -> None:
    kept = {path.name.removesuffix(".tar.xz").rpartition("-")[2] for path in FOLDERS}
    assert min(SCHEMA.known()) in kept <= SCHEMA.known(), (
        "run scripts/old_folder.py with the version before a change of the schema"
    )


@pytest.mark.parametrize("leg", ["keyword", "dense"])
async def test_it_finds_what_was_in_it(folder: Path, leg: LegName) -> None:
    async def use(system: System) -> None:
        await system.warm()
        found = await ask(system, "When is high water at the old pier?", leg)
        assert found[0].hit.uri == "tides.txt"
        (one,) = await ask(system, "high water", leg, "papers", groups=frozenset({"staff"}), filters={"year": 1899})
        assert one.hit.uri == "tides.txt"
        assert await ask(system, "high water", leg, "papers", filters={"year": 1899}) == ()
        states = {one.uri: one.state for one in await system.documents.page("default", after="", most=9, state=None)}
        assert states.pop("empty.md") is State.FAILED
        assert set(states.values()) == {State.INDEXED}
        assert (await system.namespaces.get("papers")).settings.fusion.method == "convex"
        assert [key.principal for key in await system.keys.all()] == ["reader"]

    await opened(folder, use)
    with closing(sqlite3.connect(folder / "registry.sqlite")) as sql:
        assert sql.execute("SELECT version_num FROM alembic_version").fetchone() == (HEAD,)


async def test_it_takes_what_is_new(folder: Path) -> None:
    async def use(system: System) -> None:
        holder = await system.namespaces.get("default")
        upload = Upload("vault.md", b"The vault is a museum now.", source="here:/docs", version="1")
        taken = await system.ingest.accept(holder, upload)
        assert taken.outcome == "updated"
        (claimed,) = await system.claims.claim(most=9, lease_s=60)
        await system.ingest.process(claimed)
        found = await ask(system, "vault museum", "keyword")
        assert [one.hit.uri for one in found] == ["vault.md"]
        assert await system.sources.all("default") == {"here:/docs": 1}

    await opened(folder, use)
    await opened(folder, use_again)


async def use_again(system: System) -> None:
    assert [one.hit.uri for one in await ask(system, "vault museum", "dense", top_k=1)] == ["vault.md"]


# ── newer ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_registry_of_a_newer_version_is_refused(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "registry.sqlite")) as sql, sql:
        sql.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigurationError, match="schema of the registry is at 9999") as refused:
        await build(Settings(data_dir=folder))
    assert "Start the newer version again" in refused.value.next_step
    with closing(sqlite3.connect(folder / "registry.sqlite")) as sql:
        assert sql.execute("SELECT version_num FROM alembic_version").fetchone() == ("9999",), "and left as it is"


async def test_stores_of_a_newer_version_are_refused_one_by_one(folder: Path) -> None:
    (rows,) = (folder / "vectors").glob("default-*/rows.db")
    with closing(sqlite3.connect(rows)) as sql:
        sql.execute("PRAGMA user_version = 99")
    (sidecar,) = (folder / "keywords").glob("default-*/ragline.json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"format": 99}))

    async def use(system: System) -> None:
        for leg in ("keyword", "dense"):
            with pytest.raises(EngineRejected, match="written by a newer Ragline") as refused:
                await ask(system, "vault", leg)
            assert "ragline reindex" in refused.value.next_step

    await opened(folder, use)


async def test_an_index_of_another_tantivy_says_so(folder: Path) -> None:
    (meta,) = (folder / "keywords").glob("default-*/meta.json")
    (segment,) = sorted(meta.parent.glob("*.idx"))[:1]
    data = bytearray(segment.read_bytes())
    data[-8:-4] = (9_999).to_bytes(4, "little")  # the version that stands before the magic number of each file
    segment.write_bytes(data)

    async def use(system: System) -> None:
        with pytest.raises(EngineRejected) as refused:
            await ask(system, "vault", "keyword")
        assert "ragline reindex" in refused.value.next_step

    await opened(folder, use)


async def test_another_embedder_is_named_with_the_step(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "registry.sqlite")) as sql, sql:
        sql.execute("UPDATE epochs SET space = json_set(space, '$.model', 'another-model')")

    async def use(system: System) -> None:
        from ragline.errors import EngineUnavailable

        with pytest.raises(EngineUnavailable, match="holds vectors of another-model") as refused:
            await ask(system, "vault", "dense")
        assert "ragline reindex --namespace default" in refused.value.next_step
        both = await system.search.search(SearchRequest("vault", "default", frozenset()))
        assert both.degraded == ("dense",)
        assert both.passages

    await opened(folder, use)
