"""The document state machine, as SQL.

    received ──parse──▶ chunked ──embed, index──▶ indexed          work is due while settled < revision, or sweep
        └────────────────┴──▶ failed(reason)        deleted ◀── delete, from anywhere

The row is the outbox: a worker claims due rows by lease, works, and advances the row. Every advance names the content
and the attempt it was claimed with, and changes nothing when either has moved on: late never wins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Connection, Row, func, literal, select

from ragline.clock import Clock
from ragline.connections.database import Database
from ragline.registry import sources
from ragline.registry.acceptance import Accepted, Incoming, accept, bury, document_id, drop, fingerprint, inside
from ragline.registry.namespaces import settings_from
from ragline.registry.rows import (
    SETTINGS,
    SETTLED,
    SWEEP_ONCE_LIVE,
    UNSETTLED_INSIDE,
    UPDATE,
    document_of,
    get_row,
    move_visible,
    next_sequence,
    on_log,
    rows_of,
    superseded,
    tell,
    unknown_document,
)  # fmt: skip
from ragline.registry.tables import IS_MEMBER, documents, history, namespaces
from ragline.types import Document, HistoryEntry, Namespace, State

LOOK_AGAIN_S = 0.02
"""Least time between two looks of a waiter: under ingest there are many commits a second."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """`document`: its tombstone.  `inside`: ids of what lay in it, and went with it."""

    document: Document
    inside: tuple[str, ...]


class Documents:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    # ── what clients change ──────────────────────────────────────────────────────────────────────────────────────────

    async def accept(self, namespace: Namespace, incoming: Incoming) -> Accepted:
        """Take the next sequence number and write the new revision, or find that nothing has changed.

        Same bytes, other words (title, metadata, groups): a payload-only revision; the content, and what serves, stay.
        A document that failed or was deleted always gets a new content. What lies inside it gets its readers at once.
        Raises:  NotFound: the namespace.  Conflict: the uri is that of a file inside another document; or it comes from a
                 source, and is a document of another one.
        """

        def work(connection: Connection) -> Accepted:
            id = document_id(namespace, incoming.uri)
            if incoming.source is not None:
                sources.check(connection, id, incoming.source)
            accepted = accept(connection, self._clock.now(), namespace, incoming)
            if incoming.source is not None:
                sources.bring(connection, id, namespace.name, incoming.source, incoming.version)
            elif accepted.outcome in ("updated", "payload"):
                sources.outdate(connection, id)
            return accepted

        return await self._database.write(work)

    async def delete(self, namespace: str, id: str) -> Deleted:
        """Write a tombstone, and one on all that lies inside: not served from this moment on; rows and blobs go afterwards.

        All of it in one write: in pieces, a kill between two would leave files that serve although what they lay in is gone,
        or the other way round, and nobody to go on with it. It is a few statements, however many lie inside.
        A file inside another comes back only with other bytes of that, or when that is deleted and uploaded again.
        Raises:  NotFound.
        """

        def work(connection: Connection) -> Deleted:
            old = self._standing(connection, namespace, id)
            within = inside(connection, old)
            bury(connection, self._clock.now(), [*within, old], detail="tombstone written")
            if old.parent is not None:
                drop(connection, old)
            return Deleted(document_of(get_row(connection, id)), tuple(row.id for row in within))

        return await self._database.write(work)

    async def delete_orphan(self, namespace: str, id: str) -> bool:
        """Delete a file in a document that is deleted or unknown, with all that lies inside: it should have gone with that.

        False: what it lies in stands again.  Raises NotFound.
        """

        def work(connection: Connection) -> bool:
            old = self._standing(connection, namespace, id)
            holder = get_row(connection, old.parent) if old.parent is not None else old
            if holder is not None and holder.state != State.DELETED:
                return False
            words = "what it lay in is gone"
            bury(connection, self._clock.now(), [*inside(connection, old), old], detail=words)
            return True

        return await self._database.write(work)

    async def retry(self, namespace: str, id: str) -> Document:
        """Parse the same bytes again, as a new content: after a failure, or with other chunk settings. Raises NotFound.

        Its fingerprint is that of today's settings and parser: the next upload of the same bytes is `unchanged`.
        """

        def work(connection: Connection) -> Document:
            old = self._standing(connection, namespace, id)
            now, sequence = self._clock.now(), next_sequence(connection, namespace, 1)
            settings = settings_from(connection.execute(SETTINGS, {"which": namespace}).scalar_one())
            values = {
                "revision": sequence, "content": sequence, "reason": None, "state": State.RECEIVED,
                "fingerprint": fingerprint(old.sha256, old.media_type, settings), "chunks": None,
                "sweep": SWEEP_ONCE_LIVE, "updated_at": now, **superseded(old, on_log(connection, [old])),
            }  # fmt: skip
            connection.execute(UPDATE, {"which": id, **values})
            tell(connection, id, now, sequence, 0, "retried", "to be parsed again")
            return document_of(get_row(connection, id))

        return await self._database.write(work)

    async def forget_cached(self, namespace: str, id: str) -> Document:
        """From now on nothing that was cached of the document holds; it is as it was. Raises NotFound.

        A cached passage holds while `settled` of its document stays, so that moves: to a new sequence number where nothing is
        due on it; else by one back, until what is due moves it on.
        """

        def work(connection: Connection) -> Document:
            old = self._standing(connection, namespace, id)
            if old.settled < old.revision:
                values = {"settled": old.settled - 1}
            else:
                sequence = next_sequence(connection, namespace, 1)
                values = {"revision": sequence, "settled": sequence}
            connection.execute(UPDATE, {"which": id, **values})
            move_visible(connection, self._clock.now(), namespace, [id])
            tell(
                connection, id, self._clock.now(), values.get("revision", old.revision), old.attempt, "cache forgotten",
                "what was cached of it is looked up anew",
            )  # fmt: skip
            return document_of(get_row(connection, id))

        return await self._database.write(work)

    def _standing(self, connection: Connection, namespace: str, id: str) -> Row[Any]:
        """The row of a document that is not deleted. Raises NotFound."""
        row = cast("Row[Any] | None", get_row(connection, id))
        if row is None or row.namespace != namespace or row.state == State.DELETED:
            raise unknown_document(id, namespace)
        return row

    # ── what readers ask ─────────────────────────────────────────────────────────────────────────────────────────────

    async def look(self, id: str) -> Document | None:
        row = await self._database.read(lambda connection: get_row(connection, id))
        return document_of(row) if row is not None else None

    async def look_all(self, ids: Collection[str]) -> dict[str, Document]:
        """Id → document, of those that there are."""
        rows = await self._database.read(lambda connection: rows_of(connection, sorted(ids)))
        return {id: document_of(row) for id, row in rows.items()}

    async def get(self, namespace: str, id: str) -> Document:
        """Raises NotFound, also for a tombstone."""
        document = await self.look(id)
        if document is None or document.namespace != namespace or document.state is State.DELETED:
            raise unknown_document(id, namespace)
        return document

    async def page(
        self, namespace: str, *, after: str, most: int, state: State | None, uri: str | None = None,
        inside: bool | None = None,
    ) -> list[Document]:  # fmt: skip
        """By id, from just behind `after`. Tombstones only when asked for by `state`. `inside`: only what lies in another
        document, or only what does not."""
        query = select(documents).where(documents.c.namespace == namespace, documents.c.id > after)
        query = query.where(documents.c.state == state if state else documents.c.state != State.DELETED)
        if uri is not None:
            query = query.where(documents.c.uri == uri)
        if inside is not None:
            query = query.where(IS_MEMBER if inside else ~IS_MEMBER)
        query = query.order_by(documents.c.id).limit(most)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [document_of(row) for row in rows]

    async def counts(self, namespace: str) -> dict[State, int]:
        query = (
            select(documents.c.state, func.count())
            .where(documents.c.namespace == namespace)
            .group_by(documents.c.state)
        )
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return {State(state): count for state, count in rows}

    async def chunks(self, namespace: str) -> int:
        """Chunks of the documents that are indexed."""
        query = select(func.coalesce(func.sum(documents.c.chunks), 0))
        query = query.where(documents.c.namespace == namespace, documents.c.state == State.INDEXED)
        return await self._database.read(lambda connection: int(connection.execute(query).scalar_one()))

    async def languages(self, namespace: str) -> dict[str, int]:
        """Language → how many documents, of those where it was told."""
        query = select(documents.c.language, func.count()).where(
            documents.c.namespace == namespace, documents.c.language.is_not(None), documents.c.state != State.DELETED
        )
        query = query.group_by(documents.c.language).order_by(documents.c.language)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return {language: int(count) for language, count in rows}

    async def waiting(self) -> int:
        """Documents with a change that is not settled, over all namespaces."""
        query = select(func.count()).where(documents.c.settled < documents.c.revision)
        return await self._database.read(lambda connection: int(connection.execute(query).scalar_one()))

    async def history(self, id: str) -> list[HistoryEntry]:
        columns = (history.c.at, history.c.revision, history.c.attempt, history.c.event, history.c.detail)
        query = select(*columns, history.c.took_s).where(history.c.document == id).order_by(history.c.id)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [HistoryEntry(*row) for row in rows]

    async def settled(self, namespace: str, sequence: int, *, deadline_s: float) -> bool:
        """Wait until every change up to `sequence` is live, failed or deleted. False: the deadline came first."""
        unsettled = documents.c.settled < documents.c.revision
        behind = select(literal(1)).where(
            documents.c.namespace == namespace, unsettled, documents.c.revision <= sequence
        )
        reached = select(literal(1)).where(namespaces.c.name == namespace, namespaces.c.sequence >= sequence)
        query = reached.where(~behind.exists())
        return await self._wait(lambda connection: connection.execute(query).first() is not None, deadline_s)

    async def settled_all(self, revisions: Mapping[str, int], *, deadline_s: float) -> bool:
        """Wait until each of these documents is settled at its revision or a later one, and so is all that lies inside.

        False: the deadline came first.
        """

        left, roots = dict(revisions), list(revisions)

        def done(connection: Connection) -> bool:
            ids = list(left)
            for start in range(0, len(ids), 500):
                for id, settled in connection.execute(SETTLED, {"ids": ids[start : start + 500]}):
                    if settled >= left[id]:
                        del left[id]
            return not left and not any(
                connection.execute(UNSETTLED_INSIDE, {"ids": roots[start : start + 500]}).first()
                for start in range(0, len(roots), 500)
            )

        return await self._wait(done, deadline_s)

    async def _wait(self, done: Callable[[Connection], bool], deadline_s: float) -> bool:
        deadline = self._clock.monotonic() + deadline_s
        while True:
            seen = self._database.commits
            if await self._database.read(done):
                return True
            left = deadline - self._clock.monotonic()
            if left <= 0:
                return False
            await asyncio.sleep(min(left, LOOK_AGAIN_S))
            await self._database.next_commit(since=seen, within_s=min(left, 0.25))
