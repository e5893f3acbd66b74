"""From passages to a checked answer.

    search ─▶ pack ─▶ prompt ─▶ generate ─▶ check citations ─▶ does it hold? ─▶ answer

Generators are tried in the order of the settings; one that limits its requests is waited for, within a bound. When one
fails, or its answer does not hold to its passages, the next one is asked, and in the end the extractive one answers:
sentences of the passages, cited, or an honest refusal. `degraded` says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import dataclass, replace
from typing import TypeAlias

import structlog

from ragline import metrics, tracing
from ragline.breaker import Breaker, blames
from ragline.citations import CitationStream, holds, is_refusal
from ragline.clock import Clock
from ragline.errors import EngineError, Overloaded
from ragline.generators.extractive import ExtractiveGenerator
from ragline.pressure import Pressure
from ragline.prompting import build_prompt, pack
from ragline.protocols import Embedder, Generator, Searcher
from ragline.settings import MetricsSettings, QuerySettings
from ragline.spending import Kind, Spending
from ragline.types import Answer, Passage, Prompt, Retrieved, SearchRequest, Usage

log = structlog.get_logger()


PROBE_EVERY_S, PROBE_WITHIN_S = 5.0, 30.0
"""Of a generator that is left out: tokens cost money, and the first one takes a while."""

LEAST_WAIT_S = 0.1
"""Between two tries, whatever Retry-After says: one that says 0 and means it not is asked a few times only."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of the answer, to be shown behind what was shown before."""

    text: str


@dataclass(frozen=True, slots=True)
class Restarted:
    """What was shown so far does not count; another generator begins anew."""

    reason: str


Event: TypeAlias = Retrieved | Piece | Restarted | Answer
"""In this order: Retrieved once, Piece and Restarted in between, Answer once and last."""


class Answers:
    def __init__(
        self, *, search: Searcher, generators: Sequence[Generator], embedder: Embedder, settings: QuerySettings,
        clock: Clock, pressure: Pressure | None = None, spending: Spending | None = None,
    ) -> None:  # fmt: skip
        """`spending`: None: by a count of its own, without prices."""
        self._search = search
        self._embedder = embedder
        self._settings = settings
        self._pressure = pressure
        self._spending = spending or Spending(MetricsSettings(), {})
        self._extractive = ExtractiveGenerator(embedder)
        self._generators = [*generators]
        if not any(isinstance(generator, ExtractiveGenerator) for generator in generators):
            self._generators.append(self._extractive)
        self.breakers = [
            Breaker(
                f"generator:{one.name}", clock, called=f"The generator {one.name}", after=settings.leave_out_after,
                probe_every_s=PROBE_EVERY_S, probe_within_s=PROBE_WITHIN_S,
            )
            for one in self._generators
        ]  # fmt: skip

    async def answer(self, request: SearchRequest) -> Answer:
        """The answer, whole. Raises as `Search.search` does; a generator's failure is not an error here."""
        async with aclosing(self.stream(request)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    return event
        raise AssertionError("a stream ends with its answer")

    async def stream(self, request: SearchRequest) -> AsyncGenerator[Event, None]:
        """The answer as it comes about. A consumer that leaves stops the generation."""
        start = time.perf_counter()
        found = await self.passages(request)
        yield found
        async with aclosing(self.from_passages(request, found, start=start)) as events:
            async for event in events:
                yield event

    async def passages(self, request: SearchRequest) -> Retrieved:
        """The first half: what an answer is to be made from, packed. Raises as `Search.search` does."""
        found = await self._search.search(request)
        packed = await asyncio.to_thread(
            pack, found.passages, self._count_tokens, budget_tokens=self._settings.context_tokens
        )
        return replace(found, passages=packed)

    async def from_passages(
        self, request: SearchRequest, found: Retrieved, *, start: float | None = None
    ) -> AsyncGenerator[Piece | Restarted | Answer, None]:
        """The second half, maybe in another process and much later. `start`: when the question was asked, by this process's
        `perf_counter`; None: the passages have waited, and the time is counted from now.

        Raises:  EngineError: the last generator failed.  Overloaded: too much is under way.
        """
        start = time.perf_counter() if start is None else start
        prompt = build_prompt(request.query, found.passages)
        degraded: list[str] = []
        patience_s = self._settings.generator_patience_ms / 1000
        for generator, breaker in zip(self._generators, self.breakers, strict=True):
            last = generator is self._generators[-1]
            if not last and (why := self._passed_over(breaker)):
                degraded.append(self._left_out(generator, why))
                continue
            while True:
                attempt = _Attempt(generator, prompt, self._settings.answer_tokens, start)
                with self._place(generator):
                    async with aclosing(attempt.pieces()) as pieces:
                        try:
                            async for piece in pieces:
                                yield Piece(piece)
                        finally:
                            self._count(attempt, request.namespace)
                attempt.tell(breaker)
                wait_s = attempt.asks_to_wait_s()
                if wait_s is None or wait_s > patience_s:
                    break
                patience_s -= wait_s
                await asyncio.sleep(wait_s)
            if not attempt.failed and (last or attempt.stands()):
                yield attempt.answer(found, degraded, start)
                return
            degraded.append(self._left_out(generator, attempt.failed))
            if attempt.text:
                yield Restarted(attempt.failed or "ungrounded")
        raise attempt.error or AssertionError("the last generator either answers or raises")

    def _count(self, attempt: _Attempt, namespace: str) -> None:
        """What the attempt has cost, however it ended. Sentences that are taken from the passages are no tokens of a model; and
        one that has said nothing, neither text nor usage, is taken for one that did no work."""
        name = attempt.generator.name
        if isinstance(attempt.generator, ExtractiveGenerator):
            return
        sent = (attempt.prompt.system, attempt.prompt.user)
        told: tuple[tuple[Kind, int, tuple[str, ...]], ...] = (
            ("prompt", attempt.usage.prompt_tokens, sent),
            ("completion", attempt.usage.completion_tokens, tuple(attempt.received)),
        )
        for kind, reported, texts in told:
            if reported > 0:
                self._spending.count(namespace, name, kind, reported, "reported")
            elif attempt.received:
                self._spending.count(namespace, name, kind, self._count_tokens("".join(texts)), "estimated")

    def _place(self, generator: Generator) -> AbstractContextManager[None]:
        """The extractive one costs this process more than a search does: it takes a place as one. Others are waited for."""
        if self._pressure is None or not isinstance(generator, ExtractiveGenerator):
            return nullcontext()
        return self._pressure.place(waits=True)

    def _passed_over(self, breaker: Breaker) -> str:
        """Why this generator is not asked; empty: it is. The last one always is: it takes words from the passages."""
        if breaker.is_open:
            return breaker.standing().last_error
        return "overload" if self._pressure and self._pressure.sheds("generator") else ""

    def _left_out(self, generator: Generator, failed: str) -> str:
        """How `degraded` says it. `failed`: why; empty: its answer does not hold to the passages."""
        log.warning("generator left out", generator=generator.name, reason=failed or "ungrounded")
        metrics.degraded_total.labels("generator" if failed else "ungrounded").inc()
        return f"generator:{generator.name}" if failed else "ungrounded"

    def _count_tokens(self, text: str) -> int:
        return len(self._embedder.token_spans(text))


class _Attempt:
    """One generator's try at an answer, its citations checked while it streams."""

    def __init__(self, generator: Generator, prompt: Prompt, max_tokens: int, asked_at: float) -> None:
        self.generator = generator
        self.prompt = prompt
        self._max_tokens = max_tokens
        self._asked_at = asked_at
        self._citations = CitationStream([passage.n for passage in prompt.passages])
        self.usage = Usage()
        self.received: list[str] = []
        self.text = ""
        self.failed = ""
        self.error: EngineError | Overloaded | None = None
        self.took_s = 0.0

    async def pieces(self) -> AsyncGenerator[str, None]:
        """What may be shown. Ends early, with `failed` set, when the generator fails."""
        name = self.generator.name
        start = time.perf_counter()
        span = tracing.child("generate")
        span.note({"ragline.generator": name})
        asked = self.generator.generate(self.prompt, max_tokens=self._max_tokens)
        try:
            async with aclosing(asked), aclosing(tracing.within(span, asked)) as tokens:
                async for token in tokens:
                    self.usage = token.usage or self.usage
                    if token.text:
                        self.received.append(token.text)
                    if shown := self._show(self._citations.feed(token.text)):
                        yield shown
            if shown := self._show(self._citations.finish()):
                yield shown
        except (EngineError, Overloaded) as error:
            self.failed, self.error = str(error), error
        finally:
            span.end(self.error)
        self.took_s = time.perf_counter() - start
        metrics.generation_latency_ms.labels(name).observe(self.took_s * 1000)
        metrics.citations_removed_total.inc(self._citations.removed)

    def tell(self, breaker: Breaker) -> None:
        if self.error is None:
            breaker.came_through(self.took_s)
        elif blames(self.error):
            breaker.failed(self.error, self._probe)

    async def _probe(self) -> None:
        """One token for nobody; of a generator that broke off in its answer the same answer, and a token more than came: one that
        hangs in the middle has no trouble with the first."""
        prompt = self.prompt if self.received else build_prompt("Are you there?", ())
        async with aclosing(self.generator.generate(prompt, max_tokens=len(self.received) + 1)) as tokens:
            async for _ in tokens:
                if not self.received:
                    return

    def asks_to_wait_s(self) -> float | None:
        """Of a generator that limits its requests and has said nothing yet: for how long."""
        if not isinstance(self.error, Overloaded) or self.text:
            return None
        return max(self.error.retry_after_s, LEAST_WAIT_S)

    def stands(self) -> bool:
        """A refusal stands, and so does an answer that cites and holds to what it cites."""
        passages: Sequence[Passage] = self.prompt.passages
        return is_refusal(self.text) or (bool(self._citations.citations) and holds(self.text, passages))

    def answer(self, found: Retrieved, degraded: Sequence[str], start: float) -> Answer:
        grounded = bool(self._citations.citations) and not is_refusal(self.text)
        total = round((time.perf_counter() - start) * 1000, 3)
        timings = {**found.timings_ms, "retrieval": found.timings_ms.get("total", 0.0), "total": total}
        return Answer(
            text=self.text.strip(), citations=self._citations.citations, retrieved=found, grounded=grounded,
            generator=self.generator.name, degraded=(*found.degraded, *degraded), usage=self.usage,
            timings_ms=timings,
        )  # fmt: skip

    def _show(self, piece: str) -> str:
        if piece and not self.text:
            metrics.time_to_first_token_ms.labels(self.generator.name).observe(
                (time.perf_counter() - self._asked_at) * 1000
            )
        self.text += piece
        return piece
