"""One set of tables in a database, and the changes that bring an older one forward: forward only, run at start-up.

Two schemas may stand in one database (the registry, the jobs): each counts its revisions in a table of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ragline.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData

ENVIRONMENT = Path(__file__).parent / "migrations"


@dataclass(frozen=True, slots=True)
class Schema:
    """name:     what users know it as: ``registry``, ``jobs``.   setting: that holds its URL.
    folder:   of its revisions.   head: the newest of them; a test compares it with what Alembic finds there.
    version_table: where the database's own revision stands.
    lock:     number of the lock that its one writer holds on PostgreSQL.
    """

    name: str
    folder: Path
    head: str
    metadata: MetaData
    version_table: str
    lock: int
    setting: str

    def known(self) -> frozenset[str]:
        """Every revision that this version can open, by bringing it forward."""
        return frozenset(path.name.partition("_")[0] for path in self.folder.glob("[0-9]*_*.py"))

    def revision(self, connection: Connection) -> str | None:
        """Of the database; None: it has none of these tables."""
        if not connection.dialect.has_table(connection, self.version_table):
            return None
        return cast("str | None", connection.exec_driver_sql(f"SELECT version_num FROM {self.version_table}").scalar())

    def upgrade(self, url: str, at: str | None, connection: Connection | None = None) -> None:
        """Bring the database at `url` from revision `at` (None: empty) to `head`; inside the transaction of `connection`,
        where one is given.

        Raises:  ConfigurationError: the database was written by a newer version.
        """
        from alembic import command  # 0.2 s to import, and needed only after an upgrade
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(ENVIRONMENT))
        config.set_main_option("version_locations", str(self.folder))
        config.set_main_option("path_separator", "newline")  # one folder, whatever its name holds
        config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
        config.attributes["connection"], config.attributes["schema"] = connection, self
        try:
            command.upgrade(config, self.head)
        except CommandError as error:
            raise ConfigurationError(
                f"The schema of the {self.name} is at {at}, which this version of Ragline does not know.",
                next_step="Start the newer version again, or restore a backup made by this one.",
            ) from error
