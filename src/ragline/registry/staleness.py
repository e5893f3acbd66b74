"""Which served documents are stale: newer bytes were accepted and are not live, or their source was not verified in time.

Of documents, not of passages: a passage is as stale as its document, and counting rows of the registry asks no store. Parsing the
same bytes again makes nobody stale, nor does a file inside another, which is verified with what it lies in.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from sqlalchemy import ColumnElement, Connection, and_, case, false, func, literal, not_, or_, select

from ragline.clock import Clock
from ragline.connections.database import Database
from ragline.registry.rows import AWAY, INTERRUPTED
from ragline.registry.tables import IS_MEMBER, documents, history, namespaces

Why: TypeAlias = Literal["content", "unverified"]

BROUGHT = ("created", "updated")
TRIED = ("retried", "driven again")

_SERVED = documents.c.live.is_not(None)
_BEHIND = and_(_SERVED, documents.c.live_blob != documents.c.blob)


def _of(document: Any, *events: str) -> tuple[ColumnElement[bool], ...]:
    return history.c.document == document, history.c.event.in_(events)


_BROUGHT_AT = (
    select(func.min(history.c.at))
    .where(*_of(documents.c.id, *BROUGHT), history.c.revision > documents.c.live)
    .correlate(documents)
    .scalar_subquery()
)
"""When the first content came that should be live by now. None: its line was trimmed."""

_LAST_BROUGHT = (
    select(func.max(history.c.id)).where(*_of(documents.c.id, *BROUGHT)).correlate(documents).scalar_subquery()
)
_WAITS = (
    select(literal(1))
    .where(
        *_of(documents.c.id, INTERRUPTED, AWAY), history.c.revision == documents.c.revision,
        history.c.attempt == documents.c.attempt,
    )
    .correlate(documents)
    .exists()
)  # fmt: skip


def _tries(what: Any) -> Any:
    return (
        select(what)
        .where(*_of(documents.c.id, *TRIED), history.c.id > func.coalesce(_LAST_BROUGHT, 0))
        .correlate(documents)
        .scalar_subquery()
    )


@dataclass(frozen=True, slots=True)
class Look:
    """`oldest_waiting_s`: age of the oldest change that is not settled, counted from a document's newest one; 0: none waits."""

    served: int
    stale: dict[Why, int]
    oldest_waiting_s: float


@dataclass(frozen=True, slots=True)
class Stale:
    """`due`: work is due on it. `held`: a worker has it, or the chunk log. `tries`: how often it was tried again since its newest
    bytes came, and when last. Units: seconds since 1970."""

    document: str
    namespace: str
    uri: str
    why: Why
    since: float
    due: bool
    held: bool
    waiting: bool
    """For a next attempt, after one that did not come through."""
    tries: int
    tried_at: float


class Staleness:
    def __init__(self, database: Database, clock: Clock, *, stale_after_s: float) -> None:
        self._database = database
        self._clock = clock
        self._stale_after_s = stale_after_s

    async def look(self) -> Look:
        """Counted over all namespaces, in one pass over the documents. Raises EngineError."""
        now = self._now()

        def work(connection: Connection) -> Look:
            behind, unverified = self._conditions(connection, now)
            one = case((documents.c.id.is_not(None), 1))
            query = select(func.count(one), func.count(case((behind, 1))), func.count(case((unverified, 1))))
            served, old, late = connection.execute(query.where(_SERVED)).one()
            unsettled = select(func.min(documents.c.updated_at)).where(documents.c.settled < documents.c.revision)
            oldest = connection.execute(unsettled).scalar()
            waits_s = 0.0 if oldest is None else max(0.0, now - oldest)
            return Look(served, {"content": old, "unverified": late}, waits_s)

        return await self._database.read(work)

    async def stale(self, among: Collection[str] | None, *, most: int) -> list[Stale]:
        """Those of these namespaces (None: of all), stale for longest first, at most `most`. Raises EngineError."""
        now = self._now()

        def work(connection: Connection) -> list[Stale]:
            behind, unverified = self._conditions(connection, now)
            since = case((behind, func.coalesce(_BROUGHT_AT, documents.c.updated_at)), else_=documents.c.verified_at)
            query = select(
                documents.c.id, documents.c.namespace, documents.c.uri, behind.label("behind"), since.label("since"),
                documents.c.settled < documents.c.revision, documents.c.attempt, documents.c.lease_until,
                _WAITS.label("waits"), _tries(func.count()), _tries(func.max(history.c.at)),
            ).where(or_(behind, unverified))  # fmt: skip
            if among is not None:
                query = query.where(documents.c.namespace.in_(sorted(among)))
            return [_stale(row, now) for row in connection.execute(query.order_by("since").limit(most))]

        return await self._database.read(work)

    def _conditions(self, connection: Connection, now: float) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
        """Behind its bytes; else unverified."""
        brought_at = func.coalesce(_BROUGHT_AT, documents.c.updated_at)
        behind = and_(_BEHIND, brought_at < now - self._stale_after_s)
        limits = {
            name: settings["verify_within_s"]
            for name, settings in connection.execute(select(namespaces.c.name, namespaces.c.settings))
            if settings.get("verify_within_s")
        }
        late = [
            and_(documents.c.namespace == name, documents.c.verified_at < now - limit) for name, limit in limits.items()
        ]
        return behind, and_(_SERVED, ~IS_MEMBER, or_(false(), *late), not_(behind))

    def _now(self) -> float:
        return self._clock.now() + self._database.ahead_s


def _stale(row: Any, now: float) -> Stale:
    id, namespace, uri, behind, since, due, attempt, lease_until, waits, tries, tried_at = row
    leased = attempt > 0 and lease_until > now
    return Stale(
        id, namespace, uri, "content" if behind else "unverified", since, due=bool(due), held=leased and not waits,
        waiting=lease_until > now and bool(waits), tries=tries, tried_at=tried_at or 0.0,
    )  # fmt: skip
