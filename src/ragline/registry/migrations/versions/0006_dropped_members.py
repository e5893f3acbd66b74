"""Which bytes a file was deleted from by itself: it does not come back with the same ones."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("documents", sa.Column("dropped_from", sa.String(length=64), nullable=True))
