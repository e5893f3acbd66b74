"""The short version of `python -m bench.jobs --kills 100`: workers killed in the middle of their streams."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.jobs.kills import run
from tests.engines.postgres import Postgres


@pytest.mark.timeout(900)
async def test_killed_in_the_middle_of_a_stream_one_answer_remains_and_every_client_has_the_same_bytes(
    postgres: Postgres, tmp_path: Path
) -> None:
    outcome = await run(await postgres.database(), tmp_path, kills=3)
    assert outcome.wrong == []
    assert outcome.kills == 3
    assert outcome.restarts >= 3
    assert outcome.reconnects > outcome.jobs
    assert outcome.webhooks > outcome.jobs, "the first try was refused, so that one came twice"
