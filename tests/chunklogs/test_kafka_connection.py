"""What the URL of a Kafka says, and what its errors become."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiokafka import errors as kafka_errors

from ragline.build import open_log
from ragline.chunklogs.kafka import KafkaChunkLog
from ragline.chunklogs.kafka_connection import options_of, translated, translating
from ragline.errors import (
    ConfigurationError,
    EngineDenied,
    EngineError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
)
from ragline.settings import Settings
from tests.engines.kafka import Kafka
from tests.engines.server import free_port


def _kinds(kind: type[Exception]) -> list[type[Exception]]:
    return [kind, *(below for one in kind.__subclasses__() for below in _kinds(one))]


@pytest.mark.parametrize("kind", _kinds(kafka_errors.KafkaError), ids=lambda kind: kind.__name__)
def test_every_error_of_kafka_is_one_of_our_tree(kind: type[kafka_errors.KafkaError]) -> None:
    ours = translated(kind(), "appending")
    assert kind.__name__ in ours.message
    assert ours.next_step
    if kind.retriable:
        assert ours.retryable, "Kafka says that it may succeed later"


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (kafka_errors.KafkaConnectionError(), EngineUnavailable),
        (kafka_errors.NotEnoughReplicasError(), EngineUnavailable),
        (kafka_errors.OutOfOrderSequenceNumber(), EngineUnavailable),
        (kafka_errors.RequestTimedOutError(), EngineTimeout),
        (kafka_errors.SaslAuthenticationFailed(), EngineDenied),
        (kafka_errors.TopicAuthorizationFailedError(), EngineDenied),
        (kafka_errors.InvalidReplicationFactorError(), EngineRejected),
        (kafka_errors.UnsupportedVersionError(), EngineRejected),
        (kafka_errors.MessageSizeTooLargeError(), EngineRejected),
        (TimeoutError(), EngineTimeout),
        (ConnectionResetError(), EngineUnavailable),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_the_table(error: Exception, ours: type[EngineError]) -> None:
    with pytest.raises(ours) as raised:
        async with translating("appending"):
            raise error
    assert type(raised.value) is ours


def test_what_a_url_says() -> None:
    options = options_of(
        "kafka://user:p%40ss@one:9092,two:9093/house?partitions=24&replication=3&tls=true&retention_h=24"
    )
    assert options.hosts == "one:9092,two:9093"
    assert (options.user, options.password, options.sasl, options.tls) == ("user", "p@ss", "PLAIN", True)
    assert (options.partitions, options.replication, options.retention_h) == (24, 3, 24)
    assert options.topic("doc_chunks") == "house-doc_chunks"
    assert options.topic("doc_vectors", bulk=True) == "house-doc_vectors_bulk"
    assert (options.dead("doc_chunks"), options.group("doc_chunks")) == ("house-doc_chunks_dead", "house-embed")
    assert options_of("kafka://one:9092").group("doc_vectors") == "ragline-index"
    assert "p@ss" not in repr(options)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("kafka://", "HOST:PORT"),
        ("kafka://one", "HOST:PORT"),
        ("kafka://one:9092/a b", "prefix"),
        ("kafka://one:9092?partition=3", "no option 'partition'"),
        ("kafka://one:9092?password=secret", "no option 'password'"),
        ("kafka://one:9092?partitions=0", "partitions='0'"),
        ("kafka://one:9092?tls=perhaps", "tls='perhaps'"),
        ("kafka://one:9092?sasl=GSSAPI", "sasl='GSSAPI'"),
        ("kafka://one:9092?compression=best", "compression='best'"),
    ],
)
def test_a_wrong_url_names_what_is_wrong(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        KafkaChunkLog(url)
    assert words in refused.value.message
    assert "secret" not in str(refused.value)


def test_settings_pick_the_adapter(tmp_path: Path) -> None:
    assert open_log(Settings(data_dir=tmp_path)) is None
    assert isinstance(open_log(Settings(data_dir=tmp_path, log="kafka://one:9092")), KafkaChunkLog)
    with pytest.raises(ConfigurationError, match="'amqp'"):
        open_log(Settings(data_dir=tmp_path, log="amqp://one:5672"))
    with pytest.raises(ConfigurationError, match="retention_h=1000"):
        open_log(Settings(data_dir=tmp_path, log="kafka://one:9092?retention_h=1000"))


async def test_a_wrong_port_is_told_and_nothing_is_left_open() -> None:
    log = KafkaChunkLog(f"kafka://127.0.0.1:{free_port()}?timeout_s=5")
    with pytest.raises(EngineUnavailable) as away:
        await log.lag()
    assert "Check that the brokers" in away.value.next_step
    with pytest.raises(EngineUnavailable):
        await log.reader("doc_chunks")
    await log.aclose()


async def test_a_server_that_answers_nothing_is_a_timeout_or_away() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    log = KafkaChunkLog(f"kafka://127.0.0.1:{port}?timeout_s=1")
    with pytest.raises((EngineTimeout, EngineUnavailable)):
        await log.lag()
    await log.aclose()
    server.close()
    await server.wait_closed()


async def test_more_replicas_than_brokers_are_told(kafka: Kafka) -> None:
    log = KafkaChunkLog(kafka.url(replication=7))
    with pytest.raises(EngineRejected, match="InvalidReplicationFactor") as refused:
        await log.lag()
    assert "replication" in refused.value.next_step
    await log.aclose()


async def test_topics_that_are_there_stay_as_they_are(kafka: Kafka) -> None:
    url = kafka.url(partitions=3)
    first = KafkaChunkLog(url)
    await first.lag()
    await first.aclose()
    second = KafkaChunkLog(url.replace("partitions=3", "partitions=5"))
    topics = await second._prepared()
    await second.aclose()
    assert {count for name, count in topics.items() if not name.endswith("_dead")} == {3}
