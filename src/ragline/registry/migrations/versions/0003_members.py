"""Files inside documents: what they lie in, and how many a document holds."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for column in (
        sa.Column("parent", sa.String(length=32), nullable=True),
        sa.Column("root", sa.String(length=32), nullable=True),
        sa.Column("depth", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("members", sa.Integer(), nullable=False, server_default="0"),
    ):
        op.add_column("documents", column)
    where = sa.text("root IS NOT NULL")
    for name in ("parent", "root"):
        op.create_index(
            f"ix_documents_{name}", "documents", [name], unique=False, sqlite_where=where, postgresql_where=where
        )
