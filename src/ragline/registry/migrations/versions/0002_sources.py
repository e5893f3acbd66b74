"""Which documents a sync has brought, and in which version."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "synced",
        sa.Column("document", sa.String(length=32), nullable=False),
        sa.Column("namespace", sa.String(length=63), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("document"),
    )
    op.create_index("ix_synced_source", "synced", ["namespace", "source", "document"], unique=False)
