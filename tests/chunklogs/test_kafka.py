"""Kafka as the chunk log, on a real broker."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from aiokafka import AIOKafkaProducer

from ragline.chunklogs.kafka import KafkaChunkLog
from ragline.chunklogs.kafka_connection import options_of
from ragline.protocols import ChunkLog
from ragline.testing.chunklogs import ChunkLogContract, WriteRaw
from ragline.types import Topic
from tests.engines.kafka import Kafka


@pytest.fixture
def url(kafka: Kafka) -> str:
    return kafka.url(session_s=6)


async def raw(url: str, topic: Topic, key: bytes, value: bytes) -> None:
    options = options_of(url)
    producer = AIOKafkaProducer(bootstrap_servers=options.hosts)
    await producer.start()
    try:
        await producer.send_and_wait(options.topic(topic), value, key=key)
    finally:
        await producer.stop()


class TestContract(ChunkLogContract):
    @pytest.fixture
    def connect(self, url: str) -> Callable[[], ChunkLog]:
        return lambda: KafkaChunkLog(url)

    @pytest.fixture
    def write_raw(self, url: str) -> WriteRaw:
        return lambda topic, key, value: raw(url, topic, key, value)
