"""The schema of the jobs and its changes, in `versions/`."""

from __future__ import annotations

from pathlib import Path

from ragline.connections.schema import Schema
from ragline.jobstores.tables import metadata

HEAD = "0001"

SCHEMA = Schema(
    "jobs", Path(__file__).parent / "versions", HEAD, metadata, version_table="jobs_alembic_version", lock=7263746901,
    setting="jobs.url",
)  # fmt: skip
