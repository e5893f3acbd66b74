"""All the objects of one process, as `build` makes them and as the routes and the workers use them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import structlog

from ragline.audit import Audit
from ragline.blobs import KeepingBlobs
from ragline.breaker import Standing
from ragline.cache_audit import CacheAudit
from ragline.cached_answers import CachedAnswers
from ragline.caching import CachedSearch
from ragline.clock import Clock
from ragline.cold_tier import ColdTier
from ragline.connections.database import Database
from ragline.contents import Contents
from ragline.epochs import Epochs
from ragline.errors import EngineError
from ragline.hot_tier import HotTier
from ragline.housekeeper import Housekeeper
from ragline.ingest import Ingest
from ragline.job_watching import JobWatching
from ragline.job_workers import JobUpkeep, JobWorker
from ragline.jobs import Jobs
from ragline.log_workers import EmbedWorker, IndexWorker
from ragline.mending import Mending
from ragline.protocols import ChunkLog, Embedder, JobQueue, KeywordIndex, VectorStore
from ragline.purging import PurgeWorker
from ragline.query import Search
from ragline.redrive import Redrive
from ragline.registry.claims import Claims
from ragline.registry.documents import Documents
from ragline.registry.keys import Keys
from ragline.registry.members import Members
from ragline.registry.namespaces import Namespaces
from ragline.registry.sources import Sources
from ragline.registry.upkeep import Upkeep
from ragline.settings import Settings
from ragline.snapshots import Snapshots
from ragline.stores import Stores
from ragline.tracing import Tracer
from ragline.types import Epoch, QueueName, Scope
from ragline.webhooks.worker import WebhookWorker
from ragline.workers import IngestWorker

log = structlog.get_logger()

WorkerRole: TypeAlias = Literal["parse", "embed", "index", "retrieve", "generate", "webhooks"]
"""What a worker does. `parse` is whatever is due in the registry: parsing, new words, sweeping, housekeeping; and without a
chunk log all of ingest. `retrieve` and `generate` work on one queue of jobs each; `webhooks` tells of their ends."""

WARM_S, OPEN_S = 30.0, 12.0
"""Longest that a start waits for its engines before it answers, and for one collection: opening a million vectors takes 8 s."""

WORKER_ROLES: tuple[WorkerRole, ...] = ("parse", "embed", "index", "retrieve", "generate", "webhooks")

JOB_ROLES: Mapping[WorkerRole, QueueName] = {"retrieve": "retrieval", "generate": "generation"}


@dataclass(frozen=True, slots=True)
class System:
    settings: Settings
    clock: Clock
    database: Database
    namespaces: Namespaces
    documents: Documents
    claims: Claims
    members: Members
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
    stores: Stores
    ingest: Ingest
    epochs: Epochs
    audit: Audit
    mending: Mending
    redrive: Redrive
    upkeep: Upkeep
    query: Search
    """The query path itself; `search` stands around it."""
    search: CachedSearch
    answers: CachedAnswers
    hot_tier: HotTier | None
    """None: there is no cache, and `cache_audit` is none either."""
    cache_audit: CacheAudit | None
    ingest_worker: IngestWorker
    log: ChunkLog | None
    """None: there is none, and the two that follow are none either."""
    embed_worker: EmbedWorker | None
    index_worker: IndexWorker | None
    housekeeper: Housekeeper
    jobs: Jobs
    job_queue: JobQueue
    job_watching: JobWatching
    job_workers: Mapping[QueueName, JobWorker]
    job_upkeep: JobUpkeep
    webhook_worker: WebhookWorker | None
    """None: there is no secret to sign with, so no job with a webhook is accepted either."""
    cold_tier: ColdTier
    purge_worker: PurgeWorker
    standings: tuple[Callable[[], Standing], ...]
    """What this process knows of each engine that queries depend on."""
    tracer: Tracer | None
    """None: nothing is traced."""
    closers: tuple[Callable[[], Awaitable[None]], ...]
    """What to close, in order, each once."""

    async def warm(self) -> None:
        """Open what the first search would else wait for, beyond its deadline: the model, the serving collections. What
        is away is left to the searches, which go on without its leg; and so is what takes too long."""
        try:
            async with asyncio.timeout(WARM_S):
                await self._warm()
        except TimeoutError:
            log.warning("not every collection is open yet", waited_s=WARM_S)

    async def _warm(self) -> None:
        epochs = {namespace.name: namespace.epoch for namespace in await self.namespaces.all()}

        async def keyword(epoch: Epoch) -> None:
            await self.keywords.search(epoch.keywords, "ready", top_k=1, scope=Scope())

        async def dense(epoch: Epoch) -> None:
            (vector,) = await self.embedder.embed(["ready"], purpose="query")
            if epoch.space == self.embedder.space:
                await self.vectors.search(epoch.vectors, vector, top_k=1, scope=Scope())

        await asyncio.gather(_opened("keyword", keyword, epochs), _opened("dense", dense, epochs))

    async def work(self, roles: Collection[WorkerRole] = WORKER_ROLES) -> None:
        """Run the workers until cancelled; then what they hold is finished or given back."""
        async with asyncio.TaskGroup() as group:
            if "parse" in roles:
                group.create_task(self.ingest_worker.run())
                group.create_task(self.housekeeper.run())
                group.create_task(self.purge_worker.run())
            if self.embed_worker and "embed" in roles:
                group.create_task(self.embed_worker.run())
            if self.index_worker and "index" in roles:
                group.create_task(self.index_worker.run())
            for role, queue in JOB_ROLES.items():
                if role in roles:
                    group.create_task(self.job_workers[queue].run())
            if self.webhook_worker and "webhooks" in roles:
                group.create_task(self.webhook_worker.run())
            if not JOB_ROLES.keys().isdisjoint(roles):
                group.create_task(self.job_upkeep.run())

    async def aclose(self) -> None:
        for close in self.closers:
            await close()


async def _opened(leg: str, ask: Callable[[Epoch], Awaitable[None]], epochs: Mapping[str, Epoch]) -> None:
    """By namespace, one after the other; a leg that is away, or silent, is asked once."""
    for namespace, epoch in epochs.items():
        try:
            async with asyncio.timeout(OPEN_S):
                await ask(epoch)
        except EngineError as error:
            log.warning("a leg does not answer yet", leg=leg, namespace=namespace, error=error.message)
            return
        except TimeoutError:
            log.warning("a leg does not answer yet", leg=leg, namespace=namespace, waited_s=OPEN_S)
            return
