"""Settings to objects: the only wiring. A vendor's module is imported only when a setting names it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import structlog

from ragline import engines
from ragline.answer import Answers
from ragline.audit import Audit
from ragline.background import Background, Queries
from ragline.batching import BatchingEmbedder
from ragline.blobs import KeepingBlobs, open_blobs
from ragline.cache_audit import CacheAudit
from ragline.cached_answers import CachedAnswers
from ragline.caching import CachedSearch, HotCache, pipeline
from ragline.clock import Clock, SystemClock
from ragline.cold_tier import ColdTier
from ragline.connections.database import Database, sqlite_url
from ragline.contents import Contents
from ragline.engines import no_adapter
from ragline.epochs import Epochs
from ragline.errors import ConfigurationError, Conflict, EngineError, EngineRejected, MissingDependency
from ragline.findings import Limits
from ragline.hot_tier import HotTier
from ragline.housekeeper import Housekeeper
from ragline.ingest import Ingest
from ragline.job_watching import JobWatching
from ragline.job_workers import JobUpkeep, JobWorker
from ragline.jobs import Jobs
from ragline.languages import known_to
from ragline.log_workers import DeadLetters, EmbedWorker, IndexWorker
from ragline.members import Members
from ragline.mending import Mending
from ragline.pressure import Pressure
from ragline.protocols import (
    Blobs,
    Cache,
    ChunkLog,
    Edge,
    Embedder,
    Generator,
    JobQueue,
    JobStore,
    KeywordIndex,
    Parser,
    Popularity,
    Reranker,
    VectorStore,
)
from ragline.purging import PurgeWorker
from ragline.query import Search
from ragline.recall import RecallWatch
from ragline.redrive import Redrive
from ragline.registry.claims import Claims
from ragline.registry.documents import Documents
from ragline.registry.edge_purges import EdgePurges
from ragline.registry.guard import Guard
from ragline.registry.keys import Keys
from ragline.registry.members import Members as MemberRows
from ragline.registry.migrations import SCHEMA
from ragline.registry.namespaces import Namespaces
from ragline.registry.sources import Sources
from ragline.registry.staleness import Staleness
from ragline.registry.upkeep import Upkeep
from ragline.remembering import RememberingEmbedder
from ragline.reranking import Reranking
from ragline.settings import GeneratorSettings, QuerySettings, RerankerSettings, Settings
from ragline.snapshots import KEEP_S, READ_S, Snapshots
from ragline.spending import Spending, prices
from ragline.stores import Stores
from ragline.system import System
from ragline.tracing import Tracer
from ragline.types import QUEUES, NamespaceSettings, Space
from ragline.webhooks.addresses import Addresses
from ragline.webhooks.sender import Sender
from ragline.webhooks.signing import Signing
from ragline.webhooks.worker import WebhookWorker
from ragline.workers import IngestWorker

log = structlog.get_logger()

DEFAULT_NAMESPACE = "default"
KEPT_S = KEEP_S + READ_S
"""The oldest snapshot that a query begins with while the registry answers."""

ASK_S = 5.0
"""How long a start waits for the first word of a store."""

ONE_DOMAIN = "while it is away no leg is left: no answer falls back to the other"


async def build(settings: Settings) -> System:
    """Everything of one process on the engines that `settings` name; whoever calls this holds the data folder.

    Raises:  ConfigurationError: a setting, a missing package, model or file.  EngineError: an engine does not answer.
    """
    clock = SystemClock()
    queries = Queries()
    closers: list[Callable[[], Awaitable[None]]] = []
    try:
        tracer = open_tracer(settings)
        if tracer:
            closers.append(tracer.aclose)
        database = await Database.open(
            settings.registry or sqlite_url(settings.data_dir.absolute() / "registry.sqlite"), SCHEMA, queries
        )
        closers.append(database.aclose)
        vectors = open_vectors(settings)
        closers.append(vectors.aclose)
        keywords = open_keywords(settings, beside=vectors)
        closers.append(keywords.aclose)
        await check_stores(settings, vectors, keywords)
        namespaces, documents = Namespaces(database, clock), Documents(database, clock)
        known = [namespace.epoch.space for namespace in await namespaces.all()]
        embedder = RememberingEmbedder(merged(await open_embedder(settings, queries, known), settings))
        closers.append(embedder.aclose)
        reranker = await open_reranker(settings.reranker)
        if reranker:
            closers.append(reranker.aclose)
        generators = [open_generator(one, embedder) for one in settings.generators]
        closers.extend(generator.aclose for generator in generators)
        names = (generator.name for generator in generators)
        spending = Spending(settings.metrics, prices(zip(names, settings.generators, strict=True)))
        parser = open_parser(settings)
        closers.append(parser.aclose)
        claims = Claims(database, clock)
        if not settings.registry:
            await claims.end_all_leases(but_on_log=bool(settings.log))
        background = Background(queries)
        closers.append(background.aclose)
        blobs = KeepingBlobs(open_blobs(settings.blobs or str(settings.data_dir.absolute() / "blobs"), background))
        closers.append(blobs.aclose)
        await check_blobs(settings, blobs)
        chunk_log = open_log(settings)
        if chunk_log:
            closers.append(chunk_log.aclose)
        contents = Contents(blobs)
        after = settings.query.leave_out_after
        guard = Guard(
            database,
            clock,
            deadline_ms=settings.query.guard_deadline_ms,
            least_ms=settings.query.least_deadline_ms,
            after=after,
        )
        snapshots = Snapshots(namespaces, clock, guard.breaker)
        member_rows = MemberRows(database, clock)
        members = Members(contents=contents, registry=member_rows, settings=settings.ingest)
        languages = known_to(embedder.space, settings.embedder.languages)
        stores = Stores(vectors, keywords)
        ingest = Ingest(
            snapshots=snapshots, documents=documents, claims=claims, contents=contents, members=members, parser=parser,
            embedder=embedder, stores=stores, background=background, settings=settings.ingest, clock=clock,
            languages=languages, log=chunk_log,
        )  # fmt: skip
        epochs = Epochs(
            namespaces=namespaces, documents=documents, contents=contents, ingest=ingest, stores=stores,
            vectors=vectors, keywords=keywords, snapshots=snapshots, space=embedder.space,
            drop_after_s=longest_query_s(settings.query),
        )  # fmt: skip
        upkeep = Upkeep(database, clock)
        staleness = Staleness(database, clock, stale_after_s=settings.ingest.stale_after_s)
        redrive = Redrive(
            staleness=staleness, documents=documents, claims=claims, clock=clock,
            cooldown_s=settings.ingest.redrive_cooldown_s,
        )  # fmt: skip
        may_stand = Limits(
            settings.ingest.received_deadline_s, settings.ingest.chunked_deadline_s, settings.ingest.sweep_deadline_s,
            settings.ingest.orphan_grace_s,
        )  # fmt: skip
        audit = Audit(
            namespaces=namespaces, upkeep=upkeep, contents=contents, vectors=vectors, keywords=keywords, clock=clock,
            limits=may_stand, own_stores=not (settings.vectors or settings.keywords),
        )  # fmt: skip
        mending = Mending(
            namespaces=namespaces, documents=documents, claims=claims, upkeep=upkeep, contents=contents,
            vectors=vectors, keywords=keywords, epochs=epochs, clock=clock, limits=may_stand,
        )  # fmt: skip
        pressure = Pressure(clock, target_ms=settings.query.target_ms)
        reranking = Reranking(reranker, settings.reranker, clock, after=after) if reranker else None
        recall = RecallWatch(vectors, share=settings.query.recall_share)
        closers.append(recall.aclose)
        query = Search(
            snapshots=snapshots, documents=documents, guard=guard, embedder=embedder, vectors=vectors,
            keywords=keywords, queries=queries, settings=settings.query, clock=clock, languages=languages,
            reranking=reranking, pressure=pressure, recall=recall,
        )  # fmt: skip
        tier = await open_hot_tier(settings, clock)
        cache_audit = None
        if tier:
            closers.append(tier.aclose)
            cache_audit = CacheAudit(search=query, documents=documents, share=settings.cache.audit_share)
            closers.append(cache_audit.aclose)
        hot = HotCache(tier=tier, guard=guard, queries=queries, audit=cache_audit, pipeline=pipeline(settings))
        search = CachedSearch(query, hot, snapshots)
        edge, popularity = open_edge(settings), open_popularity(settings, clock)
        closers.extend(one.aclose for one in (edge, popularity) if one is not None)
        purges = EdgePurges(database, clock)
        embed_worker, index_worker = None, None
        if chunk_log:
            dead_letters, attempts = DeadLetters(documents=documents, claims=claims), settings.ingest.max_attempts
            embed_worker = EmbedWorker(
                ingest=ingest, chunk_log=chunk_log, dead_letters=dead_letters, attempts=attempts, tracer=tracer
            )
            index_worker = IndexWorker(
                ingest=ingest, chunk_log=chunk_log, dead_letters=dead_letters, clock=clock, attempts=attempts,
                tracer=tracer,
            )  # fmt: skip
        answers = Answers(
            search=search, generators=generators, embedder=embedder, settings=settings.query, clock=clock,
            pressure=pressure, spending=spending,
        )  # fmt: skip
        breakers = [*(one.breaker for one in (guard, tier, reranking) if one), *answers.breakers]
        closers.extend(one.aclose for one in (*breakers, *(leg.breaker for leg in query.legs.values())))
        job_store = await open_job_store(settings, clock, queries)
        closers.append(job_store.aclose)
        job_queue = open_job_queue(settings, clock)
        closers.append(job_queue.aclose)
        await check_queue(job_queue)
        signing = Signing(settings)
        asked_for, sent_to = Addresses(settings.webhooks), Addresses(settings.webhooks)  # neither waits for the other
        closers.extend((asked_for.aclose, sent_to.aclose))
        sender = Sender(addresses=sent_to, signing=signing, clock=clock, settings=settings.webhooks)
        closers.append(sender.aclose)

        async def check_webhook(url: str) -> None:
            signing.must_be_possible()
            await asked_for.check(url)

        jobs = Jobs(
            store=job_store, queue=job_queue, search=search, answers=answers, clock=clock, settings=settings.jobs,
            check_webhook=check_webhook,
        )  # fmt: skip
        job_workers = {
            name: JobWorker(name, jobs=jobs, queue=job_queue, clock=clock, settings=settings.jobs, tracer=tracer)
            for name in QUEUES
        }
        job_watching = JobWatching(job_store)
        closers.append(job_watching.aclose)
        system = System(
            settings=settings, clock=clock, database=database, namespaces=namespaces, documents=documents,
            claims=claims, members=member_rows, sources=Sources(database, clock), blobs=blobs,
            keys=Keys(database, clock, guard.breaker),
            contents=contents,
            snapshots=snapshots, embedder=embedder, languages=languages, vectors=vectors, keywords=keywords, stores=stores,
            ingest=ingest,
            epochs=epochs, audit=audit, mending=mending, redrive=redrive, upkeep=upkeep, query=query, search=search,
            answers=CachedAnswers(answers, hot, snapshots), hot_tier=tier, cache_audit=cache_audit,
            ingest_worker=IngestWorker(
                ingest=ingest, claims=claims, database=database, clock=clock, limits=may_stand, settings=settings.ingest,
                tracer=tracer,
            ),
            log=chunk_log,
            embed_worker=embed_worker, index_worker=index_worker,
            housekeeper=Housekeeper(
                epochs=epochs, namespaces=namespaces, mending=mending, upkeep=upkeep, clock=clock,
                settings=settings.ingest, staleness=staleness,
            ),
            jobs=jobs, job_queue=job_queue, job_watching=job_watching, job_workers=job_workers,
            job_upkeep=JobUpkeep(jobs=jobs, workers=job_workers, clock=clock, settings=settings.jobs),
            webhook_worker=(
                WebhookWorker(outbox=job_store, sender=sender, settings=settings.webhooks) if signing.possible else None
            ),
            cold_tier=ColdTier(
                search=search, purges=purges, edge=edge, popularity=popularity, settings=settings.edge, clock=clock
            ),
            purge_worker=PurgeWorker(
                purges=purges, edge=edge, database=database, clock=clock, settings=settings.edge
            ),
            standings=(
                *(leg.standing for leg in query.legs.values()), guard.standing,
                *(breaker.standing for breaker in breakers if breaker is not guard.breaker),
            ),
            tracer=tracer, closers=tuple(reversed(closers)),
        )  # fmt: skip
        if settings.failpoint:
            from ragline import failpoints

            parts = {
                "vectors": vectors,
                "keywords": keywords,
                "upkeep": upkeep,
                "contents": contents,
                "claims": claims,
                "members": member_rows,
                "log": chunk_log,
            }
            failpoints.arm(settings.failpoint, parts | {"namespaces": namespaces, "documents": documents})
        if settings.faults:
            from ragline import faults

            fail = {
                "vectors": vectors,
                "keywords": keywords,
                "embedder": embedder,
                "reranker": reranker,
                "clock": clock,
                "guard": guard,
            }
            fail |= {"cache": tier.cache if tier else None, "registry": database, "jobs": job_store, "log": chunk_log}
            faults.arm(Path(settings.faults), fail)
        await epochs.check_model()
        if not any(namespace.name == DEFAULT_NAMESPACE for namespace in await namespaces.all()):
            with suppress(Conflict):  # processes that start together all make it; one is first
                await epochs.create_namespace(DEFAULT_NAMESPACE, NamespaceSettings())
    except BaseException:
        for close in reversed(closers):
            await close()
        raise
    return system


def open_tracer(settings: Settings) -> Tracer | None:
    """None: nothing is traced, and nothing of it is imported. Raises ConfigurationError, MissingDependency."""
    given = settings.traces
    if not given.url:
        return None
    try:
        from ragline.connections.otlp import OtlpRecorder
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise MissingDependency(
            "traces.url: traces need the packages of OpenTelemetry.", next_step="Run `pip install 'ragline[otel]'`."
        ) from error
    return Tracer(OtlpRecorder(given), ratio=given.sample_ratio, callers_per_s=given.callers_per_s)


def open_vectors(settings: Settings) -> VectorStore:
    if not settings.vectors:
        from ragline.vectors.faiss import FaissVectorStore

        return FaissVectorStore(settings.data_dir.absolute() / "vectors")
    opens = engines.opener("vectors", engines.VECTORS, settings.vectors, else_="the embedded store")
    return cast(VectorStore, opens(settings.vectors))


def open_keywords(settings: Settings, *, beside: VectorStore | None = None) -> KeywordIndex:
    """`beside`: the vector store of the same process, whose client serves both where both name one cluster."""
    if not settings.keywords:
        from ragline.keywords.tantivy import TantivyKeywordIndex

        return TantivyKeywordIndex(settings.data_dir.absolute() / "keywords")
    opens = engines.opener("keywords", engines.KEYWORDS, settings.keywords, else_="the embedded Tantivy")
    shares = {"server": getattr(beside, "server", None)} if _is_elasticsearch(settings.keywords) else {}
    return cast(KeywordIndex, opens(settings.keywords, **shares))


async def check_stores(settings: Settings, vectors: VectorStore, keywords: KeywordIndex) -> None:
    """What a store server has to say before anything is asked of it. Raises EngineRejected: it cannot serve.

    One that does not answer yet is waited for by whoever needs it: a process starts without its stores.
    """
    for setting, store in (("vectors", vectors), ("keywords", keywords)):
        if _is_elasticsearch(getattr(settings, setting)):
            await _asked(setting, store.collections)
    if shared_hosts(settings):
        log.warning("one failure domain", vectors_and_keywords=shared_hosts(settings), consequence=ONE_DOMAIN)


async def check_blobs(settings: Settings, blobs: Blobs) -> None:
    """The same of the blob store. Raises EngineRejected: no such bucket, wrong credentials."""
    if "://" in settings.blobs:
        await _asked("blobs", blobs.folders)


async def _asked(setting: str, ask: Callable[[], Awaitable[object]]) -> None:
    try:
        async with asyncio.timeout(ASK_S):
            await ask()
    except EngineRejected:
        raise
    except EngineError as error:
        log.warning("store does not answer yet", setting=setting, error=error.message)
    except TimeoutError:
        log.warning("store does not answer yet", setting=setting, waited_s=ASK_S)


def _is_elasticsearch(url: str) -> bool:
    return urlsplit(url).scheme in ("elasticsearch", "elasticsearchs")


def shared_hosts(settings: Settings) -> str:
    """The hosts that `vectors` and `keywords` have in common, without user and password; empty: none."""
    hosts = [set(urlsplit(url).netloc.rpartition("@")[2].split(",")) for url in (settings.vectors, settings.keywords)]
    return ",".join(sorted(hosts[0] & hosts[1] - {""}))


def open_cache(settings: Settings, clock: Clock) -> Cache | None:
    """None: there is none. Raises ConfigurationError: a scheme nobody knows; or one process's cache where several may share."""
    url = settings.cache.url or ("memory://" if settings.embedded else "off")
    if url == "off":
        return None
    if url == "memory://":
        if not settings.embedded:
            raise ConfigurationError(
                "cache.url: memory:// is a cache of one process, and several may share these engines: each would keep, clear and "
                "forget for itself alone.",
                next_step="Set cache.url to redis://HOST:6379, or to off.",
            )
        from ragline.caches.memory import MemoryCache

        return MemoryCache(clock, entries=settings.cache.entries, max_bytes=settings.cache.max_bytes)
    opens = engines.opener("cache.url", engines.CACHES, url, else_="memory:// or none")
    return cast(Cache, opens(url, entries=settings.cache.entries))


async def open_hot_tier(settings: Settings, clock: Clock) -> HotTier | None:
    """A cache that is away is left out until it is back: a process starts without it. Raises ConfigurationError."""
    cache = open_cache(settings, clock)
    if cache is None:
        if not settings.cache.url:
            log.info("no cache: processes that share servers need one that they share", setting="cache.url")
        return None
    try:
        await cache.check()
    except EngineRejected as error:
        await cache.aclose()
        raise ConfigurationError(f"cache.url: {error.message}", next_step=error.next_step) from error
    except EngineError as error:
        log.warning("cache does not answer yet", setting="cache.url", error=error.message)
    except BaseException:
        await cache.aclose()
        raise
    after = settings.query.leave_out_after
    at_once = cache.name == "memory" and not settings.faults  # a fault may let it hang, which it cannot by itself
    return HotTier(cache, settings.cache, clock, in_process=at_once, after=after)


def open_log(settings: Settings) -> ChunkLog | None:
    if not settings.log:
        return None
    opens = engines.opener("log", engines.LOGS, settings.log, else_="none")
    return cast(ChunkLog, opens(settings.log, tombstones_s=settings.ingest.tombstone_retention_s))


async def open_job_store(settings: Settings, clock: Clock, queries: Queries | None = None) -> JobStore:
    url = settings.jobs_url or sqlite_url(settings.data_dir.absolute() / "jobs.sqlite")
    if not url.startswith("sqlite:"):
        adapter: Any = engines.opener("jobs.url", engines.JOB_STORES, url, else_="SQLite in the data folder")
        if _is_redis(url):
            return cast(JobStore, await adapter.open(url, vouched=settings.jobs.redis_vouched))
    from ragline.jobstores.sql import SqlJobStore

    return await SqlJobStore.open(url, clock, queries)


def _is_redis(url: str) -> bool:
    return urlsplit(url).scheme in ("redis", "rediss")


def open_job_queue(settings: Settings, clock: Clock) -> JobQueue:
    """Without a setting: Redis, where the jobs are in one; else in this process. There a word reaches the workers of this process
    alone, and those of others find a job when they look, once a second: enough for PostgreSQL, which needs no second server then.
    """
    url = settings.jobs.queue or (settings.jobs_url if _is_redis(settings.jobs_url) else "")
    if not url:
        from ragline.queues.memory import InProcessJobQueue

        return InProcessJobQueue(clock)
    opens = engines.opener("jobs.queue", engines.QUEUES, url, else_="the one in this process")
    return cast(JobQueue, opens(url))


async def check_queue(queue: JobQueue) -> None:
    """The same of the job queue. Raises EngineRejected, ConfigurationError: no such queue, wrong credentials."""
    try:
        await queue.check()
    except EngineRejected:
        raise
    except EngineError as error:
        log.warning("queue does not answer yet", setting="jobs.queue", error=error.message)


def open_edge(settings: Settings) -> Edge | None:
    given = settings.edge
    if not given.url:
        return None
    opens = engines.opener("edge.url", engines.EDGES, given.url, else_="none")
    return cast(Edge, opens(given.url, token=given.token, timeout_s=given.timeout_s))


def open_popularity(settings: Settings, clock: Clock) -> Popularity:
    url = settings.edge.popularity
    if not url:
        from ragline.popularity.memory import MemoryPopularity

        return MemoryPopularity(clock)
    opens = engines.opener("edge.popularity", engines.POPULARITIES, url, else_="counts of this process")
    return cast(Popularity, opens(url, clock=clock))


def longest_query_s(query: QuerySettings) -> float:
    """How long after a cut-over somebody may still read the old collections: whoever took the old snapshot at the last moment
    that it is kept, and then takes all the time that a search has."""
    waiting = max(query.deadline_ms, query.keyword_deadline_ms, query.dense_deadline_ms)
    return KEPT_S + (query.deadline_ms + waiting) / 1000


async def open_embedder(settings: Settings, queries: Queries | None = None, known: Collection[Space] = ()) -> Embedder:
    """`known`: spaces that serve; one of them stands for a server that is away."""
    chosen = settings.embedder
    url = urlsplit(chosen.url)
    if url.scheme == "local":
        from ragline.embedders.local import LocalEmbedder

        cache_dir = settings.cache_dir or Path.home() / ".cache" / "ragline"
        return await LocalEmbedder.load(
            url.netloc, source=chosen.source, cache_dir=cache_dir, threads=chosen.threads, queries=queries
        )
    if url.scheme in ("http", "https"):
        from ragline.embedders.openai import OpenAIEmbedder

        return await OpenAIEmbedder.connect(chosen, known=known)
    raise no_adapter("embedder.url", url.scheme, "use local://MODEL or http(s)://HOST/v1")


def merged(embedder: Embedder, settings: Settings) -> Embedder:
    """Queries of all callers in one model call. A server merges them itself, and one slow answer must not hold them all."""
    return BatchingEmbedder(embedder) if urlsplit(settings.embedder.url).scheme == "local" else embedder


async def open_reranker(settings: RerankerSettings) -> Reranker | None:
    scheme = urlsplit(settings.url).scheme
    if not settings.url:
        return None
    if scheme == "local":
        from ragline.rerankers.local import LocalReranker

        return await LocalReranker.load(settings)
    dialect, _, transport = scheme.partition("+")
    if dialect in ("cohere", "jina", "tei") and transport in ("http", "https"):
        from ragline.rerankers.http import HttpReranker

        return HttpReranker(settings)
    raise no_adapter("reranker.url", scheme, "use local:///folder, cohere+https://…, jina+https://… or tei+http://…")


def open_generator(settings: GeneratorSettings, embedder: Embedder) -> Generator:
    url = urlsplit(settings.url)
    match url.scheme:
        case "extractive":
            from ragline.generators.extractive import ExtractiveGenerator

            return ExtractiveGenerator(embedder)
        case "gguf":
            from ragline.generators.gguf import GgufGenerator

            return GgufGenerator(settings)
        case "http" | "https":
            from ragline.generators.openai import OpenAIGenerator

            return OpenAIGenerator(settings)
        case "anthropic+http" | "anthropic+https":
            from ragline.generators.anthropic import AnthropicGenerator

            return AnthropicGenerator(settings)
    raise no_adapter("generators.url", url.scheme, "use extractive://, gguf://…, http(s)://… or anthropic+https://…")


def open_parser(settings: Settings) -> Parser:
    from ragline.parsing.limits import Limits, Tools
    from ragline.parsing.pool import ParserPool

    given = settings.ingest
    limits = Limits(
        memory_bytes=given.parse_memory_bytes, max_text_chars=given.max_text_chars, max_members=given.max_members,
        max_members_bytes=given.max_members_bytes, max_member_bytes=given.max_document_bytes,
        tools=Tools(
            ocr=given.ocr, ocr_languages=given.ocr_languages, office=given.office, timeout_s=given.tool_timeout_s,
            memory_bytes=given.tool_memory_bytes,
        ),
    )  # fmt: skip
    # The pool empties it: processes that share no folder must not share this one either.
    scratch = settings.data_dir.absolute() / "scratch" if settings.embedded else None
    return ParserPool(processes=given.parse_processes, timeout_s=given.parse_timeout_s, limits=limits, scratch=scratch)
