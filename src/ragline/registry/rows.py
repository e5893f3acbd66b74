"""Rows of documents: the statements that run for each of them, and how a row becomes a `Document`.

Statements that run for every document or query are built once: building one costs more than running it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Text, bindparam, cast, func, insert, literal, select, type_coerce, update

from ragline.errors import NotFound
from ragline.registry.tables import DUE, documents, edge_purges, history, namespaces
from ragline.types import Document, State

SWEPT, SWEEP_NOW, SWEEP_ONCE_LIVE = 0, 1, 2
"""Whether rows and blobs of older contents remain, and when they may go. Only SWEEP_NOW is work that is due."""

INTERRUPTED, AWAY = "interrupted", "engine away"
"""How the end of an attempt is told that did not come through: what failed may be the document's doing; or was not."""

LOGGED = "on the log"
"""How the end of an attempt is told whose chunks the chunk log has: from there on it drives the document."""

MOST_IDS = 500
"""Ids in one statement."""

LOOK_ALL = select(documents).where(documents.c.id.in_(bindparam("ids", expanding=True)))
LOOK = select(documents).where(documents.c.id == bindparam("which"))
UPDATE = update(documents).where(documents.c.id == bindparam("which"))
UPDATE_MINE = update(documents).where(
    documents.c.id == bindparam("which"),
    documents.c.content == bindparam("mine"),
    documents.c.attempt == bindparam("at"),
)
LOOK_MINE = (
    select(documents)
    .where(
        documents.c.id == bindparam("which"),
        documents.c.content == bindparam("mine"),
        documents.c.attempt == bindparam("at"),
    )
    .with_for_update()  # else another process might claim it before it is advanced
)
INSERT = insert(documents)
TELL = insert(history)
PURGE = insert(edge_purges)
NEXT_SEQUENCE = (
    update(namespaces)
    .where(
        namespaces.c.name == bindparam("which"), (bindparam("of_uid") == "") | (namespaces.c.uid == bindparam("of_uid"))
    )
    .values(sequence=namespaces.c.sequence + bindparam("step"))
    .returning(namespaces.c.sequence)
)
MOVE_VISIBLE = (
    update(namespaces)
    .where(namespaces.c.name == bindparam("which"))
    .values(visible=namespaces.c.visible + 1)
    .returning(namespaces.c.uid, namespaces.c.visible, namespaces.c.settings)
)
FOREIGN = update(namespaces).where(namespaces.c.name == bindparam("which")).values(foreign=1)
EPOCHS = select(namespaces.c.epoch, namespaces.c.building).where(namespaces.c.name == bindparam("which"))
SETTINGS = select(namespaces.c.settings).where(namespaces.c.name == bindparam("which"))
END_LEASES = update(documents).where(DUE).values(lease_until=0.0, late_until=0.0)
END_LEASES_OFF_LOG = END_LEASES.where(
    ~select(literal(1))
    .where(
        history.c.document == documents.c.id, history.c.revision == documents.c.revision,
        history.c.attempt == documents.c.attempt, history.c.event == LOGGED,
    )
    .exists()
)  # fmt: skip
ON_LOG = select(documents.c.id).where(
    documents.c.id.in_(bindparam("ids", expanding=True)),
    history.c.document == documents.c.id,
    history.c.revision.between(documents.c.content, documents.c.revision),
    history.c.attempt == documents.c.attempt,
    history.c.event == LOGGED,
)
IS_BEYOND = select(literal(1)).where(DUE, documents.c.lease_until > bindparam("beyond")).limit(1)
END_LEASES_BEYOND = (
    update(documents)
    .where(DUE, documents.c.lease_until > bindparam("beyond"))
    .values(lease_until=0.0)
    .returning(documents.c.id)
)
_TOLD = (
    select(func.max(history.c.attempt))
    .where(
        history.c.document == documents.c.id, history.c.revision == documents.c.revision,
        history.c.event.in_((INTERRUPTED, AWAY, LOGGED)),
    )
    .scalar_subquery()
)  # fmt: skip
INTERRUPTIONS = select(history.c.detail).where(
    history.c.document == bindparam("which"),
    history.c.revision == bindparam("revision"),
    history.c.event == INTERRUPTED,
)
LEASED = select(documents.c.id, documents.c.revision, documents.c.attempt, _TOLD.label("told")).where(
    DUE, documents.c.lease_until > 0.0, documents.c.attempt > 0
)
IS_DUE = select(literal(1)).where(DUE, documents.c.lease_until <= bindparam("now")).limit(1)
CLAIM = (
    update(documents)
    .where(
        documents.c.id.in_(
            select(documents.c.id)
            .where(DUE, documents.c.lease_until <= bindparam("now"))
            .order_by(documents.c.revision)
            .limit(bindparam("most"))
            .with_for_update(skip_locked=True)  # where there are other workers; SQLite has none, and leaves it out
        )
    )
    .values(lease_until=bindparam("until"), attempt=documents.c.attempt + 1)
    .returning(documents)
)
BEHIND = (
    select(func.min(documents.c.revision) - 1)
    .where(documents.c.namespace == bindparam("which"), documents.c.settled < documents.c.revision)
    .scalar_subquery()
)
_GUARDED = (
    documents.c.id
    + literal(" ")
    + func.coalesce(cast(documents.c.live, Text), "")
    + literal(" ")
    + cast(documents.c.settled, Text)
    + literal(" ")
    + cast(type_coerce(documents.c.groups, Text), Text)
)
GUARD = select(
    # As one value, a line a document, `id live settled groups`: the interpreter lock is given up at each row, and beside ingest
    # every time costs a wait for it.
    select(func.aggregate_strings(_GUARDED, "\n"))
    .where(documents.c.id.in_(bindparam("ids", expanding=True)), documents.c.namespace == namespaces.c.name)
    .correlate(namespaces)
    .scalar_subquery()
    .label("documents"),
    namespaces.c.uid,
    namespaces.c.visible,
    func.coalesce(BEHIND, namespaces.c.sequence).label("settled"),
).where(namespaces.c.name == bindparam("which"))
SETTLED = select(documents.c.id, documents.c.settled).where(documents.c.id.in_(bindparam("ids", expanding=True)))
UNSETTLED_INSIDE = (
    select(literal(1))
    .where(documents.c.settled < documents.c.revision, documents.c.root.in_(bindparam("ids", expanding=True)))
    .limit(1)
)


def get_row(connection: Connection, id: str) -> Any:
    return connection.execute(LOOK, {"which": id}).first()


def rows_of(connection: Connection, ids: Sequence[str]) -> dict[str, Any]:
    """Id → row, of those that there are."""
    return {row.id: row for part in parts(ids) for row in connection.execute(LOOK_ALL, {"ids": part})}


def parts(ids: Sequence[str]) -> list[list[str]]:
    """As many at a time as one statement takes."""
    return [list(ids[start : start + MOST_IDS]) for start in range(0, len(ids), MOST_IDS)]


def mine(document: Document) -> dict[str, Any]:
    """The row must still stand at the content and the attempt that this worker claimed."""
    return {"which": document.id, "mine": document.content, "at": document.attempt}


def next_sequence(connection: Connection, namespace: str, step: int, *, uid: str = "") -> int:
    """The namespace's sequence, moved on by `step`. Raises NotFound, also where the name stands for another `uid` now."""
    given = {"which": namespace, "of_uid": uid, "step": step}
    moved = connection.execute(NEXT_SEQUENCE, given).scalar()
    if moved is None:
        raise unknown_namespace(namespace)
    return int(moved)


def on_log(connection: Connection, rows: Sequence[Row[Any]]) -> set[str]:
    """Ids of those that the chunk log drives: no worker has them, and their lease is a deadline."""
    claimed = [row.id for row in rows if row.attempt]
    return {id for part in parts(claimed) for (id,) in connection.execute(ON_LOG, {"ids": part})}


def superseded(old: Row[Any], logged: Collection[str]) -> dict[str, Any]:
    """The claim on `old` holds no more. Whoever has it may be writing rows now, and is killed before it takes them back:
    until its lease would have ended, they are swept once more.

    `logged`: what the chunk log drives. Whoever writes that and is killed has not committed, so its messages come once more,
    to be found late: then it is swept (`Ingest.sweep_behind`).
    """
    working = old.attempt and old.id not in logged
    return {"attempt": 0, "lease_until": 0.0, "late_until": max(old.late_until, old.lease_until if working else 0.0)}


WHOLE = ""
"""As the `document` of a purge: whatever the edge holds of the namespace."""


def move_visible(connection: Connection, now: float, namespace: str, documents: Iterable[str]) -> None:
    """What a reader may see of `documents` has moved. Of a public namespace the edge may hold it: a purge of each is due, by
    the same commit. The row of the namespace stays locked until then, so nobody makes it public between the two."""
    moved = connection.execute(MOVE_VISIBLE, {"which": namespace}).first()
    if moved is not None and moved.settings.get("public"):
        purge(connection, now, moved.uid, moved.visible, documents)


def purge(connection: Connection, now: float, uid: str, visible: int, documents: Iterable[str]) -> None:
    """The edge has to drop what it holds of these documents, or of the `WHOLE` namespace, from before `visible`."""
    due = [
        {"namespace": uid, "document": document, "visible": visible, "created_at": now, "due_at": now}
        for document in documents
    ]
    if due:
        connection.execute(PURGE, due)


def garbage_of(old: Row[Any], *, keep: Sequence[str | None]) -> list[str]:
    """Blobs of `old` that nothing will read once what is in `keep` serves."""
    return sorted({blob for blob in (*old.garbage, old.blob, old.live_blob) if blob and blob not in keep})


def tell(
    connection: Connection, id: str, at: float, revision: int, attempt: int, event: str, detail: str,
    took_s: float | None = None,
) -> None:  # fmt: skip
    connection.execute(TELL, line(id, at, revision, attempt, event, detail, took_s))


def line(
    id: str, at: float, revision: int, attempt: int, event: str, detail: str, took_s: float | None = None
) -> dict[str, Any]:  # fmt: skip
    """A line of a document's story, as `TELL` writes it."""
    values = {"document": id, "at": at, "revision": revision, "attempt": attempt, "event": event, "detail": detail}
    return values | {"took_s": took_s}


_FIELDS = tuple(Document.__dataclass_fields__)


def document_of(row: Any) -> Document:
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


def unknown_namespace(name: str) -> NotFound:
    return NotFound(
        f"Namespace {name[:80]!r} does not exist.",
        next_step="Create it with PUT /v1/namespaces/NAME, or `ragline ingest PATH --namespace NAME`.",
    )
