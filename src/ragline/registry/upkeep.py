"""What housekeeping and audits ask of the registry, and change in it.

Every row of a namespace is read here, tombstones included. Purging and trimming go in small commits, so that a client's
write never waits long behind them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, func, select

from ragline.clock import Clock
from ragline.connections.database import Database
from ragline.registry.rows import SWEEP_NOW, SWEPT, document_of
from ragline.registry.tables import DUE, documents, epochs, history
from ragline.types import Document, State

PAGE = 500
"""Rows read at a time, and rows removed in one commit."""

HISTORY_KEPT = 100
"""Newest lines of a document's story that are kept: some twenty changes, each with its attempts. A document that changes
every minute would else write half a million lines a year, which nobody reads."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A document's row with what only upkeep asks for.

    due:    whether work is due on it.   since: when it last advanced, in seconds since 1970 (its last change, parse, …).
    orphan: whether it is a file in a document that is deleted or unknown, and is not deleted itself.
    """

    document: Document
    lease_until: float
    due: bool
    since: float
    orphan: bool = False

    @property
    def version(self) -> tuple[object, ...]:
        """Moves with everything that changes what the stores should hold."""
        one = self.document
        return (one.revision, one.content, one.live, one.settled, one.state, one.sweep, one.blob, one.live_blob)


@dataclass(frozen=True, slots=True)
class Shelf:
    """An epoch's row: its collections, and when they may go (None: they serve or are being built)."""

    namespace: str
    uid: str
    label: str
    vectors: str
    keywords: str
    created_at: float
    drop_after: float | None


ADVANCES = ("created", "updated", "payload", "deleted", "retried", "parsed", "indexed", "updated words", "driven again")
"""Events with which a document moves on; an interrupted attempt is none."""

_SINCE = (
    select(history.c.document, func.max(history.c.at))
    .where(history.c.document.in_(bindparam("ids", expanding=True)), history.c.event.in_(ADVANCES))
    .group_by(history.c.document)
)
_ROWS = select(documents).where(documents.c.id.in_(bindparam("ids", expanding=True)))
_STANDING = select(documents.c.id).where(
    documents.c.id.in_(bindparam("ids", expanding=True)), documents.c.state != State.DELETED
)


class Upkeep:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def pages(self, namespace: str) -> AsyncIterator[list[Standing]]:
        """Every row of the namespace, by id, a page at a time."""
        after = ""
        while True:
            query = select(documents).where(documents.c.namespace == namespace, documents.c.id > after)
            query = query.order_by(documents.c.id).limit(PAGE)
            page = await self._database.read(lambda c, query=query: _standings(c, c.execute(query).all()))  # type: ignore[misc]
            if page:
                yield page
            if len(page) < PAGE:
                return
            after = page[-1].document.id

    async def rows(self, ids: Sequence[str]) -> dict[str, Standing]:
        """Those of `ids` that there are."""
        found: dict[str, Standing] = {}
        for start in range(0, len(ids), PAGE):
            part = {"ids": ids[start : start + PAGE]}
            rows = await self._database.read(lambda c, part=part: _standings(c, c.execute(_ROWS, part).all()))  # type: ignore[misc]
            found |= {row.document.id: row for row in rows}
        return found

    async def busy(self) -> bool:
        """Whether workers hold documents now."""
        held = documents.c.attempt > 0, documents.c.lease_until > self._clock.now()
        query = select(documents.c.id).where(DUE, *held).limit(1)
        return await self._database.read(lambda c: c.execute(query).first() is not None)

    async def ahead_of(self, document: Document) -> int:
        """Documents that are due and are claimed before it."""
        query = select(func.count()).where(DUE, documents.c.revision < document.revision)
        return await self._database.read(lambda c: int(c.execute(query).scalar_one()))

    async def shelves(self) -> list[Shelf]:
        """Every epoch that has or may have collections."""
        columns = (epochs.c.namespace, epochs.c.uid, epochs.c.label, epochs.c.vectors, epochs.c.keywords)
        query = select(*columns, epochs.c.created_at, epochs.c.drop_after)
        return [Shelf(*row) for row in await self._database.read(lambda c: c.execute(query).all())]

    async def purge_tombstones(self, *, older_than_s: float) -> int:
        """Forget documents that were deleted longer ago than this, and whose rows and blobs are gone. Returns how many.

        A tombstone is what makes a late delivery lose: a worker that was stopped for hours and goes on with its claim, a
        replayed message, finds the newer revision and drops what it has. So it must be kept for longer than the longest
        lease, and than the retention of whatever can replay. After that nothing is left to lose against: a late worker
        finds no row, which is refused just the same, and takes its rows back. A document that comes back gets a higher
        revision than it ever had, because the sequence is the namespace's and outlives every row. Kept for longer is what was
        deleted by itself from an archive that still stands: it must not come back when that is parsed again.
        """

        before = self._clock.now() - older_than_s
        over = (
            documents.c.state == State.DELETED, documents.c.settled >= documents.c.revision,
            documents.c.sweep == SWEPT, documents.c.updated_at < before, documents.c.lease_until < before,
            documents.c.dropped_from.is_(None),
        )  # fmt: skip
        gone = select(documents.c.id).where(*over).limit(PAGE)

        def work(connection: Connection, ids: Sequence[str]) -> int:
            still = connection.execute(
                delete(documents).where(documents.c.id.in_(ids), *over).returning(documents.c.id)
            )
            purged = [id for (id,) in still]
            connection.execute(delete(history).where(history.c.document.in_(purged)))
            return len(purged)

        total = 0
        while ids := await self._database.read(
            lambda c: [id for (id,) in c.execute(gone)]
        ):  # a long look stops no writer
            total += await self._database.write(lambda c, ids=ids: work(c, ids))  # type: ignore[misc]
        return total

    async def trim_histories(self) -> int:
        """Keep the newest HISTORY_KEPT lines of each document. Returns how many went."""
        crowded = select(history.c.document).group_by(history.c.document).having(func.count() > HISTORY_KEPT)
        ids = await self._database.read(lambda c: [id for (id,) in c.execute(crowded)])
        total = 0
        for start in range(0, len(ids), PAGE):
            part = ids[start : start + PAGE]
            total += await self._database.write(lambda c, part=part: sum(_trim(c, id) for id in part))  # type: ignore[misc]
        return total


def _trim(connection: Connection, id: str) -> int:
    line = select(history.c.id).where(history.c.document == id).order_by(history.c.id.desc())
    oldest = connection.execute(line.limit(1).offset(HISTORY_KEPT - 1)).scalar()
    if oldest is None:
        return 0
    return connection.execute(delete(history).where(history.c.document == id, history.c.id < oldest)).rowcount


def _standings(connection: Connection, rows: Sequence[object]) -> list[Standing]:
    found = [(document_of(row), float(row.lease_until)) for row in rows]  # type: ignore[attr-defined]
    due = [one.id for one, _ in found if _is_due(one)]
    since = {id: float(at) for id, at in connection.execute(_SINCE, {"ids": due})} if due else {}
    orphans = _orphans(connection, [one for one, _ in found])
    return [
        Standing(
            one, lease_until, _is_due(one), since.get(one.id, one.updated_at) if _is_due(one) else one.updated_at,
            one.id in orphans,
        )
        for one, lease_until in found
    ]  # fmt: skip


def _orphans(connection: Connection, some: Sequence[Document]) -> set[str]:
    """Ids of those that are files in a document which does not stand any more, while they do."""
    held = {one.id: one.parent for one in some if one.parent is not None and one.state is not State.DELETED}
    if not held:
        return set()
    parents = sorted(set(held.values()))
    standing = {id for (id,) in connection.execute(_STANDING, {"ids": parents})}
    return {id for id, parent in held.items() if parent not in standing}


def _is_due(document: Document) -> bool:
    """As `tables.DUE` says it."""
    return document.settled < document.revision or document.sweep == SWEEP_NOW
