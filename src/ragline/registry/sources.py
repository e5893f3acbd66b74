"""Which documents a sync has brought, and what their files looked like then (docs/adr/0007).

A source is a name: of a folder on a machine, or of a URL. Beside each document that a sync of it brought stands a
version, the words by which the source itself tells one state of a file from another; the sync that finds the same
version again need not read the file. Both are written in the transaction that accepts the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from ragline.clock import Clock
from ragline.connections.database import Database
from ragline.errors import Conflict
from ragline.registry.rows import parts
from ragline.registry.tables import documents, synced
from ragline.types import State

HELD = select(synced.c.source).where(synced.c.document == bindparam("which"))
FORGET = delete(synced).where(synced.c.document.in_(bindparam("ids", expanding=True)))
CHANGE = update(synced).where(synced.c.document == bindparam("which"))
BRING = insert(synced)


@dataclass(frozen=True, slots=True)
class Synced:
    """A document of a source. `version` is empty where something else than a sync has changed it since.

    `fingerprint`, `sha256`, `media_type`: what the bytes were accepted as.
    """

    id: str
    uri: str
    version: str
    state: State
    reason: str | None
    fingerprint: str
    sha256: str
    media_type: str | None


def check(connection: Connection, document: str, source: str) -> None:
    """Raises Conflict: another source brings this document."""
    holder = connection.execute(HELD, {"which": document}).scalar()
    if holder is not None and holder != source:
        raise Conflict(
            f"The document is one of the source {holder!r}, which another sync follows.",
            next_step="Sync into another namespace, or a folder that holds both, or go on as that source with --source.",
        )


def bring(connection: Connection, document: str, namespace: str, source: str, version: str) -> None:
    """Note that `source` holds the document, in this `version`."""
    changed = connection.execute(CHANGE, {"which": document, "source": source, "version": version})
    if not changed.rowcount:
        connection.execute(
            BRING, {"document": document, "namespace": namespace, "source": source, "version": version}
        )  # fmt: skip


def outdate(connection: Connection, document: str) -> None:
    """Something else than a sync has changed the document: the next sync reads its file again."""
    connection.execute(CHANGE, {"which": document, "version": ""})


def forget(connection: Connection, ids: Sequence[str]) -> None:
    for part in parts(ids):
        connection.execute(FORGET, {"ids": part})


class Sources:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def all(self, namespace: str) -> dict[str, int]:
        """Source → how many documents it has brought."""
        query = select(synced.c.source, func.count()).where(synced.c.namespace == namespace)
        query = query.group_by(synced.c.source).order_by(synced.c.source)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return {source: int(count) for source, count in rows}

    async def page(self, namespace: str, source: str, *, after: str, most: int) -> list[Synced]:
        """By id, from just behind `after`."""
        columns = (documents.c.state, documents.c.reason, documents.c.fingerprint, documents.c.sha256)
        query = select(synced.c.document, documents.c.uri, synced.c.version, *columns, documents.c.media_type)
        query = query.join(documents, documents.c.id == synced.c.document)
        query = query.where(synced.c.namespace == namespace, synced.c.source == source, synced.c.document > after)
        query = query.order_by(synced.c.document).limit(most)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [Synced(id, uri, version, State(state), *rest) for id, uri, version, state, *rest in rows]

    async def of(self, namespace: str, source: str, ids: Sequence[str]) -> list[str]:
        """Those of `ids` that the source has brought."""
        query = select(synced.c.document).where(
            synced.c.namespace == namespace, synced.c.source == source,
            synced.c.document.in_(bindparam("ids", expanding=True)),
        )  # fmt: skip
        return [id for (id,) in await self._database.read(lambda c: _each(c, query, ids, lambda r: r.all()))]

    async def verified(self, namespace: str, source: str, *, leave_out: Sequence[str]) -> int:
        """Note that the source was compared with its documents, all but `leave_out`, just now. Returns how many."""

        def work(connection: Connection) -> int:
            mine = select(synced.c.document).where(synced.c.namespace == namespace, synced.c.source == source)
            ids = {id for (id,) in connection.execute(mine)} - set(leave_out)
            change = update(documents).where(documents.c.id.in_(bindparam("ids", expanding=True)))
            change = change.values(verified_at=self._clock.now())
            _each(connection, change, sorted(ids), lambda _: [])
            return len(ids)

        return await self._database.write(work)


def _each(connection: Connection, query: Any, ids: Sequence[str], rows: Callable[[Any], Sequence[Any]]) -> list[Any]:
    """`query` for every `MOST_IDS` of `ids`."""
    return [row for part in parts(ids) for row in rows(connection.execute(query, {"ids": part}))]
