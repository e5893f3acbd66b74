"""Until when a worker whose claim was superseded may still write rows."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("documents", sa.Column("late_until", sa.Float(), nullable=False, server_default="0"))
