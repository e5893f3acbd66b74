"""Every test of the registry runs on each database."""

from __future__ import annotations

from pathlib import Path

import pytest

from ragline.connections.database import sqlite_url
from tests.engines.postgres import Postgres


@pytest.fixture(params=["sqlite", "postgresql"])
async def registry_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a new registry, in each of the databases."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "registry.sqlite")
    postgres: Postgres = request.getfixturevalue("postgres")
    return await postgres.database()
