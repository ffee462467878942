"""The ledger of train requests, explicit idempotency keys, and the manifest of a checkpoint."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "train_requests",
        sa.Column("finetune_id", sa.String(26), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=True),
        sa.Column("num_replays", sa.Integer(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("done_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("delivered_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("state IN ('running', 'done', 'delivered')", name="state"),
        sa.CheckConstraint("(state = 'running') = (step IS NULL)", name="step"),
        sa.ForeignKeyConstraint(
            ["finetune_id"], ["finetunes.id"], name="fk_train_requests_finetune_id"
        ),
        sa.PrimaryKeyConstraint("finetune_id", "seq", name="pk_train_requests"),
        sa.UniqueConstraint("finetune_id", "step", name="uq_train_requests_finetune_id"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("account_id", sa.String(64), nullable=False),
        sa.Column("path", sa.String(255), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("response", sa.Text(), nullable=False),
        sa.Column("finetune_id", sa.String(26), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name="fk_idempotency_keys_account_id"
        ),
        sa.PrimaryKeyConstraint("account_id", "path", "key", name="pk_idempotency_keys"),
    )
    op.add_column("checkpoints", sa.Column("manifest", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("checkpoints", "manifest")
    op.drop_table("idempotency_keys")
    op.drop_table("train_requests")
