"""Schema changes, forward only, run at start-up when the database is behind this version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ragline.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import Connection

HEAD = "0006"
"""The newest revision in `versions/`; a test compares it with what Alembic finds there."""


def known() -> frozenset[str]:
    """Every revision that this version can open, by bringing it forward."""
    files = (Path(__file__).parent / "versions").glob("[0-9]*_*.py")
    return frozenset(path.name.partition("_")[0] for path in files)


def upgrade(url: str, at: str | None, connection: Connection | None = None) -> None:
    """Bring the database at `url` from revision `at` (None: empty) to HEAD; inside the transaction of `connection`, where one
    is given.

    Raises:  ConfigurationError: the database was written by a newer version.
    """
    from alembic import command  # 0.2 s to import, and needed only after an upgrade
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, HEAD)
    except CommandError as error:
        raise ConfigurationError(
            f"The registry's schema is at {at}, which this version of Ragline does not know.",
            next_step="Start the newer version again, or restore a backup made by this one.",
        ) from error
