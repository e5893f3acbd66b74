"""The job store away and back: jobs are refused with 503, searches go on, and nothing that was accepted is lost. And slow, when
thousands come back at once: they wait, and are not sent away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ragline.api.access import OWNER
from ragline.build import build
from ragline.connections import database_postgresql
from ragline.settings import JobsSettings, Settings
from ragline.types import JobState
from tests.api.conftest import Api
from tests.engines.postgres import Postgres, server
from tests.job_house import QUESTION, JobHouse, Scripted, says


async def test_a_store_that_is_away_is_a_503_and_costs_searches_nothing(tmp_path: Path) -> None:
    with server() as postgres:
        url = await postgres.database()
        system = await build(Settings(data_dir=tmp_path, jobs=JobsSettings(url=url)))
        try:
            house, api = JobHouse(system), Api(system)
            await house.fill()
            says(system, Scripted())
            accepted = await api.call("POST", "/v1/queries", json={"query": QUESTION}, status=202)
            postgres.stop()
            refused = await api.call("POST", "/v1/queries", json={"query": QUESTION}, status=503)
            assert refused["retryable"] is True
            assert "jobs" in refused["detail"] or "PostgreSQL" in refused["detail"]
            await api.call("GET", f"/v1/jobs/{accepted['job_id']}", status=503)
            await api.call("GET", f"/v1/jobs/{accepted['job_id']}/events", status=503)
            missing = (await api.call("GET", "/readyz"))["missing"]
            assert [one.partition(":")[0] for one in missing] == ["jobs"]
            assert (await api.search(QUESTION))["passages"]
            postgres.start()
            await house.retrieve()
            job = await house.generate()
            assert (job.id, job.state) == (accepted["job_id"], JobState.DONE)
        finally:
            await system.aclose()


@pytest.mark.parametrize("keyed", [False, True])
async def test_followers_who_come_back_together_to_a_slow_store_all_get_their_events(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keyed: bool
) -> None:
    """Many more than it has connections, while it answers nobody for longer than a caller waits for a connection."""
    monkeypatch.setattr(database_postgresql, "READER_S", 0.2)
    url = await postgres.database()
    system = await build(Settings(data_dir=tmp_path, registry=url))
    try:
        house, api = JobHouse(system), Api(system)
        key = await api.new_key(principal=OWNER.principal, role="admin") if keyed else None
        ids = [(await house.ask(f"{QUESTION} Case {n}.", caller=OWNER)).id for n in range(40)]
        for id in ids:
            await api.call("DELETE", f"/v1/jobs/{id}")
        slow = "BEGIN; LOCK TABLE keys, jobs, job_events IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(1); COMMIT"
        locked = asyncio.create_task(postgres.execute(slow, url))
        while not await postgres.run("SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted"):
            await asyncio.sleep(0.01)
        back = [api.call("GET", f"/v1/jobs/{id}/events", key=key) for id in ids * 3]
        told = [response.text for response in await asyncio.gather(*back)]
        await locked
        assert all("event: failed" in text for text in told)
    finally:
        await system.aclose()
