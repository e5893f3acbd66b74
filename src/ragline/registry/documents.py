"""The document state machine, as SQL.

    received ──parse──▶ chunked ──embed, index──▶ indexed          work is due while settled < revision, or sweep
        └────────────────┴──▶ failed(reason)        deleted ◀── delete, from anywhere

The row is the outbox: a worker claims due rows by lease, works, and advances the row. Every advance names the content
and the attempt it was claimed with, and changes nothing when either has moved on: late never wins.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, func, literal, select

from ragline.clock import Clock
from ragline.registry import sources
from ragline.registry.database import Database
from ragline.registry.rows import (
    INSERT,
    SETTLED,
    SWEEP_NOW,
    SWEEP_ONCE_LIVE,
    SWEPT,
    UPDATE,
    document_of,
    garbage_of,
    get_row,
    move_visible,
    next_sequence,
    tell,
    unknown_document,
)  # fmt: skip
from ragline.registry.tables import documents, history, namespaces
from ragline.types import Document, Groups, HistoryEntry, Metadata, Namespace, State

LOOK_AGAIN_S = 0.02
"""Least time between two looks of a waiter: under ingest there are many commits a second."""

Outcome = Literal["created", "updated", "payload", "unchanged"]


@dataclass(frozen=True, slots=True)
class Incoming:
    """What is written about bytes that lie in `blob`. `fingerprint` covers the bytes and how they are to be parsed."""

    uri: str
    title: str | None
    media_type: str | None
    size: int
    sha256: str
    fingerprint: str
    blob: str
    groups: Groups
    metadata: Metadata
    source: str | None = None
    version: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    document: Document
    outcome: Outcome
    sequence: int


def document_id(namespace: Namespace, uri: str) -> str:
    """The same for a uri as long as the namespace lives; one made anew under its name has other documents."""
    return hashlib.blake2b(
        f"{namespace.name}-{namespace.uid}\0{uri}".encode("utf-8", "surrogatepass"), digest_size=12
    ).hexdigest()


class Documents:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    # ── what clients change ──────────────────────────────────────────────────────────────────────────────────────────

    async def accept(self, namespace: Namespace, incoming: Incoming) -> Accepted:
        """Take the next sequence number and write the new revision, or find that nothing has changed.

        Same bytes, other words (title, metadata, groups): a payload-only revision; the content, and what serves, stay.
        A document that failed or was deleted always gets a new content.
        Raises:  NotFound: the namespace.  Conflict: it comes from a source, and is a document of another one.
        """

        def work(connection: Connection) -> Accepted:
            id = document_id(namespace, incoming.uri)
            if incoming.source is not None:
                sources.check(connection, id, incoming.source)
            accepted = self._accept(connection, namespace, incoming)
            if incoming.source is not None:
                sources.bring(connection, id, namespace.name, incoming.source, incoming.version)
            elif accepted.outcome in ("updated", "payload"):
                sources.outdate(connection, id)
            return accepted

        return await self._database.write(work)

    def _accept(self, connection: Connection, holder: Namespace, incoming: Incoming) -> Accepted:
        now = self._clock.now()
        namespace, uid = holder.name, holder.uid
        id = document_id(holder, incoming.uri)
        old = get_row(connection, id)
        groups = sorted(incoming.groups)
        payload = {"given_title": incoming.title, "groups": groups, "metadata": dict(incoming.metadata)}
        same_bytes = (
            old is not None
            and old.state not in (State.FAILED, State.DELETED)
            and old.fingerprint == incoming.fingerprint
        )
        if same_bytes and all(getattr(old, name) == value for name, value in payload.items()):
            sequence = next_sequence(connection, namespace, 0, uid=uid)
            connection.execute(UPDATE, {"which": id, "verified_at": now})
            return Accepted(document_of(get_row(connection, id)), "unchanged", sequence)

        sequence = next_sequence(connection, namespace, 1, uid=uid)
        title = incoming.title or incoming.uri.rstrip("/").rsplit("/", 1)[-1]
        values: dict[str, Any] = {**payload, "revision": sequence, "updated_at": now, "verified_at": now}
        if incoming.title:
            values["title"] = incoming.title
        if same_bytes:
            assert old is not None
            if old.state == State.INDEXED:
                values |= {"state": State.CHUNKED, "attempt": 0, "lease_until": 0.0}
            connection.execute(UPDATE, {"which": id, **values})
        else:
            values |= {
                "title": title, "media_type": incoming.media_type, "size": incoming.size, "sha256": incoming.sha256,
                "fingerprint": incoming.fingerprint, "content": sequence, "blob": incoming.blob, "reason": None,
                "state": State.RECEIVED, "attempt": 0, "lease_until": 0.0, "chunks": None, "received_at": now,
                "sweep": SWEEP_ONCE_LIVE,
            }  # fmt: skip
            if old is None:
                values |= {"id": id, "namespace": namespace, "uri": incoming.uri, "live": None, "live_blob": None,
                           "garbage": [], "sweep": SWEPT, "settled": 0}  # fmt: skip
                connection.execute(INSERT, values)
            else:
                values["garbage"] = garbage_of(old, keep=(incoming.blob, old.live_blob))
                connection.execute(UPDATE, {"which": id, **values})
        if old is not None and old.live is not None and (old.groups != groups or same_bytes):
            move_visible(connection, namespace)
        outcome: Outcome = "created" if old is None else "payload" if same_bytes else "updated"
        tell(connection, id, now, sequence, 0, outcome, f"{incoming.size} bytes, sha256 {incoming.sha256[:12]}")
        return Accepted(document_of(get_row(connection, id)), outcome, sequence)

    async def delete(self, namespace: str, id: str) -> Document:
        """Write a tombstone: not served from this moment on; rows and blobs go afterwards. Raises NotFound."""

        def values(old: Any) -> dict[str, Any]:
            gone = {"live": None, "blob": None, "live_blob": None, "garbage": garbage_of(old, keep=())}
            return gone | {"state": State.DELETED, "sweep": SWEEP_NOW}

        return await self._change(namespace, id, values, "deleted", "tombstone written")

    async def retry(self, namespace: str, id: str) -> Document:
        """Parse the same bytes again, as a new content: after a failure, or with other chunk settings. Raises NotFound."""

        def values(_: Any) -> dict[str, Any]:
            return {"state": State.RECEIVED, "chunks": None, "sweep": SWEEP_ONCE_LIVE}

        return await self._change(namespace, id, values, "retried", "to be parsed again")

    async def _change(
        self, namespace: str, id: str, values: Callable[[Any], dict[str, Any]], event: str, detail: str
    ) -> Document:
        """A new content, by the next sequence number, of a document that is not deleted."""

        def work(connection: Connection) -> Document:
            old = get_row(connection, id)
            if old is None or old.namespace != namespace or old.state == State.DELETED:
                raise unknown_document(id, namespace)
            now, sequence = self._clock.now(), next_sequence(connection, namespace, 1)
            begun = {"revision": sequence, "content": sequence, "reason": None, "attempt": 0, "lease_until": 0.0}
            changed = values(old)
            connection.execute(UPDATE, {"which": id, "updated_at": now, **begun, **changed})
            if "live" in changed:
                move_visible(connection, namespace)
                sources.forget(connection, id)
            tell(connection, id, now, sequence, 0, event, detail)
            return document_of(get_row(connection, id))

        return await self._database.write(work)

    # ── what readers ask ─────────────────────────────────────────────────────────────────────────────────────────────

    async def look(self, id: str) -> Document | None:
        row = await self._database.read(lambda connection: get_row(connection, id))
        return document_of(row) if row is not None else None

    async def get(self, namespace: str, id: str) -> Document:
        """Raises NotFound, also for a tombstone."""
        document = await self.look(id)
        if document is None or document.namespace != namespace or document.state is State.DELETED:
            raise unknown_document(id, namespace)
        return document

    async def page(
        self, namespace: str, *, after: str, most: int, state: State | None, uri: str | None = None
    ) -> list[Document]:
        """By id, from just behind `after`. Tombstones only when asked for by `state`."""
        query = select(documents).where(documents.c.namespace == namespace, documents.c.id > after)
        query = query.where(documents.c.state == state if state else documents.c.state != State.DELETED)
        if uri is not None:
            query = query.where(documents.c.uri == uri)
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
        """Wait until each of these documents is settled at its revision or a later one. False: the deadline came first."""

        left = dict(revisions)

        def done(connection: Connection) -> bool:
            ids = list(left)
            for start in range(0, len(ids), 500):
                for id, settled in connection.execute(SETTLED, {"ids": ids[start : start + 500]}):
                    if settled >= left[id]:
                        del left[id]
            return not left

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
