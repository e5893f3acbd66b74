"""A Redis that is slow, silent or cut off under the job path, and a process that is killed: nothing lost, nothing done twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from ragline.build import build
from ragline.chaos.wire import Wire
from ragline.settings import JobsSettings, Settings
from ragline.types import JobState
from tests.api.conftest import Api
from tests.engines.redis import Redis
from tests.engines.server import free_port
from tests.job_house import QUESTION, JobHouse
from tests.killing import killed_after
from tests.test_job_engines import WITHIN_S, working

MANY = 12
KILLED_AFTER = 30


async def _all_done_once(house: JobHouse, wanted: int) -> None:
    """`wanted` jobs in all, each with one end."""
    async with asyncio.timeout(WITHIN_S):
        while any(job.queue for job in await house.store.page(principal=None, state=None, most=1_000, before=None)):
            await asyncio.sleep(0.05)
    jobs = await house.store.page(principal=None, state=None, most=1_000, before=None)
    assert len(jobs) == wanted
    assert Counter(job.state for job in jobs) == {JobState.DONE: wanted}
    for job in jobs:
        names = await house.names(job.id)
        assert (names.count("queued"), names.count("done"), names[-1]) == (1, 1, "done"), names


@asynccontextmanager
async def _silent(wire: Wire) -> AsyncIterator[None]:
    """Until the block ends, whatever is asked; then what was held back goes on."""
    silence = asyncio.create_task(wire.silence(3600.0))
    await asyncio.sleep(0)
    try:
        yield
    finally:
        silence.cancel()
        await asyncio.wait([silence])


async def test_a_redis_that_is_slow_silent_or_cut_off_loses_no_job_and_does_none_twice(
    own_redis: Redis, tmp_path: Path
) -> None:
    async with Wire("redis", own_redis.address, port=free_port()) as wire:
        url = f"redis://127.0.0.1:{wire.port}/0?timeout_s=0.5"
        system = await build(Settings(data_dir=tmp_path, jobs=JobsSettings(url=url, lease_s=3.0)))
        try:
            house, api = JobHouse(system), Api(system)
            await house.fill()
            async with api.client() as client, asyncio.timeout(4 * WITHIN_S):

                async def ask(n: int) -> httpx.Response:
                    question = {"query": f"{QUESTION} Case {n}."}
                    return await client.post("/v1/queries", json=question, headers={"Idempotency-Key": str(n)})

                async def accepted(n: int) -> str:
                    while (answer := await ask(n)).status_code != 202:
                        assert answer.status_code in (503, 504), answer.text
                    return str(answer.json()["job_id"])

                first = await accepted(0)
                async with _silent(wire):
                    refused = [await ask(n) for n in range(3)]
                    for path in (f"/v1/jobs/{first}", f"/v1/jobs/{first}/events", "/v1/jobs"):
                        refused.append(await client.get(path))
                assert {one.status_code for one in refused} <= {503, 504}
                assert all(one.json()["retryable"] and one.json()["next_step"] for one in refused)

                async with working(system):
                    asking = [asyncio.create_task(accepted(n)) for n in range(MANY)]
                    for silent_s in (0.1, 0.2, 1.0, 0.1, 4.0, 0.3):  # slow, over a command's patience, over a lease
                        await wire.silence(silent_s)
                        await asyncio.sleep(0.1)
                    await wire.cut(away_s=0.5)
                    ids = await asyncio.gather(*asking)
                    assert ids[0] == first, "the same key"
                    assert len(set(ids)) == MANY
                    await _all_done_once(house, MANY)
            assert await house.store.lengths() == {"retrieval": 0, "generation": 0}
        finally:
            await system.aclose()


WRITER = """
import asyncio, sys
from pathlib import Path
from ragline.build import build
from ragline.jobs import Question
from ragline.settings import JobsSettings, Settings
from ragline.types import Caller, SearchRequest

async def main(folder, start):
    system = await build(Settings(data_dir=Path(folder), jobs=JobsSettings(lease_s=1.0)))
    ann, working = Caller("ann", "read", None, frozenset()), None
    for n in range(start, 10_000):
        request = SearchRequest(f"How many days to return an item, case {n}?", "default", frozenset())
        await system.jobs.accept(ann, Question(request, idempotency_key=str(n)))
        print(n, flush=True)
        working = working or asyncio.create_task(system.work(["retrieve"]))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""
"""Accepts without end, and retrieves for what it has accepted; nothing comes to an end."""


async def test_a_process_that_is_killed_with_jobs_in_sqlite_leaves_each_to_be_done_once(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, jobs=JobsSettings(lease_s=1.0))
    system = await build(settings)
    await JobHouse(system).fill()
    await system.aclose()
    acknowledged = await asyncio.to_thread(killed_after, KILLED_AFTER, WRITER, tmp_path, 0)
    system = await build(settings)
    try:
        house = JobHouse(system)
        jobs = await house.store.page(principal="ann", state=None, most=1_000, before=None)
        asked = {job.request.query for job in jobs}
        assert {f"How many days to return an item, case {n}?" for n in acknowledged} <= asked
        assert len(asked) == len(jobs) <= len(acknowledged) + 1
        assert all(job.queue for job in jobs)
        async with working(system):
            await _all_done_once(house, len(jobs))
    finally:
        await system.aclose()
