"""The registry's schema and its changes, in `versions/`."""

from __future__ import annotations

from pathlib import Path

from ragline.connections.schema import Schema
from ragline.registry.tables import metadata

HEAD = "0007"

SCHEMA = Schema(
    "registry", Path(__file__).parent / "versions", HEAD, metadata, version_table="alembic_version", lock=7263746900,
    setting="registry",
)  # fmt: skip
