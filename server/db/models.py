"""The tables, with a naming convention for their constraints; migrations/ makes them.

Times are milliseconds since 1970 UTC. Paths are relative to the data directory, so that it can be
moved. Rows of finetunes and checkpoints are never removed: a deleted one keeps its row with
`deleted_at_ms`.
"""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from contract.engine import FileRef

ULID_LENGTH = 26


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )


class Meta(Base):
    """Facts about this database: one row per key."""

    __tablename__ = "meta"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class Account(Base):
    __tablename__ = "accounts"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)


class ApiKey(Base):
    """A key of an account. Rows are never removed: a revoked one keeps its row, so that a database
    that ever had a key is never open again.

    `digest` is SHA-256 (hex) of the key, `prefix` its first characters; null limits are those of
    the configuration.
    """

    __tablename__ = "api_keys"
    __table_args__ = (CheckConstraint("scope IN ('full', 'inference', 'read')", name="scope"),)

    id: Mapped[str] = mapped_column(String(ULID_LENGTH), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    prefix: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(128))
    scope: Mapped[str] = mapped_column(String(16))
    requests_per_minute: Mapped[int | None] = mapped_column(BigInteger)
    max_concurrent_rollouts: Mapped[int | None] = mapped_column(BigInteger)
    max_finetunes: Mapped[int | None] = mapped_column(BigInteger)
    max_stored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    last_used_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    revoked_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class UsageHour(Base):
    """What an account used within an hour, by finetune and key; empty texts are none of them.

    `stored_bytes` is the most that the account was seen to store in that hour; it stands in the row
    without finetune and key. The other numbers are sums.
    """

    __tablename__ = "usage_hours"

    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    start_at_ms: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    finetune_id: Mapped[str] = mapped_column(String(ULID_LENGTH), primary_key=True)
    key_id: Mapped[str] = mapped_column(String(ULID_LENGTH), primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger)
    images: Mapped[int] = mapped_column(BigInteger)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    generated_tokens: Mapped[int] = mapped_column(BigInteger)
    training_tokens: Mapped[int] = mapped_column(BigInteger)
    steps: Mapped[int] = mapped_column(BigInteger)
    compute_ms: Mapped[int] = mapped_column(BigInteger)
    stored_bytes: Mapped[int] = mapped_column(BigInteger)


class Refusal(Base):
    """A call that was refused, for the user whose client hides the answer; the newest are kept."""

    __tablename__ = "refusals"
    __table_args__ = (
        Index("ix_refusals_account_id", "account_id", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    at_ms: Mapped[int] = mapped_column(BigInteger)
    request_id: Mapped[str] = mapped_column(String(128))
    method: Mapped[str] = mapped_column(String(16))
    path: Mapped[str] = mapped_column(String(255))
    status: Mapped[int]
    code: Mapped[str] = mapped_column(String(64))
    message: Mapped[str] = mapped_column(String(300))
    finetune_id: Mapped[str | None] = mapped_column(String(ULID_LENGTH))


class Finetune(Base):
    """A named training effort.

    `origin` says where it started from, when not from a fresh adapter: `{finetune_id}@{step}`, or
    `import:{SHA-256}`; `origin_weights` then is its state at step 0, null while that is fresh, too.
    `ordinal` counts the finetunes of this database, never reused; seeds depend on it, so that they
    do not depend on random ids. `base_model_*` are null until a model was seen.
    """

    __tablename__ = "finetunes"
    __table_args__ = (
        CheckConstraint("rank IN (8, 16, 24, 32)", name="rank"),
        CheckConstraint("step >= 0", name="step"),
        Index(
            "uq_finetunes_living_name",
            "account_id",
            "name",
            unique=True,
            sqlite_where=text("deleted_at_ms IS NULL"),
            postgresql_where=text("deleted_at_ms IS NULL"),
        ),
        {"sqlite_autoincrement": True},
    )

    ordinal: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(ULID_LENGTH), unique=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    name: Mapped[str] = mapped_column(String(128))
    rank: Mapped[int]
    adapter_seed: Mapped[int] = mapped_column(BigInteger)
    base_model_name: Mapped[str | None] = mapped_column(Text)
    base_model_digest: Mapped[str | None] = mapped_column(String(64))
    origin: Mapped[str | None] = mapped_column(Text)
    origin_manifest: Mapped[str | None] = mapped_column(Text)
    origin_weights_path: Mapped[str | None] = mapped_column(Text)
    origin_weights_digest: Mapped[str | None] = mapped_column(String(64))
    origin_weights_num_bytes: Mapped[int | None] = mapped_column(BigInteger)
    step: Mapped[int] = mapped_column(BigInteger)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    updated_at_ms: Mapped[int] = mapped_column(BigInteger)
    deleted_at_ms: Mapped[int | None] = mapped_column(BigInteger)

    @property
    def origin_weights(self) -> FileRef | None:
        """The weights at step 0; None for a fresh adapter."""
        return _file_ref(
            self.origin_weights_path, self.origin_weights_digest, self.origin_weights_num_bytes
        )


class TrainStep(Base):
    """One committed step and the files of the state after it.

    A step that was not applied names the files of the step before; all are null while the adapter
    is still the fresh one.
    """

    __tablename__ = "train_steps"

    finetune_id: Mapped[str] = mapped_column(ForeignKey("finetunes.id"), primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    applied: Mapped[bool]
    response: Mapped[str] = mapped_column(Text)
    weights_path: Mapped[str | None] = mapped_column(Text)
    weights_digest: Mapped[str | None] = mapped_column(String(64))
    weights_num_bytes: Mapped[int | None] = mapped_column(BigInteger)
    optimizer_path: Mapped[str | None] = mapped_column(Text)
    optimizer_digest: Mapped[str | None] = mapped_column(String(64))
    optimizer_num_bytes: Mapped[int | None] = mapped_column(BigInteger)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)

    @property
    def weights(self) -> FileRef | None:
        """The weights after this step."""
        return _file_ref(self.weights_path, self.weights_digest, self.weights_num_bytes)

    @property
    def optimizer(self) -> FileRef | None:
        """The optimizer state after this step."""
        return _file_ref(self.optimizer_path, self.optimizer_digest, self.optimizer_num_bytes)


class RequestState(StrEnum):
    """Where a train request stands; it moves forward only."""

    RUNNING = "running"
    DONE = "done"
    DELIVERED = "delivered"


class TrainRequest(Base):
    """The ledger: one admitted train request, from before its work to the delivery of its answer.

    `seq` counts the admitted requests of a finetune; `step` is the step that one became, null
    while it is running. `epoch` is that of the worker that has it, so that nobody of an older one
    can finish it. `fingerprint` is SHA-256 (hex) over the raw body. The answer stands in the row
    of the step.
    """

    __tablename__ = "train_requests"
    __table_args__ = (
        CheckConstraint("state IN ('running', 'done', 'delivered')", name="state"),
        CheckConstraint("(state = 'running') = (step IS NULL)", name="step"),
        UniqueConstraint("finetune_id", "step"),
    )

    finetune_id: Mapped[str] = mapped_column(ForeignKey("finetunes.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    epoch: Mapped[int] = mapped_column(BigInteger)
    step: Mapped[int | None] = mapped_column(BigInteger)
    num_replays: Mapped[int]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    done_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    delivered_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class IdempotencyKey(Base):
    """The stored answer of a call that came with an explicit key; http-api.md 4.4."""

    __tablename__ = "idempotency_keys"

    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    path: Mapped[str] = mapped_column(String(255), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    response: Mapped[str] = mapped_column(Text)
    finetune_id: Mapped[str | None] = mapped_column(String(ULID_LENGTH))
    created_at_ms: Mapped[int] = mapped_column(BigInteger)


class Checkpoint(Base):
    """A saved step: pins the weights that its train step wrote.

    `number` counts the saves of a finetune from 1, deleted ones included, so that none is reused.
    `exchange_*` is the file for other readers, null until somebody asks for it. `manifest` is JSON
    that says of what these weights are, with digests; null for checkpoints of older releases.
    """

    __tablename__ = "checkpoints"
    __table_args__ = (
        Index(
            "uq_checkpoints_living_step",
            "finetune_id",
            "step",
            unique=True,
            sqlite_where=text("deleted_at_ms IS NULL"),
            postgresql_where=text("deleted_at_ms IS NULL"),
        ),
        Index("uq_checkpoints_number", "finetune_id", "number", unique=True),
    )

    id: Mapped[str] = mapped_column(String(ULID_LENGTH), primary_key=True)
    finetune_id: Mapped[str] = mapped_column(ForeignKey("finetunes.id"))
    # No row has the default: SQLite cannot add a column without one.
    number: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    step: Mapped[int] = mapped_column(BigInteger)
    weights_path: Mapped[str | None] = mapped_column(Text)
    weights_digest: Mapped[str | None] = mapped_column(String(64))
    weights_num_bytes: Mapped[int | None] = mapped_column(BigInteger)
    exchange_path: Mapped[str | None] = mapped_column(Text)
    exchange_digest: Mapped[str | None] = mapped_column(String(64))
    exchange_num_bytes: Mapped[int | None] = mapped_column(BigInteger)
    exchange_manifest: Mapped[str | None] = mapped_column(Text)
    manifest: Mapped[str | None] = mapped_column(Text)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    updated_at_ms: Mapped[int] = mapped_column(BigInteger)
    deleted_at_ms: Mapped[int | None] = mapped_column(BigInteger)

    @property
    def exchange(self) -> FileRef | None:
        """The file for other readers, if it was made."""
        return _file_ref(self.exchange_path, self.exchange_digest, self.exchange_num_bytes)

    @property
    def weights(self) -> FileRef | None:
        """The pinned weights; None when no step had changed the fresh adapter yet."""
        return _file_ref(self.weights_path, self.weights_digest, self.weights_num_bytes)


class BatchState(StrEnum):
    """Where a batch stands; it moves forward only.

    `removed` is the state of an upload that was aborted or forgotten, and of a batch whose time is
    over: callers do not see it, nothing of it counts, and its row goes after its files.
    """

    UPLOADING = "uploading"
    CHUNKING = "chunking"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    REMOVED = "removed"


class Batch(Base):
    """A batch, from the beginning of its upload on; http-api.md section 16.

    `ordinal` counts the batches of this database: lists are in its order. `num_answered` lines have
    committed answers, all from the first on and `num_failed` of them errors; the next line begins
    at byte `next_byte`. `seed` fixes every draw: that of a line depends on it and the line's index.
    `base_model_digest` is that of the model that answers it, null before the first line.
    """

    __tablename__ = "batches"
    __table_args__ = (
        CheckConstraint(
            "state IN ('uploading', 'chunking', 'processing', 'completed', 'failed', 'removed')",
            name="state",
        ),
        CheckConstraint(
            "0 <= num_failed AND num_failed <= num_answered AND num_answered <= num_lines",
            name="progress",
        ),
        CheckConstraint("(state = 'failed') = (error_code IS NOT NULL)", name="error"),
        {"sqlite_autoincrement": True},
    )

    ordinal: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(ULID_LENGTH), unique=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    upload_id: Mapped[str] = mapped_column(String(ULID_LENGTH))
    state: Mapped[str] = mapped_column(String(16))
    model: Mapped[str | None] = mapped_column(Text)
    seed: Mapped[int] = mapped_column(BigInteger)
    base_model_digest: Mapped[str | None] = mapped_column(String(64))
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    num_lines: Mapped[int]
    num_answered: Mapped[int]
    num_failed: Mapped[int]
    next_byte: Mapped[int] = mapped_column(BigInteger)
    input_tokens: Mapped[int] = mapped_column(BigInteger)
    output_tokens: Mapped[int] = mapped_column(BigInteger)
    worked_seconds: Mapped[float] = mapped_column(Float(53))
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    ended_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class BatchFileKind(StrEnum):
    """What a file of a batch is: of its input, of its answers so far, or of its results."""

    PART = "part"
    ANSWERS = "answers"
    OUTPUT = "output"


class BatchFile(Base):
    """A file that counts.

    `number` is that of a part as its caller chose it, of the first line that answers answer, or of
    an output from 0 on.
    """

    __tablename__ = "batch_files"
    __table_args__ = (CheckConstraint("kind IN ('part', 'answers', 'output')", name="kind"),)

    batch_id: Mapped[str] = mapped_column(ForeignKey("batches.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    path: Mapped[str] = mapped_column(Text)
    digest: Mapped[str] = mapped_column(String(64))
    num_bytes: Mapped[int] = mapped_column(BigInteger)

    @property
    def file(self) -> FileRef:
        """The file, relative to the data directory."""
        return FileRef(path=self.path, digest=self.digest, num_bytes=self.num_bytes)


class Metric(Base):
    """One number at one step; names that begin with `sys/` are the server's own."""

    __tablename__ = "metrics"

    finetune_id: Mapped[str] = mapped_column(ForeignKey("finetunes.id"), primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    value: Mapped[float] = mapped_column(Float(53))
    logged_at_ms: Mapped[int] = mapped_column(BigInteger)


def _file_ref(path: str | None, digest: str | None, num_bytes: int | None) -> FileRef | None:
    if path is None or digest is None or num_bytes is None:
        return None
    return FileRef(path=path, digest=digest, num_bytes=num_bytes)
