"""Batches: what was uploaded, how far each is, and the files that count."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_STATES = "state IN ('uploading', 'chunking', 'processing', 'completed', 'failed', 'removed')"
_PROGRESS = "0 <= num_failed AND num_failed <= num_answered AND num_answered <= num_lines"


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("ordinal", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(26), nullable=False),
        sa.Column("account_id", sa.String(64), nullable=False),
        sa.Column("upload_id", sa.String(26), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("base_model_digest", sa.String(64), nullable=True),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.Column("num_lines", sa.Integer(), nullable=False),
        sa.Column("num_answered", sa.Integer(), nullable=False),
        sa.Column("num_failed", sa.Integer(), nullable=False),
        sa.Column("next_byte", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("worked_seconds", sa.Float(53), nullable=False),
        sa.Column("error_code", sa.String(64), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(_STATES, name="state"),
        sa.CheckConstraint(_PROGRESS, name="progress"),
        sa.CheckConstraint("(state = 'failed') = (error_code IS NOT NULL)", name="error"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_batches_account_id"),
        sa.PrimaryKeyConstraint("ordinal", name="pk_batches"),
        sa.UniqueConstraint("id", name="uq_batches_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "batch_files",
        sa.Column("batch_id", sa.String(26), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('part', 'answers', 'output')", name="kind"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_batch_files_batch_id"),
        sa.PrimaryKeyConstraint("batch_id", "kind", "number", name="pk_batch_files"),
    )


def downgrade() -> None:
    op.drop_table("batch_files")
    op.drop_table("batches")
