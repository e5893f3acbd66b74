"""The guard's look at the registry: which content a document serves, and who may read it.

One statement a query. Where this process alone writes the registry (SQLite in its own data folder), what was read stays
true until its next commit, and is not read again before that. A write is answered only after that commit is counted, so
nobody who has been told of a change can still be served from before it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ragline.breaker import RUNNING, Breaker, Standing
from ragline.clock import Clock
from ragline.connections.database import Database
from ragline.registry.rows import GUARD, unknown_namespace
from ragline.types import Groups

KEEP_ROWS = 100_000
"""Rows kept, for both purposes; about 200 bytes each."""


@dataclass(frozen=True, slots=True)
class GuardRow:
    """What the guard knows of a document: the content that is served (None: nothing is), who may read it, and the last change
    of it whose work is done: while that stays, so does what the stores hold of it."""

    live: int | None
    groups: Groups
    settled: int

    def readable(self, groups: Groups) -> bool:
        return not self.groups or not self.groups.isdisjoint(groups)


@dataclass(frozen=True, slots=True)
class GuardView:
    """One consistent look: the asked-for documents, and the namespace's counters.

    settled: every change up to this sequence is live, failed or deleted.
    """

    rows: Mapping[str, GuardRow]
    uid: str
    visible: int
    settled: int


@dataclass(slots=True)
class _Known:
    """What has been read of a namespace since the commit before."""

    commits: int
    rows: dict[str, GuardRow | None]
    uid: str = ""
    visible: int = 0
    settled: int = 0


class Guard:
    """`deadline_ms`: the longest that a look at the registry takes; `least_ms`: the shortest deadline, as of a leg; None: always
    the longest. A registry that fails several times running is left out for a while."""

    def __init__(
        self, database: Database, clock: Clock, *, deadline_ms: int, least_ms: int | None = None, after: int = RUNNING
    ) -> None:
        self.breaker = Breaker("registry", clock, called="The registry", after=after)
        self._database = database
        self._cap_s, self._floor_s = deadline_ms / 1000, (deadline_ms if least_ms is None else least_ms) / 1000
        self._known: dict[str, _Known] = {}
        self._last_seen: dict[str, GuardRow] = {}

    @property
    def deadline_s(self) -> float:
        return self.breaker.deadline_s(cap_s=self._cap_s, floor_s=self._floor_s)

    def standing(self) -> Standing:
        return self.breaker.standing(self.deadline_s)

    async def look(self, namespace: str, ids: Sequence[str]) -> GuardView:
        """Unknown ids, and ids of other namespaces, have no row. Raises NotFound: the namespace.  EngineError: the registry is
        away, late or left out."""
        commits = self._database.commits
        known = self._known.get(namespace)
        if known is None or known.commits != commits or not self._database.alone or len(known.rows) > KEEP_ROWS:
            known = _Known(commits, {})
        missing = [id for id in ids if id not in known.rows]
        if missing or not known.uid:
            given = {"which": namespace, "ids": missing}
            read = await self.breaker.call(
                lambda: self._database.read(lambda connection: connection.execute(GUARD, given).first()),
                within_s=self.deadline_s,
                next_step="Look at the registry's load, or raise query.guard_deadline_ms.",
            )
            if not read:
                raise unknown_namespace(namespace)
            known.uid, known.visible, known.settled = read.uid, read.visible, read.settled
            known.rows |= dict.fromkeys(missing)
            known.rows |= dict(map(_row, read.documents.split("\n"))) if read.documents else {}
            self._known[namespace] = known
            self._remember({id: row for id in missing if (row := known.rows[id])})
        rows = {id: row for id in ids if (row := known.rows[id])}
        return GuardView(rows, known.uid, known.visible, known.settled)

    def last_seen(self, ids: Sequence[str]) -> dict[str, GuardRow]:
        """For while the registry is away: documents that are open to everyone, as they were seen last."""
        return {id: row for id in ids if (row := self._last_seen.get(id)) and not row.groups}

    def _remember(self, rows: Mapping[str, GuardRow]) -> None:
        if len(self._last_seen) > KEEP_ROWS:
            self._last_seen.clear()
        self._last_seen.update(rows)


def _row(line: str) -> tuple[str, GuardRow]:
    id, live, settled, groups = line.split(" ", 3)
    return id, GuardRow(int(live) if live else None, frozenset(json.loads(groups)), int(settled))
