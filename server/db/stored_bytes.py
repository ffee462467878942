"""How much the files of finetunes and batches take, as their rows say it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, func, select, union
from sqlalchemy.orm import Session

from server.db.files import NUM_STATES_KEPT
from server.db.models import Batch, BatchFile, Checkpoint, Finetune, TrainStep


def by_finetune(session: Session, account_id: str) -> dict[str, int]:
    """Return the bytes of each living finetune of an account that has files."""
    named = union(*_files(account_id)).subquery()  # a file that two rows name counts once
    sums = select(named.c.finetune_id, func.sum(named.c.num_bytes)).group_by(named.c.finetune_id)
    return {finetune_id: int(num_bytes) for finetune_id, num_bytes in session.execute(sums)}


def of_account(session: Session, account_id: str) -> int:
    """Return the bytes of all living finetunes and batches of an account."""
    of_batches = (
        select(func.sum(BatchFile.num_bytes))
        .join(Batch, Batch.id == BatchFile.batch_id)
        .where(Batch.account_id == account_id)
    )
    return sum(by_finetune(session, account_id).values()) + int(session.scalar(of_batches) or 0)


def _files(account_id: str) -> list[Any]:
    def files(path: Any, num_bytes: Any, *conditions: ColumnElement[bool]) -> Any:
        return select(
            Finetune.id.label("finetune_id"), path.label("path"), num_bytes.label("num_bytes")
        ).where(
            Finetune.account_id == account_id,
            Finetune.deleted_at_ms.is_(None),
            path.is_not(None),
            *conditions,
        )

    newest = (
        TrainStep.finetune_id == Finetune.id,
        TrainStep.step > Finetune.step - NUM_STATES_KEPT,
    )
    saved = (Checkpoint.finetune_id == Finetune.id, Checkpoint.deleted_at_ms.is_(None))
    return [
        files(TrainStep.weights_path, TrainStep.weights_num_bytes, *newest),
        files(TrainStep.optimizer_path, TrainStep.optimizer_num_bytes, *newest),
        files(Checkpoint.weights_path, Checkpoint.weights_num_bytes, *saved),
        files(Checkpoint.exchange_path, Checkpoint.exchange_num_bytes, *saved),
        files(
            Finetune.origin_weights_path,
            Finetune.origin_weights_num_bytes,
            Finetune.step < NUM_STATES_KEPT,
        ),
    ]
