"""Files inside documents, as SQL: accepted, and deleted, only while the document that holds them is what it was.

Each write names the content and the attempt that the parent was claimed with, as every other advance does: a worker that
was overtaken changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from sqlalchemy import Connection, bindparam, func, select, update

from ragline.clock import Clock
from ragline.connections.database import Database
from ragline.errors import Conflict
from ragline.registry.acceptance import INSIDE, Incoming, Tie, accept_all, bury, direct, inside
from ragline.registry.rows import LOOK_MINE, UPDATE, mine, rows_of, tell
from ragline.registry.tables import IS_MEMBER, documents
from ragline.types import Document, Namespace, State

_TREE = select(func.count(), func.coalesce(func.sum(documents.c.size), 0)).where(
    documents.c.root == bindparam("of_root"),
    documents.c.state != State.DELETED,
    func.substr(documents.c.uri, 1, bindparam("length")) != bindparam("prefix"),
)
_DROPPED_BEFORE = (
    update(documents)
    .where(documents.c.parent == bindparam("of"), IS_MEMBER, documents.c.dropped_from != bindparam("of_bytes"))
    .values(dropped_from=None)
)

Check = Callable[[int, int], None]
"""Gets a number of files and their bytes, and raises an error of our tree where that is too much."""


class Members:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def accept(
        self, namespace: Namespace, parent: Document, members: Sequence[Incoming], *, check: Check | None = None
    ) -> tuple[dict[str, Document], list[str]] | None:
        """Give each a row, or find that it has one: by its fingerprint, so that doing it again changes nothing.

        Returns uri → its document, and what could not be taken, in words. None: superseded.
        `check` gets what `elsewhere` tells, inside the write: of two archives in one, one is counted before the other.
        Raises what `check` raises; then nothing is written.
        """

        def work(connection: Connection) -> tuple[dict[str, Document], list[str]] | None:
            row = connection.execute(LOOK_MINE, mine(parent)).first()
            if row is None or row.state == State.DELETED:
                return None
            if check is not None:
                check(*_elsewhere(connection, parent))
            tie = Tie(row.id, row.sha256, row.root or row.id, row.depth + 1, row.content)
            words = {"groups": frozenset(row.groups), "metadata": row.metadata}
            own = [replace(one, **words) for one in members]
            taken, refused = dict[str, Document](), list[str]()
            for one, result in zip(own, accept_all(connection, self._clock.now(), namespace, own, tie), strict=True):
                if isinstance(result, Conflict):
                    refused.append(result.message)
                else:
                    taken[one.uri] = result.document
            if taken:  # at once, so that a delete or a change of readers of the parent meets them
                connection.execute(UPDATE, {"which": row.id, "members": max(row.members, len(taken))})
            return taken, refused

        return await self._database.write(work)

    async def keep_only(self, parent: Document, uris: Collection[str], *, told: str) -> bool:
        """Delete what lay in the document before and does not any more, and write down how many files it holds.

        False: superseded.
        """

        def work(connection: Connection) -> bool:
            row = connection.execute(LOOK_MINE, mine(parent)).first()
            if row is None or row.state == State.DELETED:
                return False
            now, gone = self._clock.now(), []
            held = direct(connection, row.id)
            for member in rows_of(connection, [one.id for one in held if one.uri not in uris]).values():
                gone += [member, *inside(connection, member)]
            if gone:
                bury(connection, now, gone, detail="not in the document any more that it lay in")
            connection.execute(_DROPPED_BEFORE, {"of": row.id, "of_bytes": row.sha256})
            connection.execute(UPDATE, {"which": row.id, "members": sum(one.uri in uris for one in held)})
            tell(connection, row.id, now, row.revision, row.attempt, "opened", told)
            return True

        return await self._database.write(work)

    async def elsewhere(self, document: Document) -> tuple[int, int]:
        """How many files, and bytes, lie in the outermost document around this one, those inside this one left out."""
        return await self._database.read(lambda connection: _elsewhere(connection, document))


def _elsewhere(connection: Connection, document: Document) -> tuple[int, int]:
    prefix = document.uri + INSIDE
    given = {"of_root": document.root or document.id, "prefix": prefix, "length": len(prefix)}
    row = connection.execute(_TREE, given).one()
    return int(row[0]), int(row[1])
