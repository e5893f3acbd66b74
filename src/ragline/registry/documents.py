"""The document state machine, as SQL.

    received ──parse──▶ chunked ──embed, index──▶ indexed          work is due while settled < revision, or sweep
        └────────────────┴──▶ failed(reason)        deleted ◀── delete, from anywhere

The row is the outbox: a worker claims due rows by lease, works, and advances the row. Every advance names the content
and the attempt it was claimed with, and changes nothing when either has moved on: late never wins.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, bindparam, func, insert, literal, select, update

from ragline.clock import Clock
from ragline.errors import NotFound, Reason
from ragline.registry.database import Database
from ragline.registry.tables import DUE, documents, history, namespaces
from ragline.types import Document, Groups, HistoryEntry, Metadata, State

SWEPT, SWEEP_NOW, SWEEP_ONCE_LIVE = 0, 1, 2
"""Whether rows and blobs of older contents remain, and when they may go. Only SWEEP_NOW is work that is due."""

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


@dataclass(frozen=True, slots=True)
class Accepted:
    document: Document
    outcome: Outcome
    sequence: int


@dataclass(frozen=True, slots=True)
class GuardRow:
    """What the guard knows of a document: the content that is served, and who may read it."""

    live: int | None
    groups: Groups


@dataclass(frozen=True, slots=True)
class GuardView:
    """One consistent look: the asked-for documents, and the namespace's counters.

    settled: every change up to this sequence is live, failed or deleted.
    """

    rows: Mapping[str, GuardRow]
    visible: int
    settled: int


def document_id(namespace: str, uri: str) -> str:
    return hashlib.blake2b(f"{namespace}\0{uri}".encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


# Statements that run for every document or query are built once: building one costs more than running it.
_LOOK = select(documents).where(documents.c.id == bindparam("which"))
_UPDATE = update(documents).where(documents.c.id == bindparam("which"))
_UPDATE_MINE = update(documents).where(
    documents.c.id == bindparam("which"),
    documents.c.content == bindparam("mine"),
    documents.c.attempt == bindparam("at"),
)
_LOOK_MINE = select(documents).where(
    documents.c.id == bindparam("which"),
    documents.c.content == bindparam("mine"),
    documents.c.attempt == bindparam("at"),
)
_INSERT = insert(documents)
_TELL = insert(history)
_NEXT_SEQUENCE = (
    update(namespaces)
    .where(namespaces.c.name == bindparam("which"))
    .values(sequence=namespaces.c.sequence + bindparam("step"))
    .returning(namespaces.c.sequence)
)
_MOVE_VISIBLE = (
    update(namespaces).where(namespaces.c.name == bindparam("which")).values(visible=namespaces.c.visible + 1)
)
_EPOCHS = select(namespaces.c.epoch, namespaces.c.building).where(namespaces.c.name == bindparam("which"))
_IS_DUE = select(literal(1)).where(DUE, documents.c.lease_until <= bindparam("now")).limit(1)
_CLAIM = (
    update(documents)
    .where(
        documents.c.id.in_(
            select(documents.c.id)
            .where(DUE, documents.c.lease_until <= bindparam("now"))
            .order_by(documents.c.revision)
            .limit(bindparam("most"))
        )
    )
    .values(lease_until=bindparam("until"), attempt=documents.c.attempt + 1)
    .returning(documents)
)
_BEHIND = (
    select(func.min(documents.c.revision) - 1)
    .where(documents.c.namespace == bindparam("which"), documents.c.settled < documents.c.revision)
    .scalar_subquery()
)
_GUARD = (
    select(
        documents.c.id,
        documents.c.live,
        documents.c.groups,
        namespaces.c.visible,
        func.coalesce(_BEHIND, namespaces.c.sequence).label("settled"),
    )
    .select_from(namespaces)
    .outerjoin(
        documents,
        documents.c.id.in_(bindparam("ids", expanding=True)) & (documents.c.namespace == namespaces.c.name),
    )
    .where(namespaces.c.name == bindparam("which"))
)
_SETTLED = select(documents.c.id, documents.c.settled).where(documents.c.id.in_(bindparam("ids", expanding=True)))


class Documents:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    # ── what clients change ──────────────────────────────────────────────────────────────────────────────────────────

    async def accept(self, namespace: str, incoming: Incoming) -> Accepted:
        """Take the next sequence number and write the new revision, or find that nothing has changed.

        Same bytes, other words (title, metadata, groups): a payload-only revision; the content, and what serves, stay.
        A document that failed or was deleted always gets a new content.
        Raises:  NotFound: the namespace.
        """
        return await self._database.write(lambda connection: self._accept(connection, namespace, incoming))

    def _accept(self, connection: Connection, namespace: str, incoming: Incoming) -> Accepted:
        now = self._clock.now()
        id = document_id(namespace, incoming.uri)
        old = _get(connection, id)
        groups = sorted(incoming.groups)
        payload = {"given_title": incoming.title, "groups": groups, "metadata": dict(incoming.metadata)}
        same_bytes = (
            old is not None
            and old.state not in (State.FAILED, State.DELETED)
            and old.fingerprint == incoming.fingerprint
        )
        if same_bytes and all(getattr(old, name) == value for name, value in payload.items()):
            connection.execute(_UPDATE, {"which": id, "verified_at": now})
            return Accepted(_document(_get(connection, id)), "unchanged", _sequence(connection, namespace, 0))

        sequence = _sequence(connection, namespace, 1)
        title = incoming.title or incoming.uri.rstrip("/").rsplit("/", 1)[-1]
        values: dict[str, Any] = {**payload, "revision": sequence, "updated_at": now, "verified_at": now}
        if incoming.title:
            values["title"] = incoming.title
        if same_bytes:
            assert old is not None
            if old.state == State.INDEXED:
                values |= {"state": State.CHUNKED, "attempt": 0, "lease_until": 0.0}
            connection.execute(_UPDATE, {"which": id, **values})
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
                connection.execute(_INSERT, values)
            else:
                values["garbage"] = _garbage(old, keep=(incoming.blob, old.live_blob))
                connection.execute(_UPDATE, {"which": id, **values})
        if old is not None and old.live is not None and (old.groups != groups or same_bytes):
            _move_visible(connection, namespace)
        outcome: Outcome = "created" if old is None else "payload" if same_bytes else "updated"
        _tell(connection, id, now, sequence, 0, outcome, f"{incoming.size} bytes, sha256 {incoming.sha256[:12]}")
        return Accepted(_document(_get(connection, id)), outcome, sequence)

    async def delete(self, namespace: str, id: str) -> Document:
        """Write a tombstone: not served from this moment on; rows and blobs go afterwards. Raises NotFound."""

        def work(connection: Connection) -> Document:
            old = _get(connection, id)
            if old is None or old.namespace != namespace or old.state == State.DELETED:
                raise unknown_document(id, namespace)
            now, sequence = self._clock.now(), _sequence(connection, namespace, 1)
            connection.execute(
                update(documents)
                .where(documents.c.id == id)
                .values(
                    revision=sequence, content=sequence, live=None, blob=None, live_blob=None, state=State.DELETED,
                    garbage=_garbage(old, keep=()), sweep=SWEEP_NOW, reason=None, attempt=0, lease_until=0.0, updated_at=now,
                )
            )  # fmt: skip
            _move_visible(connection, namespace)
            _tell(connection, id, now, sequence, 0, "deleted", "tombstone written")
            return _document(_get(connection, id))

        return await self._database.write(work)

    async def retry(self, namespace: str, id: str) -> Document:
        """Parse the same bytes again, as a new content: after a failure, or with other chunk settings. Raises NotFound."""

        def work(connection: Connection) -> Document:
            old = _get(connection, id)
            if old is None or old.namespace != namespace or old.state == State.DELETED:
                raise unknown_document(id, namespace)
            now, sequence = self._clock.now(), _sequence(connection, namespace, 1)
            connection.execute(
                update(documents)
                .where(documents.c.id == id)
                .values(revision=sequence, content=sequence, state=State.RECEIVED, reason=None, chunks=None, attempt=0,
                        lease_until=0.0, updated_at=now, sweep=SWEEP_ONCE_LIVE)
            )  # fmt: skip
            _tell(connection, id, now, sequence, 0, "retried", "to be parsed again")
            return _document(_get(connection, id))

        return await self._database.write(work)

    # ── what workers do ──────────────────────────────────────────────────────────────────────────────────────────────

    async def claim(self, *, most: int, lease_s: float) -> list[Document]:
        """Own up to `most` due documents, oldest change first, until the lease ends; each claim is a new attempt."""

        now = self._clock.now()
        if await self._database.read(lambda c: c.execute(_IS_DUE, {"now": now}).first()) is None:
            return []
        given = {"now": now, "until": now + lease_s, "most": most}
        rows = await self._database.write(lambda c: c.execute(_CLAIM, given).all())
        return sorted(map(_document, rows), key=lambda document: document.revision)

    async def look(self, id: str) -> Document | None:
        row = await self._database.read(lambda connection: _get(connection, id))
        return _document(row) if row is not None else None

    async def mark_chunked(self, document: Document, *, chunks: int, title: str, took_s: float) -> bool:
        """False: superseded; the caller drops the document."""

        def work(connection: Connection) -> bool:
            values = {"state": State.CHUNKED, "chunks": chunks, "title": title}
            changed = connection.execute(_UPDATE_MINE, _mine(document) | values).rowcount
            if changed:
                self._event(connection, document, "parsed", f"{chunks} chunks", took_s)
            return bool(changed)

        return await self._database.write(work)

    async def mark_live(
        self, document: Document, *, title: str, epochs: frozenset[str], event: str, detail: str, took_s: float
    ) -> bool:
        """Serve `document.content` from now on. Settled is what was indexed: a change of words meanwhile stays due.

        False: superseded, or the namespace's epochs are not `epochs` any more, and the rows must be written again.
        """

        def work(connection: Connection) -> bool:
            namespace = connection.execute(_EPOCHS, {"which": document.namespace}).first()
            if namespace is None or {label for label in namespace if label} != epochs:
                return False
            old = connection.execute(_LOOK_MINE, _mine(document)).first()
            if old is None or old.state == State.DELETED:
                return False
            newly_live = old.live != document.content
            values = {
                "live": document.content, "live_blob": document.blob, "settled": document.revision, "reason": None,
                "title": title, "garbage": _garbage(old, keep=(document.blob,)), "lease_until": 0.0, "attempt": 0,
                "state": State.INDEXED if old.revision == document.revision else State.CHUNKED,
                "sweep": SWEEP_NOW if old.sweep and newly_live else old.sweep,
            }  # fmt: skip
            connection.execute(_UPDATE, {"which": document.id, **values})
            if newly_live:
                _move_visible(connection, document.namespace)
            self._event(connection, document, event, detail, took_s)
            return True

        return await self._database.write(work)

    async def mark_swept(self, document: Document) -> bool:
        """Rows of older contents and the blobs in `document.garbage` are gone; a tombstone is settled by this."""

        def work(connection: Connection) -> bool:
            old = connection.execute(_LOOK_MINE, _mine(document)).first()
            if old is None:
                return False
            left = [blob for blob in old.garbage if blob not in document.garbage]
            settled = document.revision if old.state == State.DELETED else old.settled
            values = {"garbage": left, "sweep": SWEEP_NOW if left else SWEPT, "settled": settled}
            connection.execute(_UPDATE, {"which": document.id, "lease_until": 0.0, "attempt": 0, **values})
            return True

        return await self._database.write(work)

    async def mark_failed(self, document: Document, reason: Reason, detail: str, *, took_s: float) -> bool:
        """Settle the revision as `failed`; an older content that is live goes on serving."""

        def work(connection: Connection) -> bool:
            old = connection.execute(_LOOK_MINE, _mine(document)).first()
            if old is None or old.state == State.DELETED:
                return False
            values = {"state": State.FAILED, "reason": f"{reason}: {detail}", "settled": old.revision}
            connection.execute(_UPDATE, {"which": document.id, "lease_until": 0.0, **values})
            self._event(connection, document, "failed", f"{reason}: {detail}", took_s)
            return True

        return await self._database.write(work)

    async def renew(self, document: Document, *, lease_s: float) -> bool:
        """Go on owning the document. False: it was superseded, or another worker has it."""

        def work(connection: Connection) -> bool:
            until = {"lease_until": self._clock.now() + lease_s}
            return bool(connection.execute(_UPDATE_MINE, _mine(document) | until).rowcount)

        return await self._database.write(work)

    async def release(self, document: Document, *, after_s: float, detail: str) -> None:
        """Give the claim back; another attempt may start in `after_s`."""

        def work(connection: Connection) -> None:
            until = {"lease_until": self._clock.now() + after_s}
            changed = connection.execute(_UPDATE_MINE, _mine(document) | until).rowcount
            if changed and detail:
                self._event(connection, document, "interrupted", detail, None)

        await self._database.write(work)

    # ── what readers ask ─────────────────────────────────────────────────────────────────────────────────────────────

    async def guard(self, namespace: str, ids: Sequence[str]) -> GuardView:
        """One statement for the whole query: what is served, who may read it, and how far the namespace is. NotFound."""
        given = {"which": namespace, "ids": list(ids)}
        rows = await self._database.read(lambda connection: connection.execute(_GUARD, given).all())
        if not rows:
            raise _unknown_namespace(namespace)
        found = {row.id: GuardRow(row.live, frozenset(row.groups)) for row in rows if row.id is not None}
        return GuardView(found, rows[0].visible, rows[0].settled)

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
        return [_document(row) for row in rows]

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
                for id, settled in connection.execute(_SETTLED, {"ids": ids[start : start + 500]}):
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

    def _event(self, c: Connection, document: Document, event: str, detail: str, took_s: float | None) -> None:
        _tell(c, document.id, self._clock.now(), document.revision, document.attempt, event, detail, took_s)


def _get(connection: Connection, id: str) -> Any:
    return connection.execute(_LOOK, {"which": id}).first()


def _mine(document: Document) -> dict[str, Any]:
    """The row must still stand at the content and the attempt that this worker claimed."""
    return {"which": document.id, "mine": document.content, "at": document.attempt}


def _sequence(connection: Connection, namespace: str, step: int) -> int:
    moved = connection.execute(_NEXT_SEQUENCE, {"which": namespace, "step": step}).scalar()
    if moved is None:
        raise _unknown_namespace(namespace)
    return int(moved)


def _move_visible(connection: Connection, namespace: str) -> None:
    connection.execute(_MOVE_VISIBLE, {"which": namespace})


def _garbage(old: Row[Any], *, keep: Sequence[str | None]) -> list[str]:
    """Blobs of `old` that nothing will read once what is in `keep` serves."""
    return sorted({blob for blob in (*old.garbage, old.blob, old.live_blob) if blob and blob not in keep})


def _tell(
    connection: Connection, id: str, at: float, revision: int, attempt: int, event: str, detail: str,
    took_s: float | None = None,
) -> None:  # fmt: skip
    values = {"document": id, "at": at, "revision": revision, "attempt": attempt, "event": event, "detail": detail}
    connection.execute(_TELL, values | {"took_s": took_s})


_FIELDS = tuple(Document.__dataclass_fields__)


def _document(row: Any) -> Document:
    values = {name: getattr(row, name) for name in _FIELDS}
    values["groups"] = frozenset(values["groups"])
    values["garbage"] = tuple(values["garbage"])
    values["state"] = State(values["state"])
    return Document(**values)


def unknown_document(id: str, namespace: str) -> NotFound:
    return NotFound(
        f"Document {id[:80]!r} does not exist in namespace {namespace!r}.",
        next_step="List the documents with `ragline documents list` or GET /v1/namespaces/NAME/documents.",
    )


def _unknown_namespace(name: str) -> NotFound:
    return NotFound(
        f"Namespace {name[:80]!r} does not exist.",
        next_step="Create it with PUT /v1/namespaces/NAME, or `ragline ingest PATH --namespace NAME`.",
    )
