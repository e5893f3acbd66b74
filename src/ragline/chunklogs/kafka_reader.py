"""One reader of a group: what it was given, what of that is done, and the offsets that may be committed for it.

Only the offset below which everything is done is ever committed, and only for partitions that are still ours: so a crash,
or a partition that goes to another reader, costs a second delivery, never a first one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka import errors as kafka_errors

from ragline.chunklogs.kafka_connection import translated, translating
from ragline.chunklogs.messages import Undecodable, decoded, encoded
from ragline.types import ChunkMessage, Delivery, Topic

log = structlog.get_logger()

Bury = Callable[[Sequence[tuple[bytes | None, bytes, str]], str], Awaitable[None]]


@dataclass(slots=True)
class _Hold:
    """A partition while it is ours. `open`: offsets that were read and are not done, in order."""

    number: int
    place: TopicPartition
    open: dict[int, None] = field(default_factory=dict)
    seen: int = -1
    committed: int = -1

    @property
    def upto(self) -> int:
        """Everything below it is done."""
        return next(iter(self.open), self.seen + 1)

    @property
    def name(self) -> str:
        return f"{self.place.topic}/{self.place.partition}"


class KafkaChunkReader(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    def __init__(
        self, consumer: AIOKafkaConsumer, topic: Topic, *, fresh: str, bulk: str, bury: Bury, timeout_s: float
    ) -> None:
        self._consumer = consumer
        self._topic = topic
        self._fresh = fresh
        self._bury = bury
        self._timeout_s = timeout_s
        self._holds: dict[int, _Hold] = {}
        self._numbers = 0
        self._backlog: deque[tuple[_Hold, Any]] = deque()
        self._committing = asyncio.Lock()
        self._closed = False
        consumer.subscribe([fresh, bulk], listener=self)

    @property
    def holds(self) -> frozenset[int]:
        return frozenset(self._holds)

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self._holds = {number: hold for number, hold in self._holds.items() if hold.place not in revoked}

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        for place in sorted(assigned):
            self._numbers += 1
            self._holds[self._numbers] = _Hold(self._numbers, place)

    async def read(self, *, most: int, within_s: float) -> list[Delivery]:
        await self._commit()
        async with translating("reading"):
            if not self._backlog:
                await self._fetch(most, within_s)
            found: list[Delivery] = []
            while self._backlog and len(found) < most:
                hold, record = self._backlog[0]
                if hold.number in self._holds:  # else another reader has it by now
                    try:
                        message = decoded(record.value, self._topic)
                    except Undecodable as error:
                        if found:
                            break  # what is found goes out before anything is waited for
                        await self._bury_raw(hold, record, str(error))
                        continue
                    if came_from := _traceparent(record):
                        message = replace(message, traceparent=came_from)
                    bulk = hold.place.topic != self._fresh
                    found.append(Delivery(message, hold.number, hold.name, record.offset, bulk))
                self._backlog.popleft()
        return found

    async def done(self, deliveries: Sequence[Delivery]) -> None:
        for one in deliveries:
            hold = self._holds.get(one.hold)
            if hold is not None:
                hold.open.pop(one.offset, None)
        await self._commit()

    async def bury(self, deliveries: Sequence[Delivery], reason: str) -> None:
        ours = [one for one in deliveries if one.hold in self._holds]
        letters = [(_key(one.message), encoded(one.message), f"{one.place}/{one.offset}") for one in ours]
        await self._bury(letters, reason)
        await self.done(ours)

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._commit()
        self._holds = {}
        with suppress(TimeoutError, kafka_errors.KafkaError):  # a broker that is away finds out by itself
            async with asyncio.timeout(self._timeout_s):
                await self._consumer.stop()

    async def _fetch(self, most: int, within_s: float) -> None:
        """Fresh messages first; bulk ones when none of them lie ready."""
        fresh = [hold.place for hold in self._holds.values() if hold.place.topic == self._fresh]
        got: dict[TopicPartition, list[Any]] = {}
        with suppress(TimeoutError):  # while the readers part the partitions anew
            async with asyncio.timeout(within_s + 1.0):
                if fresh:
                    got = await self._consumer.getmany(*fresh, timeout_ms=0, max_records=most)
                if not got:
                    got = await self._consumer.getmany(timeout_ms=int(within_s * 1000), max_records=most)
        ours = {hold.place: hold for hold in self._holds.values()}
        for place, records in got.items():
            hold = ours.get(place)
            for record in records if hold is not None else ():
                assert hold
                hold.open[record.offset] = None
                hold.seen = record.offset
                self._backlog.append((hold, record))

    async def _bury_raw(self, hold: _Hold, record: Any, reason: str) -> None:
        place = f"{hold.name}/{record.offset}"
        log.warning("no valid chunk: to the dead letters", place=place, reason=reason)
        await self._bury([(record.key, record.value or b"", place)], reason)
        self._backlog.popleft()
        hold.open.pop(record.offset, None)

    async def _commit(self) -> None:
        """Of every partition that is ours, the offset below which all is done. What fails is committed with the next ones."""
        async with self._committing:
            ours = self._consumer.assignment()
            due = [
                (hold, hold.upto)
                for hold in self._holds.values()
                if hold.seen >= 0 and hold.upto > hold.committed and hold.place in ours
            ]
            if not due:
                return
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._consumer.commit({hold.place: upto for hold, upto in due})
            except (kafka_errors.CommitFailedError, kafka_errors.IllegalStateError):
                log.info("partitions went to another reader, which does it again", group=self._topic)
                return
            except (kafka_errors.KafkaError, TimeoutError, OSError) as error:
                log.warning("offsets not committed yet", error=str(translated(error, "committing offsets")))
                return
            for hold, upto in due:
                hold.committed = upto


def _traceparent(record: Any) -> str:
    """Whatever somebody has written there; `tracing.parent_of` looks whether it is one."""
    return next((value.decode("latin-1") for name, value in record.headers if name == "traceparent" and value), "")


def _key(message: ChunkMessage) -> bytes:
    return message.doc_id.encode("utf-8", "replace")
