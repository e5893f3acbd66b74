"""Which engines there are for each room: what a URL's scheme opens. One line an engine (docs/adding-an-engine.md).

Names only: `build` imports an adapter when a setting names it, so a process loads no client that it does not use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from ragline.errors import ConfigurationError, MissingDependency

GROUP = "ragline.engines"
"""Entry points of other packages: ``"vectors.mine" = "mine:MyVectorStore"`` opens ``vectors = "mine://…"``.
A scheme of the tables below is not theirs to take."""


@dataclass(frozen=True, slots=True)
class Engine:
    """opens: ``module:callable``, which is given the URL.   needs: packages that the `extra` brings."""

    name: str
    opens: str
    schemes: tuple[str, ...]
    extra: str
    needs: tuple[str, ...]

    @property
    def url(self) -> str:
        """As messages show it."""
        scheme = self.schemes[0]
        return f"{scheme}://…" if scheme == self.name.lower() else f"{scheme}://… ({self.name})"


_CLUSTER = ("elasticsearch", "elasticsearchs"), "elasticsearch", ("elasticsearch", "aiohttp")

VECTORS = (
    Engine("Elasticsearch", "ragline.vectors.elasticsearch:opened", *_CLUSTER),
    Engine("LanceDB", "ragline.vectors.lancedb:LanceDBVectorStore", ("lancedb",), "lancedb", ("lancedb", "pyarrow")),
    Engine("Milvus", "ragline.vectors.milvus:MilvusVectorStore", ("milvus", "milvuss"), "milvus", ("pymilvus",)),
    Engine("Pinecone", "ragline.vectors.pinecone:PineconeVectorStore", ("pinecone",), "pinecone", ("pinecone",)),
    Engine("pgvector", "ragline.vectors.pgvector:PgvectorVectorStore", ("postgresql",), "postgresql", ("asyncpg", "pgvector")),
)  # fmt: skip

KEYWORDS = (Engine("Elasticsearch", "ragline.keywords.elasticsearch:opened", *_CLUSTER),)

LOGS = (Engine("Kafka", "ragline.chunklogs.kafka:KafkaChunkLog", ("kafka",), "kafka", ("aiokafka",)),)

JOB_STORES = (
    Engine("PostgreSQL", "ragline.jobstores.sql:SqlJobStore", ("postgresql", "postgres"), "postgresql", ("asyncpg",)),
    Engine("Redis", "ragline.jobstores.redis:RedisJobStore", ("redis", "rediss"), "redis", ("redis",)),
)

CACHES = (Engine("Redis", "ragline.caches.redis:RedisCache", ("redis", "rediss"), "redis", ("redis",)),)

QUEUES = (
    Engine("Redis Streams", "ragline.queues.redis:RedisJobQueue", ("redis", "rediss"), "redis", ("redis",)),
    Engine("Amazon SQS", "ragline.queues.sqs:SqsJobQueue", ("sqs",), "sqs", ("aiobotocore",)),
    Engine(
        "Google Cloud Tasks", "ragline.queues.cloudtasks:CloudTasksJobQueue", ("cloudtasks",), "cloudtasks",
        ("google.cloud.tasks_v2",),
    ),
)  # fmt: skip

EDGES = (
    Engine("Varnish", "ragline.edges.varnish:VarnishEdge", ("varnish",), "", ()),
    Engine("Fastly", "ragline.edges.fastly:FastlyEdge", ("fastly",), "", ()),
    Engine("Cloudflare", "ragline.edges.cloudflare:CloudflareEdge", ("cloudflare",), "", ()),
)

POPULARITIES = (Engine("Redis", "ragline.popularity.redis:RedisPopularity", ("redis", "rediss"), "redis", ("redis",)),)


def opener(setting: str, engines: Sequence[Engine], url: str, *, else_: str) -> Callable[..., Any]:
    """What opens `url`, the value of `setting`. `else_`: what stands there when it is empty, for the message.

    Raises:  ConfigurationError: no engine has its scheme.  MissingDependency: the engine's package is not installed.
    """
    scheme = urlsplit(url).scheme
    found = next((engine for engine in engines if scheme in engine.schemes), None)
    others = [one for one in entry_points(group=GROUP) if one.name.startswith(f"{setting}.")]
    if found is None and (theirs := [one for one in others if one.name == f"{setting}.{scheme}"]):
        return _theirs(theirs, scheme)
    if found is None:
        known = [engine.url for engine in engines]
        known += sorted({f"{one.name.removeprefix(f'{setting}.')}://…" for one in others})
        words = " or ".join(filter(None, [", ".join(known[:-1]), known[-1]]))
        raise no_adapter(setting, scheme, f"use {words}, or leave it empty for {else_}")
    if not all(map(_is_here, found.needs)):
        packages = " and ".join(found.needs)
        raise MissingDependency(
            f"{setting}: {found.name} needs the package{'s' * (len(found.needs) > 1)} {packages}.",
            next_step=f"Run `pip install 'ragline[{found.extra}]'`.",
        )
    module, _, name = found.opens.partition(":")
    opens: Callable[..., Any] = getattr(import_module(module), name)
    return opens


def _is_here(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # not even the package that it stands in
        return False


def _theirs(found: Sequence[EntryPoint], scheme: str) -> Callable[..., Any]:
    """What another package opens. Raises ConfigurationError: it does not open, or two packages say that they do."""
    packages = sorted({one.dist.name for one in found if one.dist})
    if len({one.value for one in found}) > 1:
        raise ConfigurationError(
            f"Two packages open {scheme}://…: {' and '.join(packages)}.", next_step="Uninstall one of them."
        )
    try:
        opens: Callable[..., Any] = found[0].load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"{' and '.join(packages)} says that {found[0].value} opens {scheme}://…, but it does not load ({error}).",
            next_step="Install what it needs, or ask its makers.",
        ) from error
    return opens


def no_adapter(setting: str, scheme: str, instead: str) -> ConfigurationError:
    return ConfigurationError(
        f"{setting}: no adapter for the scheme {scheme!r} is part of this version.",
        next_step=f"Correct the setting: {instead}.",
    )
