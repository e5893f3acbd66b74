"""The outbox of purges: rows that `rows.move_visible` writes with the change, and that go when the edge has done its part.

A row is purged twice: at once, and again when no answer can be on its way any more that was looked for before the change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, func, or_, select, update

from ragline.clock import Clock
from ragline.connections.database import Database
from ragline.registry.tables import edge_purges, namespaces
from ragline.types import Purge

_COLUMNS = tuple(edge_purges.c[name] for name in Purge.__dataclass_fields__)
_DUE = or_(edge_purges.c.due_at <= bindparam("now"), edge_purges.c.due_at > bindparam("beyond"))
_IS_DUE = select(edge_purges.c.id).where(_DUE).limit(1)
_CLAIM = (
    update(edge_purges)
    .where(
        edge_purges.c.id.in_(
            select(edge_purges.c.id)
            .where(_DUE)
            .order_by(edge_purges.c.id)
            .limit(bindparam("most"))
            .with_for_update(skip_locked=True)
        )
    )
    .values(due_at=bindparam("until"), attempt=edge_purges.c.attempt + 1)
    .returning(*_COLUMNS)
)
_STANDS = select(namespaces.c.uid, namespaces.c.visible, namespaces.c.epoch, namespaces.c.settings).where(
    namespaces.c.name == bindparam("which")
)
_OLDER = select(edge_purges.c.id).where(edge_purges.c.created_at < bindparam("before")).limit(1)
_WAITING = select(func.count(), func.min(edge_purges.c.created_at)).where(edge_purges.c.passes == 0)


@dataclass(frozen=True, slots=True)
class Stand:
    """A namespace as the edge cares for it; two that are equal: nothing that a reader sees has moved between them."""

    uid: str
    visible: int
    epoch: str
    public: bool


@dataclass(frozen=True, slots=True)
class Waiting:
    """Purges that were not acknowledged once. `oldest_s`: how long the oldest of them has waited; 0: there is none."""

    count: int
    oldest_s: float


class EdgePurges:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def stand(self, namespace: str) -> Stand | None:
        """None: there is no such namespace. Raises EngineError."""
        row = await self._database.read(lambda c: c.execute(_STANDS, {"which": namespace}).first())
        return row and Stand(row.uid, row.visible, row.epoch, bool(row.settings.get("public")))

    async def claim(self, *, most: int, lease_s: float, longest_s: float) -> list[Purge]:
        """Due ones, oldest first; nobody else gets them before the lease ends.

        `longest_s`: no row is put off for longer than this. What seems to be is due: the clock went back.
        """
        now = self._clock.now()
        due = {"now": now, "beyond": now + longest_s}
        if await self._database.read(lambda c: c.execute(_IS_DUE, due).first()) is None:
            return []
        given = {**due, "until": now + lease_s, "most": most}
        rows = await self._database.apart(lambda c: c.execute(_CLAIM, given).all())
        return sorted((Purge(*row) for row in rows), key=lambda one: one.id)

    async def acknowledged(self, purges: Sequence[Purge], *, again_s: float) -> None:
        """The edge has dropped these: for the first time, and they are due again in `again_s`; or for the last."""
        first = [one.id for one in purges if one.passes == 0]
        last = [one.id for one in purges if one.passes > 0]
        values = {"passes": 1, "attempt": 0, "due_at": self._clock.now() + again_s}

        def work(connection: Connection) -> None:
            here = edge_purges.c
            connection.execute(update(edge_purges).where(here.id.in_(first), here.passes == 0).values(values))
            connection.execute(delete(edge_purges).where(here.id.in_(last)))

        await self._database.write(work)

    async def put_off(self, purges: Sequence[Purge], *, after_s: float) -> None:
        ids, until = [one.id for one in purges], self._clock.now() + after_s
        await self._database.write(
            lambda c: c.execute(update(edge_purges).where(edge_purges.c.id.in_(ids)).values(due_at=until)).rowcount
        )

    async def waiting(self) -> Waiting:
        count, oldest = await self._database.read(lambda c: tuple(c.execute(_WAITING).one()))
        return Waiting(count, max(0.0, self._clock.now() - oldest) if oldest is not None else 0.0)

    async def left(self) -> int:
        """Rows of any pass."""
        return await self._database.read(lambda c: int(c.execute(select(func.count(edge_purges.c.id))).scalar_one()))

    async def drop(self, *, older_than_s: float) -> int:
        """Forget what is older: for where there is no edge. Returns how many."""
        before = self._clock.now() - older_than_s
        if await self._database.read(lambda c: c.execute(_OLDER, {"before": before}).first()) is None:
            return 0
        return await self._database.write(
            lambda c: c.execute(delete(edge_purges).where(edge_purges.c.created_at < before)).rowcount
        )
