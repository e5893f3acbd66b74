"""The auditor of the hot cache: a share of its hits is searched again, beside the response, and compared.

It asks the registry by another way than the guard does, past whatever that remembers. Wrong is a passage that was served though
its content was not live any more, or the caller's not to read, before the query came. A document that is new and is missed is
not wrong: that an entry may be as old as its time to live is what was promised.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, TypeAlias

import structlog

from ragline import metrics
from ragline.errors import RaglineError
from ragline.protocols import Searcher
from ragline.registry.documents import Documents
from ragline.types import Document, Groups, Passage, Retrieved, SearchRequest, State

log = structlog.get_logger()

SKEW_S = 1.0
"""How far the clocks of two machines may be apart: a change within it may have come after the query."""

ENDS_A_CONTENT = ("indexed", "deleted")
MOVES_READERS = ("created", "updated", "payload")

Verdict: TypeAlias = Literal["same", "differs", "moved", "wrong", "failed"]
"""As a new search finds it; another ranking of what has not changed; something has changed since, so nobody can tell; a passage
should not have been served; there was no result to compare with."""


class CacheAudit:
    """One at a time: what comes meanwhile is not looked at. `share` of 1 looks at whatever it can."""

    def __init__(
        self, *, search: Searcher, documents: Documents, share: float, draw: Callable[[], float] = random.random
    ) -> None:
        self._search = search
        self._documents = documents
        self._share = share
        self._draw = draw
        self._task: asyncio.Task[None] | None = None
        self.verdicts: dict[Verdict, int] = {}
        """Of this process since its start."""

    def consider(self, request: SearchRequest, served: Retrieved, asked_at: float, *, packed: bool = False) -> None:
        """`served` was a hit. `packed`: it is those passages that fit into a prompt. Units: `asked_at` seconds since 1970,
        when the query came."""
        if self._draw() < self._share and (self._task is None or self._task.done()):
            look = self._look(request, served, asked_at, packed)
            self._task = asyncio.create_task(
                look, context=contextvars.Context()
            )  # no part of the request that it looks at

    async def done(self) -> None:
        """Wait for the one under way."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self, request: SearchRequest, served: Retrieved, asked_at: float, packed: bool) -> None:
        try:
            verdict = await self._verdict(request, served, asked_at, packed)
        except RaglineError:
            verdict = "failed"
        self.verdicts[verdict] = self.verdicts.get(verdict, 0) + 1
        metrics.cache_audits_total.labels(verdict).inc()

    async def _verdict(self, request: SearchRequest, served: Retrieved, asked_at: float, packed: bool) -> Verdict:
        faults = await self._faults(served.passages, request.groups, asked_at)
        if "wrong" in faults.values():
            wrong = sorted(id for id, verdict in faults.items() if verdict == "wrong")
            metrics.cache_wrong_total.inc(len(wrong))
            log.error("the cache served what it should not have", namespace=request.namespace, documents=wrong)
            return "wrong"
        fresh = await self._search.search(replace(request, min_sequence=None))
        if fresh.degraded or fresh.seen is None or served.seen is None:
            return "failed"
        now, then = _chunks(fresh), _chunks(served)
        if now == then or (packed and set(then) <= set(now)):
            return "same"
        return "differs" if fresh.seen.visible == served.seen.visible else "moved"

    async def _faults(
        self, passages: tuple[Passage, ...], groups: Groups, asked_at: float
    ) -> dict[str, Literal["moved", "wrong"]]:
        """Document → whether it was wrong to serve it, of those that would not be served now."""
        contents = {passage.hit.chunk.document: passage.hit.chunk.content for passage in passages}
        rows = await self._documents.look_all(contents)
        found: dict[str, Literal["moved", "wrong"]] = {}
        for id, content in contents.items():
            row = rows.get(id)
            if row is None:
                found[id] = "moved"  # its tombstone is purged, or its namespace gone: nothing tells when
            elif not _serves(row, content, groups):
                found[id] = "wrong" if await self._was_so_before(row, content, asked_at) else "moved"
        return found

    async def _was_so_before(self, row: Document, content: int, asked_at: float) -> bool:
        """Whether what keeps `row` from being served now did so when the query came."""
        story = await self._documents.history(row.id)
        if row.live != content:
            ends = [line.at for line in story if line.event in ENDS_A_CONTENT and line.revision > content]
            return min(ends, default=row.updated_at) < asked_at - SKEW_S
        moves = [line.at for line in story if line.event in MOVES_READERS]
        return max(moves, default=row.updated_at) < asked_at - SKEW_S


def _serves(row: Document, content: int, groups: Groups) -> bool:
    if row.state is State.DELETED or row.live != content:
        return False
    return not row.groups or not row.groups.isdisjoint(groups)


def _chunks(found: Retrieved) -> list[str]:
    return [passage.hit.chunk.id for passage in found.passages]
