"""A generate worker to be killed: `python -m bench.jobs.child DATABASE`. The job path as it is, over a model that speaks slowly.

It has no stores: what it answers from are passages that were retrieved before, and the guard asks the registry.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from typing import Any, cast

from ragline.answer import Answers
from ragline.background import Queries
from ragline.clock import SystemClock
from ragline.connections.database import Database
from ragline.job_workers import JobWorker
from ragline.jobs import Jobs
from ragline.jobstores.sql import SqlJobStore
from ragline.pressure import Pressure
from ragline.query import Search
from ragline.queues.memory import InProcessJobQueue
from ragline.registry.documents import Documents
from ragline.registry.guard import Guard
from ragline.registry.migrations import SCHEMA
from ragline.registry.namespaces import Namespaces
from ragline.settings import JobsSettings, QuerySettings
from ragline.snapshots import Snapshots
from ragline.types import Prompt, Token, Usage

PIECES = ["Customers may return an unopened item within 30 days [1]. "] * 40
"""What every answer says: 40 pieces of it, each after PAUSE_S."""

PAUSE_S = 0.05
LEASE_S = 1.5


class SlowModel:
    name = "slow"

    async def generate(self, prompt: Prompt, *, max_tokens: int) -> AsyncGenerator[Token, None]:
        for n, piece in enumerate(PIECES, start=1):
            await asyncio.sleep(PAUSE_S)
            yield Token(piece, Usage(prompt_tokens=100, completion_tokens=13 * n))

    async def aclose(self) -> None:
        return None


async def main(url: str) -> None:
    clock, nothing = SystemClock(), cast(Any, None)  # no store is searched here, no text embedded, no token counted
    registry = await Database.open(url, SCHEMA)
    namespaces, documents = Namespaces(registry, clock), Documents(registry, clock)
    guard = Guard(registry, clock, deadline_ms=60_000)
    search = Search(
        snapshots=Snapshots(namespaces, clock, guard.breaker), documents=documents, guard=guard, embedder=nothing,
        vectors=nothing, keywords=nothing, queries=Queries(), settings=QuerySettings(), clock=clock,
        pressure=Pressure(clock, target_ms=60_000),
    )  # fmt: skip
    answers = Answers(search=search, generators=[SlowModel()], embedder=nothing, settings=QuerySettings(), clock=clock)
    store, queue = await SqlJobStore.open(url, clock), InProcessJobQueue(clock)
    settings = JobsSettings(lease_s=LEASE_S, generations=2)
    jobs = Jobs(store=store, queue=queue, search=search, answers=answers, clock=clock, settings=settings)
    print("ready", flush=True)
    await JobWorker("generation", jobs=jobs, queue=queue, clock=clock, settings=settings).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
