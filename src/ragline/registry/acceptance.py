"""How bytes become a row: a new revision, new words on the same content, or nothing that has changed.

For uploads, and for the files inside them: a member is tied to the document it lies in, has its readers and metadata,
and goes when it goes. One that was deleted by itself stays away for as long as the bytes that it lay in are the same: its
tombstone keeps their sha256 in `dropped_from`. Called inside a write; refusals come before the first statement that
changes anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Executable, Row, bindparam, func, select, update

from ragline.errors import Conflict
from ragline.registry import sources
from ragline.registry.rows import (
    INSERT,
    SWEEP_NOW,
    SWEEP_ONCE_LIVE,
    SWEPT,
    TELL,
    UPDATE,
    document_of,
    garbage_of,
    get_row,
    line,
    move_visible,
    next_sequence,
    on_log,
    parts,
    rows_of,
    superseded,
)  # fmt: skip
from ragline.registry.tables import IS_MEMBER, documents
from ragline.types import Document, Groups, Metadata, Namespace, NamespaceSettings, State

OUR_MEDIA_TYPES = "application/vnd.ragline."
"""Media types that say how to parse; clients name the others differently for the same file."""

PARSER_VERSION = 2
"""Part of the fingerprint: raise it when a parser gets better, and the next upload of the same bytes is parsed anew."""

INSIDE = "!/"
"""Parts a member's name from the uri of the document that it lies in."""

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
class Tie:
    """What binds a member: the document it lies in, the outermost one, and the content of the former that holds it.

    sha256: of the former's bytes.
    """

    parent: str
    sha256: str
    root: str
    depth: int
    content: int


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


def fingerprint(sha256: str, media_type: str | None, settings: NamespaceSettings) -> str:
    """Of bytes and how they are parsed today: a document that has it need not be parsed again."""
    kind = media_type if media_type and media_type.startswith(OUR_MEDIA_TYPES) else None  # else the bytes decide
    parts = [sha256, kind, PARSER_VERSION, settings.chunk_tokens, settings.overlap_tokens]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def accept(connection: Connection, now: float, holder: Namespace, incoming: Incoming) -> Accepted:
    """Take the next sequence number and write the new revision, or find that nothing has changed.

    Raises:  NotFound: the namespace.  Conflict: the uri is that of a file inside another document.
    """
    (result,) = accept_all(connection, now, holder, [incoming], None)
    if isinstance(result, Conflict):
        raise result
    return result


def accept_all(
    connection: Connection, now: float, holder: Namespace, incoming: Sequence[Incoming], tie: Tie | None
) -> list[Accepted | Conflict]:
    """The same for many, whose uris differ: a statement for all of them, so that an archive of thousands of files does not
    hold the one writer for long. Conflict: the uri is that of a document with another tie; or it was deleted by itself from
    the bytes that hold it; the others are taken.

    Raises:  NotFound: the namespace.
    """
    ids = [document_id(holder, one.uri) for one in incoming]
    before = rows_of(connection, ids)
    changes = [_change(id, before.get(id), one, tie) for id, one in zip(ids, incoming, strict=True)]
    written = [one for one in changes if isinstance(one, _Change) and one.outcome != "unchanged"]
    sequence = next_sequence(connection, holder.name, len(written), uid=holder.uid)
    for number, one in enumerate(written, start=sequence - len(written) + 1):
        one.revision = number
    kinds: dict[Outcome, list[_Change]] = {"created": [], "updated": [], "payload": [], "unchanged": []}
    for change in changes:
        if isinstance(change, _Change):
            kinds[change.outcome].append(change)
    _each(connection, INSERT, [one.created(holder, now) for one in kinds["created"]])
    logged = on_log(connection, [one.old for one in kinds["updated"] if one.old is not None])
    _each(connection, UPDATE, [one.updated(now, logged) for one in kinds["updated"]])
    _each(connection, UPDATE, [one.reworded(now) for one in kinds["payload"]])
    _each(connection, UPDATE, [{"which": one.id, "verified_at": now} for one in kinds["unchanged"]])
    _each(connection, TELL, [one.told(now) for one in written])
    if seen := [one.id for one in written if one.is_seen]:
        move_visible(connection, now, holder.name, seen)
    for one in written:
        if one.old is not None and one.old.members and not one.same_words:
            sequence = _reword(connection, now, one.old, one.payload)
    after = rows_of(connection, ids)
    return [
        one if isinstance(one, Conflict) else Accepted(document_of(after[one.id]), one.outcome, sequence)
        for one in changes
    ]


@dataclass(slots=True)
class _Change:
    """What one of them comes to, and the values that say so."""

    id: str
    old: Row[Any] | None
    incoming: Incoming
    tie: Tie | None
    same_bytes: bool
    same_words: bool
    payload: dict[str, Any]
    revision: int = 0

    @property
    def outcome(self) -> Outcome:
        if self.old is None:
            return "created"
        return "updated" if not self.same_bytes else "payload" if not self.same_words else "unchanged"

    @property
    def is_seen(self) -> bool:
        """Whether readers see something else at once."""
        old = self.old
        return old is not None and old.live is not None and (old.groups != self.payload["groups"] or self.same_bytes)

    def created(self, holder: Namespace, now: float) -> dict[str, Any]:
        return self._bytes(now) | {
            "id": self.id, "namespace": holder.name, "uri": self.incoming.uri, "live": None, "live_blob": None,
            "garbage": [], "sweep": SWEPT, "settled": 0, "members": 0, "attempt": 0, "lease_until": 0.0,
        }  # fmt: skip

    def updated(self, now: float, logged: Collection[str]) -> dict[str, Any]:
        assert self.old is not None
        garbage = garbage_of(self.old, keep=(self.incoming.blob, self.old.live_blob))
        return {"which": self.id, **self._bytes(now), **superseded(self.old, logged), "garbage": garbage}

    def reworded(self, now: float) -> dict[str, Any]:
        assert self.old is not None
        title = self.incoming.title or self.old.title
        return {"which": self.id, **self._words(now), **_words_due(self.old), "title": title}

    def told(self, now: float) -> dict[str, Any]:
        detail = f"{self.incoming.size} bytes, sha256 {self.incoming.sha256[:12]}"
        return line(self.id, now, self.revision, 0, self.outcome, detail)

    def _words(self, now: float) -> dict[str, Any]:
        return {**self.payload, "revision": self.revision, "updated_at": now, "verified_at": now}

    def _bytes(self, now: float) -> dict[str, Any]:
        one, tie = self.incoming, self.tie
        return self._words(now) | {
            "title": one.title or one.uri.rstrip("/").rsplit("/", 1)[-1], "media_type": one.media_type,
            "size": one.size, "sha256": one.sha256, "fingerprint": one.fingerprint, "content": self.revision,
            "blob": one.blob, "reason": None, "state": State.RECEIVED, "chunks": None, "received_at": now,
            "sweep": SWEEP_ONCE_LIVE, "parent": tie.parent if tie else None, "root": tie.root if tie else None,
            "depth": tie.depth if tie else 0, "dropped_from": None,
        }  # fmt: skip


def _change(id: str, old: Row[Any] | None, incoming: Incoming, tie: Tie | None) -> _Change | Conflict:
    if old is not None and old.state != State.DELETED and old.parent != (tie.parent if tie else None):
        return _taken(incoming.uri, old)
    if old is not None and tie is not None and old.dropped_from == tie.sha256:
        return _dropped(incoming.uri)
    payload: dict[str, Any] = {
        "given_title": incoming.title, "groups": sorted(incoming.groups), "metadata": dict(incoming.metadata),
    }  # fmt: skip
    same_bytes = old is not None and _same_bytes(old, incoming, tie)
    same_words = old is not None and all(getattr(old, name) == value for name, value in payload.items())
    return _Change(id, old, incoming, tie, same_bytes, same_words, payload)


def bury(connection: Connection, now: float, rows: Sequence[Row[Any]], *, detail: str) -> int:
    """Write a tombstone on each: not served from this moment on; rows and blobs go afterwards. Returns the sequence."""
    sequence = next_sequence(connection, rows[0].namespace, len(rows))
    numbered = list(enumerate(rows, start=sequence - len(rows) + 1))
    logged = on_log(connection, rows)
    tombstones = [
        {
            "which": row.id, "revision": number, "content": number, "reason": None, "live": None, "blob": None,
            "live_blob": None, "garbage": garbage_of(row, keep=()), "state": State.DELETED, "sweep": SWEEP_NOW,
            "updated_at": now, "members": 0, **superseded(row, logged),
        }
        for number, row in numbered
    ]  # fmt: skip
    ids = [row.id for row in rows]
    _each(connection, UPDATE, tombstones)
    sources.forget(connection, ids)
    _each(connection, TELL, [line(row.id, now, number, 0, "deleted", detail) for number, row in numbered])
    _forget_dropped(connection, ids)
    move_visible(connection, now, rows[0].namespace, ids)
    return sequence


def _each(connection: Connection, statement: Executable, values: Sequence[dict[str, Any]]) -> None:
    if values:
        connection.execute(statement, values)


def inside(connection: Connection, row: Row[Any]) -> list[Row[Any]]:
    """What lies in the document of `row`, at any depth, and is not deleted."""
    if not row.members:
        return []
    prefix = row.uri + INSIDE
    return list(connection.execute(_INSIDE, {"of_root": row.root or row.id, "prefix": prefix, "length": len(prefix)}))


_INSIDE = select(documents).where(
    documents.c.root == bindparam("of_root"),
    documents.c.state != State.DELETED,
    func.substr(documents.c.uri, 1, bindparam("length")) == bindparam("prefix"),
)


def drop(connection: Connection, row: Row[Any]) -> None:
    """A member, `row`, was buried by itself: it does not come back with the same bytes of the document that it lies in.

    An orphan, whose document is gone, may: uploaded again, that comes whole.
    """
    holder = get_row(connection, row.parent)
    if holder is None or holder.state == State.DELETED:
        return
    connection.execute(UPDATE, {"which": row.id, "dropped_from": holder.sha256})
    connection.execute(UPDATE, {"which": holder.id, "members": len(direct(connection, holder.id))})


def direct(connection: Connection, id: str) -> list[Row[Any]]:
    """Id and uri of what lies in the document itself, not deeper, and is not deleted."""
    return list(connection.execute(_DIRECT, {"of": id}))


_DIRECT = select(documents.c.id, documents.c.uri).where(
    documents.c.parent == bindparam("of"), IS_MEMBER, documents.c.state != State.DELETED
)


def _forget_dropped(connection: Connection, parents: Sequence[str]) -> None:
    """Documents that are deleted hold nothing any more that must not come back: uploaded again, they come whole."""
    for part in parts(parents):
        connection.execute(_FORGET_DROPPED, {"of": part})


_FORGET_DROPPED = (
    update(documents)
    .where(documents.c.parent.in_(bindparam("of", expanding=True)), IS_MEMBER, documents.c.dropped_from.is_not(None))
    .values(dropped_from=None)
)


def _same_bytes(old: Row[Any], incoming: Incoming, tie: Tie | None) -> bool:
    """A document that failed or was deleted gets a new content, but a failed member only from a new content of its parent."""
    if old.fingerprint != incoming.fingerprint or old.parent != (tie.parent if tie else None):
        return False
    if old.state == State.FAILED:
        return tie is not None and old.revision > tie.content
    return bool(old.state != State.DELETED)


def _words_due(old: Row[Any]) -> dict[str, Any]:
    """What makes a worker replace the words in the stores; a document still in work writes them anyway."""
    if old.state == State.INDEXED:
        return {"state": State.CHUNKED, "attempt": 0, "lease_until": 0.0}
    return {"state": old.state, "attempt": old.attempt, "lease_until": old.lease_until}


def _reword(connection: Connection, now: float, row: Row[Any], payload: dict[str, Any]) -> int:
    """Give what lies inside the readers and the metadata of the outermost document, at once. Returns the sequence."""
    words = {"groups": payload["groups"], "metadata": payload["metadata"]}
    members = inside(connection, row)
    sequence = next_sequence(connection, row.namespace, len(members))
    numbered = list(enumerate(members, start=sequence - len(members) + 1))
    changes = [
        {"which": member.id, **words, **_words_due(member), "revision": number, "updated_at": now}
        for number, member in numbered
    ]
    detail = "as the document that it lies in"
    _each(connection, UPDATE, changes)
    _each(connection, TELL, [line(member.id, now, number, 0, "payload", detail) for number, member in numbered])
    move_visible(connection, now, row.namespace, [member.id for member in members])
    return sequence


def _dropped(uri: str) -> Conflict:
    return Conflict(
        f"{uri}: it was deleted by itself.",
        next_step="It comes back with other bytes of the document that holds it, or when that is deleted and uploaded again.",
    )


def _taken(uri: str, old: Row[Any]) -> Conflict:
    if old.parent is None:
        return Conflict(
            f"{uri}: a document of its own has that uri.",
            next_step="Delete it, then retry the document that holds this.",
        )
    return Conflict(
        f"{uri}: that uri is of a file inside another document ({old.parent}).",
        next_step="Upload the document that holds it, or choose another uri.",
    )
