"""Answers from the hot cache, while the passages that they stand on still hold; else made, and kept.

A stream that is answered from the cache has the same events: passages, the text in one piece, the answer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from ragline import tracing
from ragline.answer import Answers, Event, Piece
from ragline.caching import HotCache
from ragline.singleflight import SingleFlight
from ragline.snapshots import Snapshots
from ragline.types import Answer, Namespace, SearchRequest


class CachedAnswers:
    """`Answers` around another. Identical questions that wait together for a whole answer get one."""

    def __init__(self, answers: Answers, hot: HotCache, snapshots: Snapshots) -> None:
        self._answers = answers
        self._hot = hot
        self._snapshots = snapshots
        self._flights: SingleFlight[Answer] = SingleFlight()

    async def answer(self, request: SearchRequest) -> Answer:
        """Raises as `Answers.answer` does."""
        namespace = await self._snapshots.get(request.namespace)
        key = self._hot.key("answer", namespace, request)
        own = False

        async def work() -> Answer:
            nonlocal own
            own = True
            return await self._whole(namespace, key, request)

        answer = await self._flights.run((key, request.min_sequence), work)
        if own or await self._hot.holds_now(namespace, answer.retrieved, request.groups):
            return answer
        return await self._whole(namespace, key, request)

    async def stream(self, request: SearchRequest) -> AsyncGenerator[Event, None]:
        """Raises as `Answers.stream` does. A consumer that leaves stops the generation."""
        namespace = await self._snapshots.get(request.namespace)
        key = self._hot.key("answer", namespace, request)
        async with aclosing(self._events(namespace, key, request)) as events:
            async for event in events:
                yield event

    async def _whole(self, namespace: Namespace, key: str, request: SearchRequest) -> Answer:
        async with aclosing(self._events(namespace, key, request)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    return event
        raise AssertionError("a stream ends with its answer")

    async def _events(self, namespace: Namespace, key: str, request: SearchRequest) -> AsyncGenerator[Event, None]:
        if (kept := await self._hot.answer(namespace, key, request)) is not None:
            tracing.note(_about(kept))
            yield kept.retrieved
            if kept.text:
                yield Piece(kept.text)
            yield kept
            return
        async with aclosing(self._answers.stream(request)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    self._hot.keep_answer(namespace, key, request, event)
                    tracing.note(_about(event))
                yield event


def _about(answer: Answer) -> dict[str, tracing.Value]:
    return {
        "ragline.generator": answer.generator, "ragline.cached": answer.cached, "ragline.degraded": answer.degraded,
        "ragline.grounded": answer.grounded,
    }  # fmt: skip
