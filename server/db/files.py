"""Which files rows name: what is pinned, and what nothing pins any more."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from server.db.models import Checkpoint, Finetune, TrainStep

NUM_STATES_KEPT = 2
"""The newest state, and the one before it, from which the newest step could be redone."""


def pinned_paths(session: Session, finetune_id: str) -> set[str] | None:
    """Return the paths that a finetune needs: its last two states, its saved checkpoints
    with the files that were made of them. None: it is deleted or unknown.
    """
    finetune = session.scalar(
        select(Finetune).where(Finetune.id == finetune_id, Finetune.deleted_at_ms.is_(None))
    )
    if finetune is None:
        return None
    states = session.execute(
        select(TrainStep.weights_path, TrainStep.optimizer_path).where(
            TrainStep.finetune_id == finetune_id,
            TrainStep.step > finetune.step - NUM_STATES_KEPT,
        )
    )
    saved = session.execute(
        select(Checkpoint.weights_path, Checkpoint.exchange_path).where(
            Checkpoint.finetune_id == finetune_id, Checkpoint.deleted_at_ms.is_(None)
        )
    )
    paths = {path for row in (*states, *saved) for path in row}
    if finetune.step < NUM_STATES_KEPT:  # its first state is the one it started from
        paths.add(finetune.origin_weights_path)
    return {path for path in paths if path is not None}
