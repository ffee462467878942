"""Accounts, finetunes, their steps, checkpoints and metrics."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_LIVING = sa.text("deleted_at_ms IS NULL")


def upgrade() -> None:
    op.create_table(
        "meta",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_meta"),
    )
    accounts = op.create_table(
        "accounts",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_accounts"),
    )
    op.bulk_insert(accounts, [{"id": "default", "created_at_ms": time.time_ns() // 1_000_000}])
    op.create_table(
        "finetunes",
        sa.Column("ordinal", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(26), nullable=False),
        sa.Column("account_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("adapter_seed", sa.BigInteger(), nullable=False),
        sa.Column("base_model_name", sa.Text(), nullable=True),
        sa.Column("base_model_digest", sa.String(64), nullable=True),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("rank IN (8, 16, 24, 32)", name=op.f("ck_finetunes_rank")),
        sa.CheckConstraint("step >= 0", name=op.f("ck_finetunes_step")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_finetunes_account_id"),
        sa.PrimaryKeyConstraint("ordinal", name="pk_finetunes"),
        sa.UniqueConstraint("id", name="uq_finetunes_id"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "uq_finetunes_living_name",
        "finetunes",
        ["account_id", "name"],
        unique=True,
        sqlite_where=_LIVING,
        postgresql_where=_LIVING,
    )
    op.create_table(
        "train_steps",
        sa.Column("finetune_id", sa.String(26), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("applied", sa.Boolean(), nullable=False),
        sa.Column("response", sa.Text(), nullable=False),
        sa.Column("weights_path", sa.Text(), nullable=True),
        sa.Column("weights_digest", sa.String(64), nullable=True),
        sa.Column("weights_num_bytes", sa.BigInteger(), nullable=True),
        sa.Column("optimizer_path", sa.Text(), nullable=True),
        sa.Column("optimizer_digest", sa.String(64), nullable=True),
        sa.Column("optimizer_num_bytes", sa.BigInteger(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["finetune_id"], ["finetunes.id"], name="fk_train_steps_finetune_id"
        ),
        sa.PrimaryKeyConstraint("finetune_id", "step", name="pk_train_steps"),
    )
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.String(26), nullable=False),
        sa.Column("finetune_id", sa.String(26), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("weights_path", sa.Text(), nullable=True),
        sa.Column("weights_digest", sa.String(64), nullable=True),
        sa.Column("weights_num_bytes", sa.BigInteger(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["finetune_id"], ["finetunes.id"], name="fk_checkpoints_finetune_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_checkpoints"),
    )
    op.create_index(
        "uq_checkpoints_living_step",
        "checkpoints",
        ["finetune_id", "step"],
        unique=True,
        sqlite_where=_LIVING,
        postgresql_where=_LIVING,
    )
    op.create_table(
        "metrics",
        sa.Column("finetune_id", sa.String(26), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("value", sa.Float(53), nullable=False),
        sa.Column("logged_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["finetune_id"], ["finetunes.id"], name="fk_metrics_finetune_id"),
        sa.PrimaryKeyConstraint("finetune_id", "step", "name", name="pk_metrics"),
    )


def downgrade() -> None:
    op.drop_table("metrics")
    op.drop_index("uq_checkpoints_living_step", table_name="checkpoints")
    op.drop_table("checkpoints")
    op.drop_table("train_steps")
    op.drop_index("uq_finetunes_living_name", table_name="finetunes")
    op.drop_table("finetunes")
    op.drop_table("accounts")
    op.drop_table("meta")
