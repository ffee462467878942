"""The number of a checkpoint among the saves of its finetune."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# Steps only grow, and of one step one save is deleted before the next is made. The clock may jump.
_NUMBER = """
    UPDATE checkpoints SET number = numbered.number FROM (
        SELECT id, row_number() OVER (
            PARTITION BY finetune_id ORDER BY step, deleted_at_ms IS NULL, created_at_ms, id
        ) AS number FROM checkpoints
    ) AS numbered WHERE numbered.id = checkpoints.id
"""


def upgrade() -> None:
    """SQLite adds no column without a default; 0 is the number of no checkpoint."""
    number = sa.Column("number", sa.BigInteger(), nullable=False, server_default=sa.text("0"))
    op.add_column("checkpoints", number)
    op.execute(_NUMBER)
    op.create_index("uq_checkpoints_number", "checkpoints", ["finetune_id", "number"], unique=True)


def downgrade() -> None:
    """The same numbers come back with an upgrade: rows of checkpoints are never removed."""
    op.drop_index("uq_checkpoints_number", table_name="checkpoints")
    op.drop_column("checkpoints", "number")
