"""Where a finetune started from, and the exchange file of a checkpoint."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_FINETUNES = (
    ("origin", sa.Text()),
    ("origin_manifest", sa.Text()),
    ("origin_weights_path", sa.Text()),
    ("origin_weights_digest", sa.String(64)),
    ("origin_weights_num_bytes", sa.BigInteger()),
)
_CHECKPOINTS = (
    ("exchange_path", sa.Text()),
    ("exchange_digest", sa.String(64)),
    ("exchange_num_bytes", sa.BigInteger()),
    ("exchange_manifest", sa.Text()),
)


def upgrade() -> None:
    for name, kind in _FINETUNES:
        op.add_column("finetunes", sa.Column(name, kind, nullable=True))
    for name, kind in _CHECKPOINTS:
        op.add_column("checkpoints", sa.Column(name, kind, nullable=True))


def downgrade() -> None:
    """Refuses where an older release would take started finetunes for fresh ones."""
    started = sa.text(
        "SELECT name FROM finetunes WHERE origin IS NOT NULL AND deleted_at_ms IS NULL"
    )
    names = [row.name for row in op.get_bind().execute(started)]
    if names:
        raise RuntimeError(
            f"These finetunes started from saved weights, which an older release would forget:"
            f" {', '.join(names)}. Delete them first, or restore the backup."
        )
    for name, _ in reversed(_CHECKPOINTS):
        op.drop_column("checkpoints", name)
    for name, _ in reversed(_FINETUNES):
        op.drop_column("finetunes", name)
