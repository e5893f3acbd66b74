"""PostgreSQL, Kafka, Milvus and Elasticsearch, started anew for a bench by the harness of the tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.engines import elasticsearch, kafka, milvus, postgres

ON_LOG = {"partitions": 6, "session_s": 6}
"""Options of the topics: a reader that was killed is not waited for long."""


@dataclass(frozen=True, slots=True)
class Servers:
    """By setting. `pids`: of each server's first process."""

    urls: Mapping[str, str]
    pids: Mapping[str, int]


@asynccontextmanager
async def servers(folder: Path, *, log_port: int = 0) -> AsyncIterator[Servers]:
    """All four, with their data in `folder`. `log_port`: which the broker tells its clients, of a proxy before it."""
    async with AsyncExitStack() as stack:
        database = stack.enter_context(postgres.server())
        broker = stack.enter_context(kafka.broker(_made(folder / "kafka"), advertised=log_port))
        node = elasticsearch.node(_made(folder / "elasticsearch"))
        standalone = milvus.standalone(_made(folder / "milvus"))
        for server in (node, standalone):
            stack.callback(server.stop)
            server.start()
        urls = {
            "registry": await database.database(), "vectors": standalone.url, "keywords": node.url(),
            "log": broker.url(**ON_LOG),
        }  # fmt: skip
        pids = {"registry": database.pid, "vectors": standalone.pid, "keywords": node.pid, "log": broker.pid}
        yield Servers(urls, pids)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
