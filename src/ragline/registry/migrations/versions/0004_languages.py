"""The language of a document, and whether a namespace holds any that its embedder does not know."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("documents", sa.Column("language", sa.String(length=8), nullable=True))
    op.add_column("namespaces", sa.Column("foreign", sa.Integer(), nullable=False, server_default="0"))
