"""The chunk log on Apache Kafka, by aiokafka: topics, the one producer, how far the readers are.

Three topics for each stage: fresh, bulk and dead letters, keyed by document, so that a document's messages lie in one
partition in the order of their ordinals. `acks=all` and an idempotent producer: what `append` returned from is on every
replica in sync, and a retry inside the client does not double it. docs/engines/kafka.md describes all of it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from ragline import metrics
from ragline.chunklogs.kafka_connection import ENGINE, Options, options_of, refusal, translated, translating
from ragline.chunklogs.kafka_reader import KafkaChunkReader
from ragline.chunklogs.messages import encoded
from ragline.errors import ConfigurationError, EngineRejected, MissingDependency
from ragline.types import ChunkMessage, DeadLetter, Topic

log = structlog.get_logger()

TOPICS: tuple[Topic, ...] = ("doc_chunks", "doc_vectors")

PART = 500
"""Messages handed to the producer before it is waited for: bounds what is in memory, and what one deadline is for."""

SEGMENT_H = 6
"""Kafka deletes segments, not messages: one lies for so much longer than the retention, at most."""

REASON_BYTES = 4096
"""A dead letter is larger than the message that it was by its headers, at most so much."""

FRESH_WITHIN_MS = 50
"""While bulk messages lie ready, how long until the client asks for fresh ones again; 200 by itself."""

LOOK_AGAIN_S = 0.05
"""Between two looks for topics that were just made."""

BATCH_BYTES = 256 << 10
"""What the producer gathers for a partition while its last request is under way; a larger message still goes alone."""


class KafkaChunkLog:
    """Connects at the first call.

    Raises:  ConfigurationError: the URL; or topics that would be made keep messages for longer than `tombstones_s`, for which
             the registry knows deleted documents.  MissingDependency: what its `compression` needs.
    """

    def __init__(self, url: str, *, tombstones_s: float = math.inf) -> None:
        self._options = options_of(url)
        if self._options.retention_h * 3600 + SEGMENT_H * 3600 > tombstones_s:
            raise ConfigurationError(
                f"log: retention_h={self._options.retention_h} (and up to {SEGMENT_H} h more) is longer than deleted documents "
                f"are remembered ({tombstones_s / 3600:.0f} h): what is delivered late would not be known as late.",
                next_step="Raise ingest.tombstone_retention_s, or lower retention_h behind the URL.",
            )
        self._starting = asyncio.Lock()
        self._topics: dict[str, int] | None = None
        self._producer: AIOKafkaProducer | None = None
        self._admin: AIOKafkaAdminClient | None = None
        self._offsets: AIOKafkaConsumer | None = None
        _check_compression(self._options)

    async def append(self, topic: Topic, messages: Sequence[ChunkMessage], *, bulk: bool = False) -> None:
        values = [encoded(one) for one in messages] if len(messages) <= PART else await asyncio.to_thread(
            lambda: [encoded(one) for one in messages]
        )  # fmt: skip
        limit = self._options.max_message_bytes
        for message, value in zip(messages, values, strict=True):
            if len(value) > limit:
                raise EngineRejected(
                    f"Chunk {message.ordinal} of document {message.doc_id} makes a message of {len(value)} bytes; the log "
                    f"takes {limit}.",
                    next_step="Make the namespace's chunks smaller, or raise max_message_bytes behind the URL of `log`.",
                    engine=ENGINE,
                )
        name = self._options.topic(topic, bulk=bulk)
        pairs = list(zip(messages, values, strict=True))
        for start in range(0, len(pairs), PART):
            await self._send(
                name, [(one.doc_id.encode(), value, _headers(one)) for one, value in pairs[start : start + PART]]
            )

    async def bury(self, topic: Topic, letters: Sequence[tuple[bytes | None, bytes, str]], reason: str) -> None:
        """(key, value, place) of messages that nobody can process. For the reader."""
        why = ("reason", reason.encode("utf-8", "replace")[: REASON_BYTES // 2])
        sent = [(key, value, (why, ("place", place.encode()))) for key, value, place in letters]
        await self._send(self._options.dead(topic), sent)
        metrics.dead_letters_total.labels(topic).inc(len(sent))

    async def reader(self, topic: Topic) -> KafkaChunkReader:
        given = self._options
        async with translating("joining the readers"), asyncio.timeout(given.timeout_s):
            await self._prepared()
            consumer = AIOKafkaConsumer(
                **given.client(), group_id=given.group(topic), enable_auto_commit=False, auto_offset_reset="earliest",
                session_timeout_ms=int(given.session_s * 1000), heartbeat_interval_ms=int(given.session_s * 1000 / 4),
                max_poll_interval_ms=600_000, consumer_timeout_ms=FRESH_WITHIN_MS,
                max_partition_fetch_bytes=max(given.max_message_bytes, 1 << 20),
            )  # fmt: skip
            await _start(consumer.start, consumer.stop, self._options)
        names = given.topic(topic), given.topic(topic, bulk=True)
        return KafkaChunkReader(
            consumer, topic, fresh=names[0], bulk=names[1], bury=partial(self.bury, topic), timeout_s=given.timeout_s
        )

    async def lag(self) -> dict[tuple[str, str], int]:
        found: dict[tuple[str, str], int] = {}
        async with translating("asking for the lag"), asyncio.timeout(self._options.timeout_s):
            admin, offsets, topics = await self._asked()
            for topic in TOPICS:
                group = self._options.group(topic)
                names = self._options.topic(topic), self._options.topic(topic, bulk=True)
                places = [TopicPartition(name, n) for name in names for n in range(topics[name])]
                done = await _group_offsets(admin, group)
                ends, begins = await offsets.end_offsets(places), await offsets.beginning_offsets(places)
                for name in names:
                    found[name, group] = sum(
                        max(0, ends[one] - max(done.get(one, 0), begins[one])) for one in places if one.topic == name
                    )
        return found

    async def dead_letters(self, topic: Topic, *, most: int) -> list[DeadLetter]:
        name = self._options.dead(topic)
        async with translating("reading the dead letters"), asyncio.timeout(self._options.timeout_s):
            topics = await self._prepared()
            places = [TopicPartition(name, n) for n in range(topics[name])]
            consumer = AIOKafkaConsumer(**self._options.client(), enable_auto_commit=False)
            await _start(consumer.start, consumer.stop, self._options)
            try:
                consumer.assign(places)
                await consumer.seek_to_beginning(*places)
                ends = await consumer.end_offsets(places)
                records: list[Any] = []
                while any([await consumer.position(one) < ends[one] for one in places]):
                    for found in (await consumer.getmany(timeout_ms=200)).values():
                        records += found
            finally:
                await consumer.stop()
        records.sort(key=lambda record: record.timestamp)
        return [_letter(record) for record in records[:most]]

    async def aclose(self) -> None:
        parts = (
            self._producer and self._producer.stop,
            self._offsets and self._offsets.stop,
            self._admin and self._admin.close,
        )
        self._producer = self._offsets = self._admin = None
        for stop in filter(None, parts):
            with suppress(TimeoutError):  # a broker that is away is not waited for
                async with asyncio.timeout(self._options.timeout_s):
                    await stop()

    # ── connecting ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _send(self, name: str, letters: Sequence[tuple[bytes | None, bytes, Any]]) -> None:
        if not letters:
            return
        try:
            async with asyncio.timeout(self._options.timeout_s):
                producer = await self._produces()
                sent = [
                    await producer.send(name, value, key=key, headers=list(headers)) for key, value, headers in letters
                ]
                results = await asyncio.gather(*sent, return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        except (kafka_errors.KafkaError, OSError) as error:
            if isinstance(error, kafka_errors.KafkaError) and not error.retriable:
                await self._drop_producer()
            raise translated(error, "appending") from error

    async def _produces(self) -> AIOKafkaProducer:
        await self._prepared()
        async with self._starting:
            if self._producer is None:
                given = self._options
                producer = AIOKafkaProducer(
                    **given.client(), acks="all", enable_idempotence=True, max_batch_size=BATCH_BYTES,
                    max_request_size=given.max_message_bytes + 2 * REASON_BYTES,
                    compression_type=None if given.compression == "none" else given.compression,
                )  # fmt: skip
                await _start(producer.start, producer.stop, self._options)
                self._producer = producer
            return self._producer

    async def _drop_producer(self) -> None:
        """One that has failed for good, such as one whose numbering the broker has forgotten: the next call makes another."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(kafka_errors.KafkaError, TimeoutError):
                async with asyncio.timeout(self._options.timeout_s):
                    await producer.stop()

    async def _asked(self) -> tuple[AIOKafkaAdminClient, AIOKafkaConsumer, dict[str, int]]:
        topics = await self._prepared()
        async with self._starting:
            if self._admin is None:
                admin = AIOKafkaAdminClient(**self._options.client())
                await _start(admin.start, admin.close, self._options)
                self._admin = admin
            if self._offsets is None:
                offsets = AIOKafkaConsumer(**self._options.client(), enable_auto_commit=False)
                await _start(offsets.start, offsets.stop, self._options)
                self._offsets = offsets
            return self._admin, self._offsets, topics

    async def _prepared(self) -> dict[str, int]:
        """Topic → its partitions; those that are not there are made."""
        async with self._starting:
            if self._topics is None:
                admin = AIOKafkaAdminClient(**self._options.client())
                await _start(admin.start, admin.close, self._options)
                try:
                    self._topics = await self._make_topics(admin)
                finally:
                    await admin.close()
            return self._topics

    async def _make_topics(self, admin: AIOKafkaAdminClient) -> dict[str, int]:
        given, retention_ms = self._options, self._options.retention_h * 3_600_000
        kept = {"retention.ms": str(retention_ms), "segment.ms": str(min(retention_ms, SEGMENT_H * 3_600_000))}
        limits = {
            given.topic(topic, bulk=bulk): given.max_message_bytes + REASON_BYTES
            for topic in TOPICS
            for bulk in (False, True)
        } | {given.dead(topic): given.max_message_bytes + 2 * REASON_BYTES for topic in TOPICS}
        wanted = [
            NewTopic(name, 1 if name.endswith("_dead") else given.partitions, given.replication,
                     topic_configs=kept | {"max.message.bytes": str(limit)})
            for name, limit in limits.items()
        ]  # fmt: skip
        there = set(await admin.list_topics())
        made = (
            await admin.create_topics([one for one in wanted if one.name not in there]) if set(limits) - there else None
        )
        for name, code, *_ in made.topic_errors if made else ():
            error = kafka_errors.for_code(code)
            if error not in (kafka_errors.NoError, kafka_errors.TopicAlreadyExistsError):
                raise translated(error(), f"making the topic {name}")
        while not set(limits) <= (described := _led(await admin.describe_topics(list(limits)))).keys():  # noqa: ASYNC110
            await asyncio.sleep(LOOK_AGAIN_S)  # the brokers have yet to hear of what was made
        for name in limits:
            if not name.endswith("_dead") and described[name] != given.partitions:
                log.warning(
                    "the topic stays as it is", topic=name, partitions=described[name], setting=given.partitions
                )
        return described


async def _start(start: Any, stop: Any, options: Options) -> None:
    """Whatever stops a start half way leaves nothing open."""
    try:
        await start()
    except kafka_errors.KafkaConnectionError as error:
        with suppress(kafka_errors.KafkaError):
            await stop()
        raise await refusal(options, error) from error
    except BaseException:
        with suppress(kafka_errors.KafkaError):
            await stop()
        raise


def _led(topics: Sequence[Any]) -> dict[str, int]:
    """Topic → partitions, of those where each has a leader."""
    return {
        one["topic"]: len(one["partitions"])
        for one in topics
        if one["partitions"] and all(part["leader"] >= 0 for part in one["partitions"])
    }


async def _group_offsets(admin: AIOKafkaAdminClient, group: str) -> dict[TopicPartition, int]:
    try:
        found = await admin.list_consumer_group_offsets(group)
    except kafka_errors.GroupCoordinatorNotAvailableError:  # no group has ever been on this cluster
        return {}
    return {place: one.offset for place, one in found.items()}


def _headers(message: ChunkMessage) -> tuple[tuple[str, bytes], ...]:
    """The trace goes beside the message, as OpenTelemetry has it for Kafka: a reader of another version need not know of it."""
    return (("traceparent", message.traceparent.encode()),) if message.traceparent else ()


def _letter(record: Any) -> DeadLetter:
    headers = {name: value.decode("utf-8", "replace") for name, value in record.headers}
    return DeadLetter(record.value or b"", headers.get("reason", ""), headers.get("place", ""))


def _check_compression(options: Options) -> None:
    from aiokafka import codec

    if options.compression != "none" and not getattr(codec, f"has_{options.compression}")():
        raise MissingDependency(
            f"log: compression={options.compression} needs a package.",
            next_step=f"Install it with `pip install aiokafka[{options.compression}]`, or use compression=gzip.",
        )
