"""A document over a real broker is one trace: each stage goes on where the one before has handed it over."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from aiokafka import AIOKafkaConsumer

from ragline.build import build
from ragline.chunklogs.kafka_connection import options_of
from ragline.ingest import trace_name
from ragline.settings import Settings, TracesSettings
from ragline.tracing import parent_of, trace_id_of
from tests.chunklogs.test_pipeline import LONG, WITHIN_S, drained, settled, working
from tests.collector import collecting, flush
from tests.engines.kafka import Kafka
from tests.house import House

WHOLE = [["document", ["embed", ["doc_vectors", "index"]], "parse"]]


async def test_a_document_over_the_log_is_one_trace(kafka: Kafka, tmp_path: Path) -> None:
    url = kafka.url(session_s=6)
    with collecting() as collector:
        traces = TracesSettings(url=collector.url, sample_ratio=1)
        system = await build(Settings(data_dir=tmp_path, log=url, traces=traces))
        try:
            house = House(system)
            documents = [await house.accept("herons.md", LONG), await house.accept("cranes.md", LONG + " They dance.")]
            async with working(system):
                await settled(system)
                await drained(system)
            ids = [trace_id_of(trace_name(one)) for one in documents]
            give_up_at = time.monotonic() + WITHIN_S
            while any(collector.tree(id) != WHOLE for id in ids) and time.monotonic() < give_up_at:
                await asyncio.sleep(0.02)
                await flush(system)
            assert [collector.tree(id) for id in ids] == [WHOLE, WHOLE]
            assert b"Heron" not in b"".join(collector.bodies)
        finally:
            await system.aclose()
    options = options_of(url)
    consumer = AIOKafkaConsumer(
        options.topic("doc_vectors"), bootstrap_servers=options.hosts, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        record = await consumer.getone()
    finally:
        await consumer.stop()
    ((name, value),) = record.headers
    parent = parent_of(value.decode())
    assert name == "traceparent"
    assert parent
    assert parent.trace_id in ids


async def test_without_traces_messages_carry_nothing(kafka: Kafka, tmp_path: Path) -> None:
    url = kafka.url(session_s=6)
    system = await build(Settings(data_dir=tmp_path, log=url))
    try:
        await House(system).accept("herons.md", LONG)
        async with working(system):
            await settled(system)
            await drained(system)
    finally:
        await system.aclose()
    options = options_of(url)
    consumer = AIOKafkaConsumer(
        options.topic("doc_chunks"), bootstrap_servers=options.hosts, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        assert (await consumer.getone()).headers == ()
    finally:
        await consumer.stop()
