"""The API and each role as processes over PostgreSQL, Kafka, Milvus and Elasticsearch: killed, and their connections cut."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from bench.crashes.fleet import COMMANDS, Fleet, wired
from bench.crashes.harness import RANDOM, VARIABLES, Harness
from bench.servers import ON_LOG
from tests.engines import kafka as kafka_engine
from tests.engines.elasticsearch import Elasticsearch
from tests.engines.milvus import Milvus
from tests.engines.postgres import Postgres
from tests.engines.server import free_port

PLACES = (
    "documents.accept.after", RANDOM, "claims.mark_chunked.after", "log.append.after", "vectors.upsert.after", RANDOM,
    "claims.mark_live.before",
)  # fmt: skip


@pytest.mark.timeout(1200)  # a dozen starts: no judgement on a busy machine
async def test_killed_and_cut_off_nothing_is_lost_doubled_stuck_or_leaked(
    postgres: Postgres, milvus: Milvus, elasticsearch: Elasticsearch, tmp_path: Path
) -> None:
    port, folder = free_port(), tmp_path / "kafka"
    folder.mkdir()
    with kafka_engine.broker(folder, advertised=port) as broker:
        direct = {
            "registry": await postgres.database(), "vectors": milvus.url, "keywords": elasticsearch.url(),
            "log": broker.url(**ON_LOG),
        }  # fmt: skip
        async with wired(direct, log_port=port) as engines:
            fleet = Fleet(tmp_path / "fleet", VARIABLES, engines, dice=random.Random(6))
            harness = Harness(fleet, documents=60, at_first=24, new=12, changes=48, seed=6, searched=12, tell=print)
            async with asyncio.timeout(900):  # before pytest's, which leaves the processes running
                outcome = await harness.run(len(PLACES), PLACES)
    assert [kill.verdict.faults for kill in outcome.kills] == [[]] * len(PLACES)
    assert (outcome.last.faults, outcome.last.orphans) == ([], [])
    assert outcome.documents == 60
    assert outcome.last.searches >= 2 * 60, "at least each document for each reader, deleted ones by what they were"
    assert sum(kill.left.anything for kill in outcome.kills) * 3 >= len(PLACES), "too few kills met work in flight"
    assert sum(times for words, times in fleet.tally.items() if "cut" in words) > 0
    assert sum(fleet.tally[f"{role} killed"] for role in COMMANDS) >= len(PLACES)
