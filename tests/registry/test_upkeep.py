"""Histories stay bounded, and tombstones go only when nothing can lose against them any more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from ragline.connections.database import Database
from ragline.errors import ConfigurationError
from ragline.registry.acceptance import Accepted, Incoming
from ragline.registry.claims import Claims
from ragline.registry.documents import Documents
from ragline.registry.members import Members
from ragline.registry.migrations import SCHEMA
from ragline.registry.namespaces import Namespaces
from ragline.registry.rows import tell
from ragline.registry.upkeep import HISTORY_KEPT, Upkeep
from ragline.settings import load_settings
from ragline.types import NamespaceSettings, Space, State

SPACE = Space("toy", "0" * 64, "fp32", 4, 256)
RETENTION_S = 1000.0


class Registry:
    """A registry under a clock that is moved by hand."""

    def __init__(self, database: Database) -> None:
        self.at = 1_700_000_000.0
        self.database = database
        self.documents = Documents(database, self)
        self.claims = Claims(database, self)
        self.namespaces = Namespaces(database, self)
        self.upkeep = Upkeep(database, self)

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    async def accept(self, uri: str, blob: str = "b1") -> Accepted:
        incoming = Incoming(uri, None, None, 1, "1" * 64, "f", blob, frozenset(), {})
        return await self.documents.accept(await self.namespaces.get("n"), incoming)

    async def deleted(self, uri: str, *, swept: bool = True) -> str:
        id = (await self.accept(uri)).document.id
        await self.documents.delete("n", id)
        if swept:
            (claimed,) = await self.claims.claim(most=1, lease_s=60.0)
            assert await self.claims.mark_swept(claimed)
        return id

    async def orphans(self) -> set[str]:
        return {row.document.id async for page in self.upkeep.pages("n") for row in page if row.orphan}

    async def purge(self) -> int:
        return await self.upkeep.purge_tombstones(older_than_s=RETENTION_S)


@pytest.fixture
async def registry(registry_url: str) -> AsyncIterator[Registry]:
    database = await Database.open(registry_url, SCHEMA)
    registry = Registry(database)
    epoch = await registry.namespaces.plan_epoch("n", SPACE, {})
    await registry.namespaces.create(NamespaceSettings(), epoch)
    yield registry
    await database.aclose()


async def test_a_tombstone_goes_with_its_history_when_its_time_is_over(registry: Registry) -> None:
    id = await registry.deleted("a.txt")
    await registry.accept("b.txt")
    registry.at += RETENTION_S - 1
    assert await registry.purge() == 0
    registry.at += 2
    assert await registry.purge() == 1
    assert await registry.documents.look(id) is None
    assert await registry.documents.history(id) == []
    assert len(await registry.documents.page("n", after="", most=9, state=None)) == 1


async def test_a_document_that_comes_back_gets_a_higher_revision_than_it_ever_had(registry: Registry) -> None:
    id = await registry.deleted("a.txt")
    before = await registry.documents.look(id)
    assert before is not None
    registry.at += RETENTION_S + 1
    await registry.purge()
    again = (await registry.accept("a.txt")).document
    assert (again.id, again.state) == (id, State.RECEIVED)
    assert again.content > before.revision


async def test_a_tombstone_that_is_not_swept_stays(registry: Registry) -> None:
    id = await registry.deleted("a.txt", swept=False)
    registry.at += 10 * RETENTION_S
    assert await registry.purge() == 0
    assert await registry.documents.look(id) is not None


async def test_a_worker_that_delivers_after_the_purge_changes_nothing(registry: Registry) -> None:
    await registry.accept("a.txt")
    (late,) = await registry.claims.claim(most=1, lease_s=60.0)
    await registry.documents.delete("n", late.id)
    (sweeping,) = await registry.claims.claim(most=1, lease_s=60.0)
    assert await registry.claims.mark_swept(sweeping)
    registry.at += 61.0  # its lease has ended: what it may have written is swept as well
    (sweeping,) = await registry.claims.claim(most=1, lease_s=60.0)
    assert await registry.claims.mark_swept(sweeping)
    registry.at += RETENTION_S + 1
    assert await registry.purge() == 1
    assert not await registry.claims.mark_chunked(late, chunks=1, title="t", took_s=0.0)
    await registry.accept("a.txt", blob="b2")
    assert not await registry.claims.mark_chunked(late, chunks=1, title="t", took_s=0.0)


async def test_only_the_newest_lines_of_a_story_are_kept(registry: Registry) -> None:
    long, short = (await registry.accept("a.txt")).document.id, (await registry.accept("b.txt")).document.id

    def lines(connection: Any) -> None:
        for n in range(HISTORY_KEPT + 50):
            tell(connection, long, float(n), 1, 0, "updated", f"edition {n}")

    await registry.database.write(lines)
    assert await registry.upkeep.trim_histories() == 51
    story = await registry.documents.history(long)
    assert (len(story), story[0].detail, story[-1].detail) == (
        HISTORY_KEPT,
        "edition 50",
        f"edition {HISTORY_KEPT + 49}",
    )
    assert len(await registry.documents.history(short)) == 1
    assert await registry.upkeep.trim_histories() == 0


def test_a_retention_shorter_than_a_lease_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="tombstone_retention_s"):
        load_settings(ingest={"tombstone_retention_s": 10, "lease_s": 300})


@pytest.mark.parametrize("how", ["deleted", "unknown"])
async def test_a_file_whose_archive_is_gone_is_an_orphan_until_that_is_back(registry: Registry, how: str) -> None:
    inside = [Incoming(f"a.zip!/{name}", None, None, 1, "1" * 64, "f", name, frozenset(), {}) for name in "xy"]
    archive = (await registry.accept("a.zip")).document
    (held,) = await registry.claims.claim(most=1, lease_s=60.0)
    holder = await registry.namespaces.get("n")
    taken = await Members(registry.database, registry).accept(holder, held, inside)
    assert taken is not None
    x, y = (taken[0][one.uri].id for one in inside)
    assert await registry.orphans() == set()
    assert not await registry.documents.delete_orphan("n", x), "its archive stands"
    assert not await registry.documents.delete_orphan("n", archive.id), "it lies in nothing"

    gone = "DELETE FROM documents" if how == "unknown" else "UPDATE documents SET state = 'deleted', members = 0"
    await registry.database.write(lambda c: c.exec_driver_sql(f"{gone} WHERE id = '{archive.id}'").rowcount)
    assert await registry.orphans() == {x, y}
    assert {id for id, row in (await registry.upkeep.rows([x, archive.id])).items() if row.orphan} == {x}
    assert await registry.documents.delete_orphan("n", x)
    assert await registry.orphans() == {y}
    await registry.accept("a.zip", blob="b2")
    assert await registry.orphans() == set()
