"""All the objects of one process, as `build` makes them and as the routes and the workers use them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ragline.answer import Answers
from ragline.audit import Audit
from ragline.blobs import KeepingBlobs
from ragline.clock import Clock
from ragline.contents import Contents
from ragline.epochs import Epochs
from ragline.housekeeper import Housekeeper
from ragline.ingest import Ingest
from ragline.mending import Mending
from ragline.protocols import Embedder, KeywordIndex, VectorStore
from ragline.query import Search
from ragline.registry.claims import Claims
from ragline.registry.database import Database
from ragline.registry.documents import Documents
from ragline.registry.keys import Keys
from ragline.registry.namespaces import Namespaces
from ragline.registry.sources import Sources
from ragline.registry.upkeep import Upkeep
from ragline.settings import Settings
from ragline.snapshots import Snapshots
from ragline.workers import IngestWorker


@dataclass(frozen=True, slots=True)
class System:
    settings: Settings
    clock: Clock
    database: Database
    namespaces: Namespaces
    documents: Documents
    claims: Claims
    sources: Sources
    keys: Keys
    blobs: KeepingBlobs
    contents: Contents
    snapshots: Snapshots
    embedder: Embedder
    languages: frozenset[str] | None
    """That the embedder knows; None: all."""
    vectors: VectorStore
    keywords: KeywordIndex
    ingest: Ingest
    epochs: Epochs
    audit: Audit
    mending: Mending
    upkeep: Upkeep
    search: Search
    answers: Answers
    ingest_worker: IngestWorker
    housekeeper: Housekeeper
    closers: tuple[Callable[[], Awaitable[None]], ...]
    """What to close, in order, each once."""

    async def warm(self) -> None:
        """Open what the first search would else wait for, beyond its deadline: the serving collections, the model."""
        await self.embedder.embed(["ready"], purpose="query")
        for namespace in await self.namespaces.all():
            await self.vectors.contents(namespace.epoch.vectors)
            await self.keywords.contents(namespace.epoch.keywords)

    async def work(self) -> None:
        """Run the workers until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.ingest_worker.run())
            group.create_task(self.housekeeper.run())

    async def aclose(self) -> None:
        for close in self.closers:
            await close()
