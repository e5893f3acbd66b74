"""A system with a few documents whose job workers work when told, and a generator that says what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from ragline.answer import Answers
from ragline.jobs import Question
from ragline.protocols import Generator
from ragline.system import System
from ragline.types import Caller, Groups, Job, Prompt, QueueName, SearchRequest, Token, Usage
from tests.house import House

ANN = Caller("ann", "read", None, frozenset())
QUESTION = "How many days do customers have to return an unopened item?"
TEXTS = {
    "returns.md": "# Returns\n\nCustomers may return an unopened item within 30 days. A receipt is needed.",
    "shipping.md": "# Shipping\n\nOrders leave the warehouse on the next working day. Shipping costs 5 euros.",
}
ANSWER = ["Customers may return ", "an unopened item ", "within 30 days ", "[1]."]
LEASE_S = 600.0


class Scripted:
    """Says its pieces, each when `steps` lets it; counts how often it was asked, and how often it was left or came to its end."""

    name = "scripted"

    def __init__(self, pieces: Sequence[str] = ANSWER, *, steps: asyncio.Semaphore | None = None) -> None:
        self.pieces = list(pieces)
        self.steps = steps
        self.asked: list[Prompt] = []
        self.closed = 0
        self.said = asyncio.Event()

    async def generate(self, prompt: Prompt, *, max_tokens: int) -> AsyncGenerator[Token, None]:
        self.asked.append(prompt)
        try:
            for piece in self.pieces:
                if self.steps:
                    await self.steps.acquire()
                yield Token(piece)
                self.said.set()
            yield Token("", Usage(10, len(self.pieces)))
        finally:
            self.closed += 1

    async def aclose(self) -> None:
        return None


def says(system: System, *generators: Generator) -> None:
    """From now on jobs are answered by these."""
    system.jobs.answers = Answers(
        search=system.search,
        generators=generators,
        embedder=system.embedder,
        settings=system.settings.query,
        clock=system.clock,
    )


class JobHouse:
    def __init__(self, system: System) -> None:
        self.system = system
        self.store = system.jobs.store

    async def fill(self, *, groups: Groups = frozenset()) -> None:
        house = House(self.system)
        for uri, text in TEXTS.items():
            await house.accept(uri, text, groups=groups)
        await house.work()

    async def ask(self, query: str = QUESTION, *, caller: Caller = ANN, top_k: int = 8, **given: Any) -> Job:
        request = SearchRequest(query, "default", caller.groups, top_k=top_k)
        return (await self.system.jobs.accept(caller, Question(request, **given)))[0]

    async def claim(self, queue: QueueName) -> Job:
        (job,) = await self.store.claim(queue, most=1, lease_s=LEASE_S)
        return job

    async def retrieve(self) -> Job:
        """The next job gets its passages; as it stands then."""
        job = await self.claim("retrieval")
        await self.system.jobs.retrieve(job)
        return await self.store.get(job.id)

    async def generate(self) -> Job:
        job = await self.claim("generation")
        await self.system.jobs.generate(job)
        return await self.store.get(job.id)

    async def names(self, id: str) -> list[str]:
        return [event.name for event in await self.store.events(id, after=0, most=10_000)]
