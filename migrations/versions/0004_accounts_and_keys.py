"""The keys of accounts, what they used, and what was refused to them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_LIMITS = (
    "requests_per_minute",
    "max_concurrent_rollouts",
    "max_finetunes",
    "max_stored_bytes",
)
_USED = (
    "requests",
    "images",
    "prompt_tokens",
    "generated_tokens",
    "training_tokens",
    "steps",
    "compute_ms",
    "stored_bytes",
)


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(26), nullable=False),
        sa.Column("account_id", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("prefix", sa.String(16), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("scope", sa.String(16), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=True) for name in _LIMITS),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_used_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("scope IN ('full', 'inference', 'read')", name="scope"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_api_keys_account_id"),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("digest", name="uq_api_keys_digest"),
    )
    op.create_table(
        "usage_hours",
        sa.Column("account_id", sa.String(64), nullable=False),
        sa.Column("start_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("finetune_id", sa.String(26), nullable=False),
        sa.Column("key_id", sa.String(26), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in _USED),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_usage_hours_account_id"),
        sa.PrimaryKeyConstraint(
            "account_id", "start_at_ms", "finetune_id", "key_id", name="pk_usage_hours"
        ),
    )
    op.create_table(
        "refusals",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("account_id", sa.String(64), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("method", sa.String(16), nullable=False),
        sa.Column("path", sa.String(255), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("message", sa.String(300), nullable=False),
        sa.Column("finetune_id", sa.String(26), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_refusals_account_id"),
        sa.PrimaryKeyConstraint("id", name="pk_refusals"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_refusals_account_id", "refusals", ["account_id", "id"])


def downgrade() -> None:
    """Refuses where an older release would let everybody in, or take accounts for one."""
    living = sa.text("SELECT name FROM api_keys WHERE revoked_at_ms IS NULL ORDER BY id")
    names = [row.name for row in op.get_bind().execute(living)]
    if names:
        raise RuntimeError(
            f"An older release knows nothing of these keys: {', '.join(names)}. Revoke them first,"
            " or restore the backup."
        )
    op.drop_index("ix_refusals_account_id", "refusals")
    op.drop_table("refusals")
    op.drop_table("usage_hours")
    op.drop_table("api_keys")
