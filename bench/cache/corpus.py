"""A corpus whose documents change in an instant: the real registry, guard, query path and cache over a dictionary as store.

For tests that change a document a thousand times, and for a day of traffic: parsing and embedding are not what is looked at.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ragline.background import Queries
from ragline.cache_audit import CacheAudit
from ragline.caching import CachedSearch, HotCache
from ragline.clock import Clock
from ragline.connections.database import Database, sqlite_url
from ragline.hot_tier import HotTier
from ragline.pressure import Pressure
from ragline.protocols import Cache
from ragline.query import Search
from ragline.registry.acceptance import Incoming
from ragline.registry.claims import Claims
from ragline.registry.documents import Documents
from ragline.registry.guard import Guard
from ragline.registry.migrations import SCHEMA
from ragline.registry.namespaces import Namespaces
from ragline.settings import CacheSettings, QuerySettings
from ragline.snapshots import Snapshots
from ragline.types import Chunk, Document, Groups, Hit, NamespaceSettings, Retrieved, Scope, SearchRequest, Space

NAME = "n"
SPACE = Space("toy", "0" * 64, "fp32", 4, 256)
NOBODY: Groups = frozenset()


async def _nothing() -> None: ...


class Words:
    """A keyword index: word → documents, best first. Text and title as they were indexed last; `pause` holds a search up when
    it has read."""

    def __init__(self) -> None:
        self.rows: dict[str, Hit] = {}
        self.documents: dict[str, list[str]] = {}
        self.searches = 0
        self.pause: Callable[[], Awaitable[None]] = _nothing

    async def search(self, collection: str, query: str, *, top_k: int, scope: Scope) -> list[Hit]:
        self.searches += 1
        found = [self.rows[id] for id in self.documents.get(query, ())[:top_k] if id in self.rows]
        await self.pause()
        return found


PATIENT = QuerySettings(keyword_deadline_ms=60_000, least_deadline_ms=60_000)
"""What is counted here are wrong answers: on a busy machine a search may take long."""


class Corpus:
    """`uris` names the documents; each is found by its own uri, and by whatever `found_by` adds."""

    def __init__(
        self, database: Database, clock: Clock, cache: Cache | None, settings: CacheSettings, draw: Callable[[], float]
    ) -> None:
        self.database = database
        self.clock = clock
        self.documents, self.claims = Documents(database, clock), Claims(database, clock)
        self.namespaces, self.guard = Namespaces(database, clock), Guard(database, clock, deadline_ms=60_000)
        self.snapshots = Snapshots(self.namespaces, clock, self.guard.breaker)
        self.words = Words()
        none: Any = None
        self.query = Search(
            snapshots=self.snapshots, documents=self.documents, guard=self.guard, embedder=none, vectors=none,
            keywords=self.words, queries=Queries(), settings=PATIENT, clock=clock, pressure=Pressure(clock, target_ms=60_000),  # type: ignore[arg-type]
        )  # fmt: skip
        self.tier = HotTier(cache, settings, clock, in_process=cache.name == "memory") if cache else None
        self.audit = CacheAudit(search=self.query, documents=self.documents, share=settings.audit_share, draw=draw)
        self.hot = HotCache(
            tier=self.tier,
            guard=self.guard,
            queries=Queries(),
            audit=self.audit,
            pipeline="p",
        )
        self.search = CachedSearch(self.query, self.hot, self.snapshots)
        self.ids: dict[str, str] = {}

    @classmethod
    async def open(
        cls, folder: Path, clock: Clock, cache: Cache | None, settings: CacheSettings | None = None,
        draw: Callable[[], float] = lambda: 1.0, *, public: bool = False,
    ) -> Corpus:  # fmt: skip
        database = await Database.open(sqlite_url(folder / "registry.sqlite"), SCHEMA)
        corpus = cls(database, clock, cache, settings or CacheSettings(audit_share=0.0), draw)
        epoch = await corpus.namespaces.plan_epoch(NAME, SPACE, {})
        await corpus.namespaces.create(NamespaceSettings(public=public), epoch)
        return corpus

    async def update(
        self, uris: Iterable[str], *, groups: Groups = NOBODY, title: str | None = None, found_by: Sequence[str] = ()
    ) -> None:
        """New bytes for each, live when this returns."""
        await self._accept(uris, groups, title, lambda uri: secrets.token_hex(16))
        await self.work(found_by)

    async def reword(self, uri: str, *, groups: Groups = NOBODY, title: str | None = None) -> None:
        """Other words on the same bytes: groups bind now, the title reaches the store by `work`."""
        sha256 = (await self.document(uri)).sha256
        await self._accept([uri], groups, title, lambda _: sha256)

    async def work(self, found_by: Sequence[str] = ()) -> None:
        """Whatever is due reaches the store, and is live."""
        while claimed := await self.claims.claim(most=1_000, lease_s=3600.0):
            await asyncio.gather(*(self._index(document, found_by) for document in claimed))

    async def document(self, uri: str) -> Document:
        found = await self.documents.look(self.ids[uri])
        assert found is not None
        return found

    async def ask(self, query: str, *, top_k: int = 1, groups: Groups = NOBODY, **words: Any) -> Retrieved:
        return await self.search.search(SearchRequest(query, NAME, groups, top_k, legs=("keyword",), **words))

    async def wrong(self, found: Retrieved, groups: Groups = NOBODY) -> Mapping[str, str]:
        """Document → why it should not have been served now, as the registry's rows say it."""
        faults = {}
        rows = await self.documents.look_all({passage.hit.chunk.document for passage in found.passages})
        for passage in found.passages:
            row = rows.get(passage.hit.chunk.document)
            if row is None or row.live != passage.hit.chunk.content:
                faults[passage.hit.chunk.document] = "not live"
            elif row.groups and row.groups.isdisjoint(groups):
                faults[passage.hit.chunk.document] = "not to be read"
        return faults

    async def aclose(self) -> None:
        await self.audit.aclose()
        if self.tier:
            await self.tier.aclose()
        await self.database.aclose()

    async def _accept(
        self, uris: Iterable[str], groups: Groups, title: str | None, bytes_of: Callable[[str], str]
    ) -> None:
        namespace = await self.namespaces.get(NAME)

        async def one(uri: str) -> None:
            sha256 = bytes_of(uri)
            accepted = await self.documents.accept(
                namespace,
                Incoming(uri, title, None, 1, sha256, sha256, secrets.token_hex(4), groups, {}),
            )  # fmt: skip
            self.ids[uri] = accepted.document.id

        await asyncio.gather(*map(one, uris))

    async def _index(self, document: Document, found_by: Sequence[str]) -> None:
        if document.state == "deleted" or document.settled >= document.revision:
            self.words.rows.pop(document.id, None) if document.state == "deleted" else None
            await self.claims.mark_swept(document)
            return
        chunk = Chunk(
            f"{document.id}-{document.content}", document.id, document.content, 0, f"{document.uri} {document.content}",
            0, 9,
        )  # fmt: skip
        title = document.given_title or document.uri
        self.words.rows[document.id] = Hit(chunk, document.uri, title, 1.0, "bm25")
        for word in (document.uri, *found_by):
            known = self.words.documents.setdefault(word, [])
            if document.id not in known:
                known.append(document.id)
        namespace = await self.namespaces.get(NAME)
        labels = frozenset({namespace.epoch.label})
        assert await self.claims.mark_live(
            document, title=title, epochs=labels, event="indexed", detail="", took_s=0.0
        ), document
