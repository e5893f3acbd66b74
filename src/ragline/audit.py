"""The audit: registry, both stores and blobs compared, while the service runs.

    look at everything ─▶ suspects ─▶ look at those again, until each is confirmed or gone ─▶ findings (─▶ mending)

A store is read at one moment and the registry at another, so a first look only makes suspects. A finding is what a second
look finds again while the document's row has not moved; what moves is looked at anew. The rules are in `findings`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from ragline import metrics
from ragline.clock import Clock
from ragline.contents import Contents, Kept, by_document
from ragline.errors import EngineRejected, NotFound
from ragline.findings import MEND, Books, Counts, Finding, Kind, Limits, Remedy, judge, judge_stranger
from ragline.protocols import KeywordIndex, VectorStore
from ragline.registry.namespaces import Namespaces
from ragline.registry.upkeep import Standing, Upkeep
from ragline.types import Namespace

LOOKS = 5
"""Looks at a suspect after the first. One that still moves then is at work, and is counted as such."""

LOOK_AGAIN_S = 0.2
"""Between two looks: longer than a write to the stores takes."""

FEW = 200
"""Suspects whose blobs are listed one by one; more, and listing all of the namespace is cheaper."""

DROPPED_WITHIN_S = 300.0
"""How long after their time retired collections may still be there: ten rounds of housekeeping."""

BUILT_WITHIN_S = 86_400.0
"""How long an epoch may be in building before it is told: a million chunks embed in less."""


@dataclass(slots=True)
class Report:
    """What an audit has seen. `due`: documents with work due, which is no fault. `moving`: not judged, they kept changing.

    Units: `chunks` in the serving vector collections, `blobs` and `documents` (tombstones included) in the namespaces.
    """

    namespaces: int = 0
    documents: int = 0
    chunks: int = 0
    blobs: int = 0
    due: int = 0
    moving: int = 0
    findings: list[Finding] = field(default_factory=list)


_Suspects = dict[str, tuple[object, list[Finding]]]
"""Document → its row's version and what is suspected."""


class Audit:
    """`own_stores`: nobody else uses the stores, so that a collection which no epoch names may be dropped."""

    def __init__(
        self, *, namespaces: Namespaces, upkeep: Upkeep, contents: Contents, vectors: VectorStore,
        keywords: KeywordIndex, clock: Clock, limits: Limits, own_stores: bool,
    ) -> None:  # fmt: skip
        self._namespaces = namespaces
        self._upkeep = upkeep
        self._contents = contents
        self._vectors = vectors
        self._keywords = keywords
        self._clock = clock
        self.limits = limits
        self._own_stores = own_stores

    async def look(self, names: Collection[str] | None = None) -> Report:
        """Compare everything, or these namespaces. Raises EngineError: an engine does not answer.

        Memory: the books of one namespace at a time, and the names of its blobs: about half a kilobyte a document.
        """
        report = Report()
        for namespace in await self._namespaces.all():
            if names is None or namespace.name in names:
                await self._namespace(namespace.name, report)
        if names is None:
            await self._collections(report)
            await self._strangers(report)
            for kind in Kind:
                metrics.audit_findings.labels(kind.value).set(sum(one.kind is kind for one in report.findings))
        return report

    async def _namespace(self, name: str, report: Report) -> None:
        """One namespace, begun anew when it cuts over meanwhile. Its deletion ends it."""
        for _ in range(LOOKS):
            try:
                namespace = await self._namespaces.get(name)
                part = await self._compare(namespace)
                after = await self._namespaces.get(name)
            except NotFound:
                return
            if (after.uid, after.epoch.label, after.building) == (
                namespace.uid, namespace.epoch.label, namespace.building,
            ):  # fmt: skip
                break
        else:
            part.findings, part.moving = [], part.documents
        report.namespaces += 1
        for one in ("documents", "chunks", "blobs", "due", "moving"):
            setattr(report, one, getattr(report, one) + getattr(part, one))
        report.findings += part.findings

    async def _compare(self, namespace: Namespace) -> Report:
        report = Report()
        kept = await self._contents.kept(namespace)
        books = await self._books(namespace, report)
        lying = await asyncio.to_thread(by_document, kept)  # long enough to be felt by the event loop
        report.blobs = len(kept)
        report.chunks = sum(sum(counts.values()) for one in books if one.serving for counts in one.vectors.values())
        unseen = set(lying).union(*({*one.vectors, *one.keywords} for one in books))
        suspects: _Suspects = {}
        busy = await self._upkeep.busy()
        async for page in self._upkeep.pages(namespace.name):
            for row in page:
                id = row.document.id
                unseen.discard(id)
                report.documents += 1
                report.due += row.due
                found = await self._judged(namespace, row, books, lying.get(id, ()), busy=busy)
                if found:
                    suspects[id] = (row.version, found)
        for id in unseen:
            found = self._stranger(namespace, id, books, lying.get(id, ()))
            if found:
                suspects[id] = (None, found)
        await self._confirm(namespace, suspects, report)
        await self._building(namespace, report)
        return report

    async def _confirm(self, namespace: Namespace, suspects: _Suspects, report: Report) -> None:
        for _ in range(LOOKS):
            if not suspects:
                return
            await asyncio.sleep(LOOK_AGAIN_S)
            lying = await asyncio.to_thread(by_document, await self._kept_of(namespace, suspects))
            books = await self._books(namespace, None)
            busy = await self._upkeep.busy()
            rows = await self._upkeep.rows(list(suspects))
            again: _Suspects = {}
            for id, (version, before) in suspects.items():
                row, kept = rows.get(id), lying.get(id, ())
                if row is None:
                    found, now = self._stranger(namespace, id, books, kept), None
                else:
                    found = await self._judged(namespace, row, books, kept, busy=busy)
                    now = row.version
                sure = [one for one in found if now == version and one in before]
                report.findings += sure
                left = [one for one in found if one not in sure]
                if left:
                    again[id] = (now, left)
            suspects = again
        report.moving += len(suspects)

    async def _judged(
        self, namespace: Namespace, row: Standing, books: Sequence[Books], kept: Sequence[Kept], *, busy: bool
    ) -> list[Finding]:
        """Before chunks of an older content that goes on serving are called missing, its blob is asked how many it has:
        an archive has no words of its own, and how many files are left in it says nothing of that."""
        judged = partial(judge, row, books, kept, now=self._clock.now(), limits=self.limits, busy=busy)
        found, one = judged(), row.document
        if one.live is None or one.live_blob is None or one.live == one.content:
            return found
        if any(each.kind is Kind.MISSING_CHUNKS for each in found):
            content = await self._contents.get(namespace, one, one.live_blob, one.live)
            return judged(spans=len(content.spans)) if content is not None else found
        return found

    def _stranger(self, namespace: Namespace, id: str, books: Sequence[Books], kept: Sequence[Kept]) -> list[Finding]:
        return judge_stranger(namespace.name, id, books, kept, now=self._clock.now(), limits=self.limits)

    async def _kept_of(self, namespace: Namespace, ids: Collection[str]) -> list[Kept]:
        if len(ids) > FEW:
            return await self._contents.kept(namespace)
        return [one for id in ids for one in await self._contents.kept(namespace, id)]

    async def _books(self, namespace: Namespace, report: Report | None) -> list[Books]:
        """Of the epochs whose collections can be read; one that cannot is a finding of its own, and not a thousand."""
        books = []
        for epoch in filter(None, (namespace.epoch, namespace.building)):
            try:
                vectors = await self._vectors.contents(epoch.vectors)
                keywords = await self._keywords.contents(epoch.keywords)
            except EngineRejected as error:
                if report is not None:
                    step = (
                        f"`ragline reindex --namespace {namespace.name}` builds both from the blobs; mending begins it."
                    )
                    place = f"epoch {epoch.label}"
                    report.findings.append(
                        Finding(Kind.MISSING_COLLECTION, namespace.name, place, error.message, Remedy.REINDEX, step)
                    )
                continue
            serving = epoch is namespace.epoch
            grouped = [await asyncio.to_thread(_by_content, held) for held in (vectors, keywords)]
            books.append(Books(epoch, serving, *grouped))
        return books

    async def _building(self, namespace: Namespace, report: Report) -> None:
        if namespace.building is None:
            return
        label = namespace.building.label
        shelf = next((s for s in await self._upkeep.shelves() if (s.uid, s.label) == (namespace.uid, label)), None)
        if shelf is not None and self._clock.now() - shelf.created_at > BUILT_WITHIN_S:
            words = f"It has been in building for more than {BUILT_WITHIN_S / 3600:.0f} h."
            step = f"`ragline namespaces show {namespace.name}` tells how far it is; the log tells what stops it."
            report.findings.append(
                Finding(Kind.STALLED_EPOCH, namespace.name, f"epoch {label}", words, Remedy.NONE, step)
            )

    async def _collections(self, report: Report) -> None:
        """Retired epochs that are still there, and collections that no epoch names."""
        vectors, keywords = await self._vectors.collections(), await self._keywords.collections()
        shelves = await self._upkeep.shelves()  # after the stores: an epoch is written down before it is made
        for shelf in shelves:
            if shelf.drop_after is not None and self._clock.now() - shelf.drop_after > DROPPED_WITHIN_S:
                words = "It serves no more, and should be gone."
                place = f"epoch {shelf.label}"
                report.findings.append(
                    Finding(Kind.RETIRED_COLLECTION, shelf.namespace, place, words, Remedy.DROP, MEND)
                )
        known = ({shelf.vectors for shelf in shelves}, {shelf.keywords for shelf in shelves})
        for engine, names, ours in (("vectors", vectors, known[0]), ("keywords", keywords, known[1])):
            for name in sorted(set(names) - ours):
                remedy = Remedy.DROP if self._own_stores else Remedy.NONE
                step = MEND if self._own_stores else "If no other Ragline uses this store, drop it there."
                words = "No epoch of the registry names it."
                report.findings.append(Finding(Kind.UNKNOWN_COLLECTION, "", f"{engine}:{name}", words, remedy, step))

    async def _strangers(self, report: Report) -> None:
        """Folders of namespaces that the registry does not know. It may be the one that is wrong, so they stay."""
        folders = await self._contents.namespaces()
        known = {f"{shelf.namespace}-{shelf.uid}" for shelf in await self._upkeep.shelves()}
        for folder in sorted(folders - known):
            step = "If the registry was not restored from an older backup, remove the folder by hand."
            words = "It belongs to no namespace of the registry."
            report.findings.append(Finding(Kind.UNKNOWN_FOLDER, "", folder, words, Remedy.NONE, step))


def _by_content(contents: Mapping[tuple[str, int], int]) -> dict[str, Counts]:
    books: dict[str, dict[int, int]] = {}
    for (document, content), count in contents.items():
        books.setdefault(document, {})[content] = count
    return dict(books)
