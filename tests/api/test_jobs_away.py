"""The job store away and back: jobs are refused with 503, searches go on, and nothing that was accepted is lost."""

from __future__ import annotations

from pathlib import Path

from ragline.build import build
from ragline.settings import JobsSettings, Settings
from ragline.types import JobState
from tests.api.conftest import Api
from tests.engines.postgres import server
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
            missing = (await api.call("GET", "/readyz", status=503))["missing"]
            assert [one.partition(":")[0] for one in missing] == ["jobs"]
            assert (await api.search(QUESTION))["passages"]
            postgres.start()
            await house.retrieve()
            job = await house.generate()
            assert (job.id, job.state) == (accepted["job_id"], JobState.DONE)
        finally:
            await system.aclose()
