"""Settings every test shares, and a house whose workers work when told."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

from ragline.build import build
from ragline.embedders.local import LocalEmbedder
from ragline.settings import IngestSettings, Settings
from ragline.system import System
from ragline.types import NamespaceSettings
from tests.engines.cloudtasks import cloudtasks as cloudtasks
from tests.engines.cloudtasks import cloudtasks_server as cloudtasks_server
from tests.engines.elasticmq import elasticmq as elasticmq
from tests.engines.elasticsearch import elasticsearch as elasticsearch
from tests.engines.kafka import kafka as kafka
from tests.engines.milvus import milvus as milvus
from tests.engines.milvus import own_milvus as own_milvus
from tests.engines.pinecone import pinecone_url as pinecone_url
from tests.engines.postgres import postgres as postgres
from tests.engines.ragline_embedder import embedder_url as embedder_url
from tests.engines.redis import own_redis as own_redis
from tests.engines.redis import redis as redis
from tests.engines.s3 import s3 as s3
from tests.engines.s3 import s3_server as s3_server
from tests.house import House
from tests.spread import Spread

# Whoever runs us in the background may have these ignored, and the commands under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A busy machine is no fault: nothing is left out because it takes long. Also of the processes that tests start.
os.environ |= {
    f"RAGLINE_QUERY__{name}_MS": "60000"
    for name in (
        "TARGET",
        "DEADLINE",
        "KEYWORD_DEADLINE",
        "DENSE_DEADLINE",
        "LEAST_DEADLINE",
        "GRACE",
        "GUARD_DEADLINE",
    )
}

# No test asserts on time, so neither does Hypothesis: a busy machine is not a failure.
settings.register_profile("ragline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ragline")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Spread:
    return Spread(config, log)


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A command that runs in this process says where log lines go, and from which level on."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEmbedder]:
    """The default embedder, loaded once. It may be called from any event loop, so every test can share it."""
    cache_dir = tmp_path_factory.mktemp("embedder")
    embedder = asyncio.run(LocalEmbedder.load("all-MiniLM-L6-v2", source="package", cache_dir=cache_dir))
    yield embedder
    asyncio.run(embedder.aclose())


@pytest.fixture(scope="module")
def ingest_settings() -> IngestSettings:
    """Of the `house`; a module that needs others has a fixture of this name."""
    return IngestSettings()


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory, ingest_settings: IngestSettings) -> AsyncIterator[System]:
    """The real engines on a folder of their own, one system for a module."""
    folder = tmp_path_factory.mktemp("data")
    system = await build(Settings(data_dir=folder, ingest=ingest_settings))
    yield system
    await system.aclose()


@pytest.fixture
async def house(system: System) -> House:
    """A namespace `default` without documents."""
    await system.namespaces.delete("default")
    await system.epochs.drop_retired()
    system.snapshots.forget("default")
    await system.epochs.create_namespace("default", NamespaceSettings())
    return House(system)
