"""Alembic's entry: one connection, and one transaction from the revision that is found to HEAD.

A process that is killed in the middle leaves the schema as it was. Alembic takes SQLite for a database that cannot do so,
because its driver, left to itself, does not begin before a change of the schema.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from ragline.connections.database_sqlite import begin_by_hand


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection, target_metadata=schema.metadata, version_table=schema.version_table,
        render_as_batch=True, transactional_ddl=True,
    )  # fmt: skip
    with context.begin_transaction():
        context.run_migrations()


schema = context.config.attributes["schema"]
given = context.config.attributes["connection"]
if given is not None:
    migrate(given)
else:
    url = context.config.get_main_option("sqlalchemy.url")
    assert url is not None
    engine = create_engine(url, poolclass=NullPool)
    begin_by_hand(engine)
    with engine.connect() as connection:
        migrate(connection)
