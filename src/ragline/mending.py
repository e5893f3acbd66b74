"""Mending: what to do about each finding of an audit, and the collection of blobs that nobody owns.

Nothing is written here that a worker would not write: a document is made due again, so that claims, attempts and guards
hold as ever. Only what belongs to no document is deleted: rows under a number that no later content can have, blobs that the
registry, asked once more, does not name, and files whose archive or mail has gone without them. Bytes in folders of
namespaces that it does not know are told and never touched: after a restore they may be somebody's documents.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

import structlog

from ragline import metrics
from ragline.clock import Clock
from ragline.contents import Contents, by_document
from ragline.epochs import Epochs
from ragline.errors import NotFound, RaglineError
from ragline.findings import Finding, Kind, Limits, Remedy, judge, judge_stranger
from ragline.protocols import KeywordIndex, VectorStore
from ragline.registry.claims import Claims
from ragline.registry.documents import Documents
from ragline.registry.namespaces import Namespaces
from ragline.registry.upkeep import Upkeep

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Mended:
    """`done`: what was done about the finding; "" when it needs somebody."""

    finding: Finding
    done: str


class Mending:
    def __init__(
        self, *, namespaces: Namespaces, documents: Documents, claims: Claims, upkeep: Upkeep, contents: Contents,
        vectors: VectorStore, keywords: KeywordIndex, epochs: Epochs, clock: Clock, limits: Limits,
    ) -> None:  # fmt: skip
        self._namespaces = namespaces
        self._documents = documents
        self._claims = claims
        self._upkeep = upkeep
        self._contents = contents
        self._vectors = vectors
        self._keywords = keywords
        self._epochs = epochs
        self._clock = clock
        self._limits = limits

    async def mend(self, findings: Iterable[Finding]) -> list[Mended]:
        """Do what each finding's remedy says. What cannot be done is told, and stops nothing else."""
        done: list[Mended] = []
        taken: set[tuple[object, ...]] = set()
        for one in findings:
            whole = one.remedy in (Remedy.REPARSE, Remedy.SWEEP, Remedy.REDRIVE, Remedy.REINDEX)
            key = (
                (one.remedy, one.namespace, one.document) if whole else (one.remedy, one.place, one.document, one.below)
            )
            try:
                words = (
                    f"with another finding: {one.remedy}"
                    if key in taken
                    else await self._remedies[one.remedy](self, one)
                )
            except NotFound:
                words = "gone meanwhile"
            except RaglineError as error:
                log.warning("not mended", kind=one.kind, document=one.document, error=str(error))
                words = ""
            taken.add(key)
            done.append(Mended(one, words))
            if words:
                metrics.mended_total.labels(one.kind.value).inc()
        return done

    async def collect(self) -> int:
        """Delete the blobs that no document owns, in every namespace; returns how many folders and files went.

        As the audit does it, without its looks at the stores: a blob's owner is in the registry alone.
        """
        collected = 0
        for namespace in await self._namespaces.all():
            lying = await asyncio.to_thread(by_document, await self._contents.kept(namespace))
            unseen, now = set(lying), self._clock.now()
            found: list[Finding] = []
            async for page in self._upkeep.pages(namespace.name):
                for row in page:
                    unseen.discard(row.document.id)
                    found += judge(row, (), lying.get(row.document.id, ()), now=now, limits=self._limits)
            for id in unseen:
                found += judge_stranger(namespace.name, id, (), lying[id], now=now, limits=self._limits)
            orphans = [one for one in found if one.kind is Kind.ORPHAN_BLOB]
            collected += sum(bool(one.done) for one in await self.mend(orphans))
        return collected

    async def _reparse(self, one: Finding) -> str:
        assert one.document
        await self._documents.retry(one.namespace, one.document)
        return "made due again: to be parsed"

    async def _sweep(self, one: Finding) -> str:
        assert one.document
        return "made due again: to be swept" if await self._claims.sweep_again(one.document) else "gone meanwhile"

    async def _redrive(self, one: Finding) -> str:
        assert one.document
        driven = await self._claims.drive_again(one.document, why="the audit found it beyond its deadline")
        metrics.redriven_total.inc(driven)
        return "lease ended: the next worker takes it" if driven else "gone meanwhile"

    async def _delete(self, one: Finding) -> str:
        assert one.document
        return "deleted" if await self._documents.delete_orphan(one.namespace, one.document) else "gone meanwhile"

    async def _delete_rows(self, one: Finding) -> str:
        assert one.document
        engine, _, collection = one.place.partition(":")
        below = {one.document: one.below}
        await (self._vectors if engine == "vectors" else self._keywords).delete(collection, below)
        return "rows deleted"

    async def _delete_blob(self, one: Finding) -> str:
        """Asked once more: is it still nobody's? An owner that was not there when it was listed can only be newer."""
        assert one.document
        namespace = await self._namespaces.get(one.namespace)
        kept = await self._contents.kept(namespace, one.document)
        if row := (await self._upkeep.rows([one.document])).get(one.document):
            found = judge(row, (), kept, now=self._clock.now(), limits=self._limits)
        else:
            found = judge_stranger(namespace.name, one.document, (), kept, now=self._clock.now(), limits=self._limits)
        if one.place not in {each.place for each in found if each.kind is Kind.ORPHAN_BLOB}:
            return "gone meanwhile"
        await self._contents.forget(one.place)
        metrics.orphans_collected_total.inc()
        return "deleted"

    async def _drop(self, one: Finding) -> str:
        if one.kind is Kind.RETIRED_COLLECTION:
            await self._epochs.drop_retired()
            return "dropped"
        engine, _, collection = one.place.partition(":")
        await (self._vectors if engine == "vectors" else self._keywords).drop(collection)
        return "dropped"

    async def _reindex(self, one: Finding) -> str:
        epoch = await self._epochs.begin(one.namespace, instead_of=one.place.removeprefix("epoch "))
        return f"epoch {epoch.label} is being built"

    async def _nothing(self, one: Finding) -> str:
        return ""

    _remedies: ClassVar[dict[Remedy, Callable[[Mending, Finding], Awaitable[str]]]] = {
        Remedy.REPARSE: _reparse,
        Remedy.SWEEP: _sweep,
        Remedy.REDRIVE: _redrive,
        Remedy.DELETE: _delete,
        Remedy.DELETE_ROWS: _delete_rows,
        Remedy.DELETE_BLOB: _delete_blob,
        Remedy.DROP: _drop,
        Remedy.REINDEX: _reindex,
        Remedy.NONE: _nothing,
    }
