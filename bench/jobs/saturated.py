"""The 95th percentile of retrieval while the queue `generation` is full and every place of the model is taken, beside idle.

The model is a server elsewhere, as large ones are: it holds its places without computing here. Both states take turns.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

from bench.figures import Figure, median
from ragline.answer import Answers
from ragline.build import build
from ragline.errors import Overloaded
from ragline.jobs import Question
from ragline.settings import CacheSettings, JobsSettings, Settings
from ragline.types import Caller, Prompt, SearchRequest, Token, Upload

QUERIES, ROUNDS, DOCUMENTS, WAITING = 150, 7, 300, 200
ANN = Caller("ann", "read", None, frozenset())


class FarModel:
    """Streams a token ten times a second, for ever."""

    name = "far"

    async def generate(self, prompt: Prompt, *, max_tokens: int) -> AsyncGenerator[Token, None]:
        while True:
            await asyncio.sleep(0.1)
            yield Token("word ")

    async def aclose(self) -> None:
        return None


async def run(folder: Path) -> list[Figure]:
    jobs = JobsSettings(max_waiting=WAITING, namespace_share=1.0, drain_s=0.0)
    system = await build(Settings(data_dir=folder, jobs=jobs, cache=CacheSettings(url="off")))
    try:
        namespace = await system.namespaces.get("default")
        for n in range(DOCUMENTS):
            text = f"Item {n} may be returned within {n} days. Heron number {n} wades through river {n}.".encode()
            await system.ingest.accept(namespace, Upload(f"{n}.txt", text))
        while claimed := await system.claims.claim(most=50, lease_s=3600.0):
            for document in claimed:
                await system.ingest.process(document)
        system.jobs.answers = Answers(
            search=system.search,
            generators=[FarModel()],
            embedder=system.embedder,
            settings=system.settings.query,
            clock=system.clock,
        )

        async def p95(turn: int) -> float:
            took = []
            for n in range(QUERIES):
                start = time.perf_counter()
                await system.search.search(SearchRequest(f"heron {turn} in river {n}", "default", frozenset()))
                took.append((time.perf_counter() - start) * 1000)
            return statistics.quantiles(took, n=20)[-1]

        await p95(-1)
        pairs, refused = [], 0
        for turn in range(ROUNDS):
            idle = await p95(2 * turn)
            working = asyncio.create_task(system.work(["retrieve", "generate"]))
            try:
                while (await system.jobs.store.lengths())["generation"] < WAITING:
                    with suppress(Overloaded):
                        question = Question(SearchRequest(f"item {turn}", "default", frozenset()))
                        await system.jobs.accept(ANN, question)
                        continue
                    await asyncio.sleep(0.05)
                try:
                    await system.jobs.accept(ANN, Question(SearchRequest("one more", "default", frozenset())))
                except Overloaded:
                    refused += 1
                busy = await p95(2 * turn + 1)
            finally:
                working.cancel()
                with suppress(asyncio.CancelledError):
                    await working
            pairs.append((idle, busy))
    finally:
        await system.aclose()
    return [
        Figure("retrieval p95, idle", median([idle for idle, _ in pairs]), "ms"),
        Figure("retrieval p95, generation saturated", median([busy for _, busy in pairs]), "ms"),
        Figure("saturated / idle", median([busy / idle for idle, busy in pairs]), at_most=1.1),
        Figure("429 while it was full, of rounds", refused, at_least=ROUNDS, note=f"{ROUNDS} rounds"),
    ]
