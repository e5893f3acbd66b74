"""How bytes become a row: a new revision, new words on the same content, or nothing that has changed.

For uploads, and for the files inside them: a member is tied to the document it lies in, has its readers and metadata,
and goes when it goes. One that was deleted by itself stays away for as long as the bytes that it lay in are the same: its
tombstone keeps their sha256 in `dropped_from`. Called inside a write; refusals come before the first statement that
changes anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, bindparam, func, select, update

from ragline.errors import Conflict
from ragline.registry import sources
from ragline.registry.rows import (
    INSERT,
    SWEEP_NOW,
    SWEEP_ONCE_LIVE,
    SWEPT,
    UPDATE,
    document_of,
    garbage_of,
    get_row,
    move_visible,
    next_sequence,
    superseded,
    tell,
)  # fmt: skip
from ragline.registry.tables import IS_MEMBER, documents
from ragline.types import Document, Groups, Metadata, Namespace, NamespaceSettings, State

OUR_MEDIA_TYPES = "application/vnd.ragline."
"""Media types that say how to parse; clients name the others differently for the same file."""

PARSER_VERSION = 2
"""Part of the fingerprint: raise it when a parser gets better, and the next upload of the same bytes is parsed anew."""

INSIDE = "!/"
"""Parts a member's name from the uri of the document that it lies in."""

MOST_IDS = 500
"""Ids in one statement."""

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


def accept(connection: Connection, now: float, holder: Namespace, incoming: Incoming, tie: Tie | None) -> Accepted:
    """Take the next sequence number and write the new revision, or find that nothing has changed.

    Raises:  NotFound: the namespace.  Conflict: the uri is that of a document with another tie; or it was deleted by itself
             from the bytes that hold it.
    """
    namespace, id = holder.name, document_id(holder, incoming.uri)
    old = get_row(connection, id)
    if old is not None and old.state != State.DELETED and old.parent != (tie.parent if tie else None):
        raise _taken(incoming.uri, old)
    if old is not None and tie is not None and old.dropped_from == tie.sha256:
        raise _dropped(incoming.uri)
    payload = {
        "given_title": incoming.title, "groups": sorted(incoming.groups), "metadata": dict(incoming.metadata),
    }  # fmt: skip
    same_bytes = old is not None and _same_bytes(old, incoming, tie)
    same_words = old is not None and all(getattr(old, name) == value for name, value in payload.items())
    if same_bytes and same_words:
        sequence = next_sequence(connection, namespace, 0, uid=holder.uid)
        connection.execute(UPDATE, {"which": id, "verified_at": now})
        return Accepted(document_of(get_row(connection, id)), "unchanged", sequence)

    sequence = next_sequence(connection, namespace, 1, uid=holder.uid)
    title = incoming.title or incoming.uri.rstrip("/").rsplit("/", 1)[-1]
    values: dict[str, Any] = {**payload, "revision": sequence, "updated_at": now, "verified_at": now}
    if incoming.title:
        values["title"] = incoming.title
    if same_bytes:
        assert old is not None
        connection.execute(UPDATE, {"which": id, **values, **_words_due(old)})
    else:
        values |= {
            "title": title, "media_type": incoming.media_type, "size": incoming.size, "sha256": incoming.sha256,
            "fingerprint": incoming.fingerprint, "content": sequence, "blob": incoming.blob, "reason": None,
            "state": State.RECEIVED, "chunks": None, "received_at": now,
            "sweep": SWEEP_ONCE_LIVE,
            "parent": tie.parent if tie else None, "root": tie.root if tie else None, "depth": tie.depth if tie else 0,
            "dropped_from": None,
        }  # fmt: skip
        if old is None:
            values |= {"id": id, "namespace": namespace, "uri": incoming.uri, "live": None, "live_blob": None,
                       "garbage": [], "sweep": SWEPT, "settled": 0, "members": 0, "attempt": 0,
                       "lease_until": 0.0}  # fmt: skip
            connection.execute(INSERT, values)
        else:
            values |= superseded(old)
            values["garbage"] = garbage_of(old, keep=(incoming.blob, old.live_blob))
            connection.execute(UPDATE, {"which": id, **values})
    if old is not None and old.live is not None and (old.groups != payload["groups"] or same_bytes):
        move_visible(connection, namespace)
    if old is not None and old.members and not same_words:
        sequence = _reword(connection, now, old, payload)
    outcome: Outcome = "created" if old is None else "payload" if same_bytes else "updated"
    tell(connection, id, now, values["revision"], 0, outcome, f"{incoming.size} bytes, sha256 {incoming.sha256[:12]}")
    return Accepted(document_of(get_row(connection, id)), outcome, sequence)


def bury(connection: Connection, now: float, rows: Sequence[Row[Any]], *, detail: str) -> int:
    """Write a tombstone on each: not served from this moment on; rows and blobs go afterwards. Returns the sequence."""
    sequence = next_sequence(connection, rows[0].namespace, len(rows)) - len(rows)
    for row in rows:
        sequence += 1
        values = {
            "revision": sequence, "content": sequence, "reason": None, "live": None, "blob": None, "live_blob": None,
            "garbage": garbage_of(row, keep=()), "state": State.DELETED,
            "sweep": SWEEP_NOW, "updated_at": now, "members": 0,
            **superseded(row),
        }  # fmt: skip
        connection.execute(UPDATE, {"which": row.id, **values})
        sources.forget(connection, row.id)
        tell(connection, row.id, now, sequence, 0, "deleted", detail)
    _forget_dropped(connection, [row.id for row in rows])
    move_visible(connection, rows[0].namespace)
    return sequence


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
    """A member, `row`, was buried by itself: it does not come back with the same bytes of the document that it lies in."""
    holder = get_row(connection, row.parent)
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
    for start in range(0, len(parents), MOST_IDS):
        connection.execute(_FORGET_DROPPED, {"of": parents[start : start + MOST_IDS]})


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
    return {"state": State.CHUNKED, "attempt": 0, "lease_until": 0.0} if old.state == State.INDEXED else {}


def _reword(connection: Connection, now: float, row: Row[Any], payload: dict[str, Any]) -> int:
    """Give what lies inside the readers and the metadata of the outermost document, at once. Returns the sequence."""
    words = {"groups": payload["groups"], "metadata": payload["metadata"]}
    members = inside(connection, row)
    sequence = next_sequence(connection, row.namespace, len(members)) - len(members)
    for member in members:
        sequence += 1
        values = {**words, **_words_due(member), "revision": sequence, "updated_at": now}
        connection.execute(UPDATE, {"which": member.id, **values})
        tell(connection, member.id, now, sequence, 0, "payload", "as the document that it lies in")
    move_visible(connection, row.namespace)
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
