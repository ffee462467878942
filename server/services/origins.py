"""Where a finetune may start from: a saved checkpoint, by its step or by its number."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from contract.engine import FileRef, ModelInfo
from contract.ids import CheckpointName, NumberedCheckpoint
from server.db import checkpoints, finetunes
from server.db.models import Checkpoint, Finetune
from server.domain.errors import CheckpointNotFoundError, ValidationFailedError
from server.services.adapters import check_base_model, living_finetune

Origin = CheckpointName | NumberedCheckpoint


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """What of a saved checkpoint a new finetune takes over.

    Attributes:
        name: `{finetune_id}@{step}`, whichever name was asked for; rows keep this one.
        base_model: Name and digest.
        seed: Of the fresh adapter of its finetune.
        weights: Its file as rows keep it; None while no step had changed that adapter.
    """

    name: str
    base_model: tuple[str | None, str | None]
    seed: int
    weights: FileRef | None


def find_origin(
    session: Session, account_id: str, origin: Origin, *, rank: int, model: ModelInfo | None
) -> SavedState:
    """Return the saved checkpoint that a finetune of this rank starts from.

    Args:
        model: What is loaded, if that is known.

    Raises:
        FinetuneNotFoundError: Its finetune was deleted or never was.
        CheckpointNotFoundError: It is not saved.
        ValidationFailedError: It has another rank.
        BaseModelMismatchError: It belongs to another base model.
    """
    source = living_finetune(session, account_id, origin.finetune_id)
    checkpoint = _find(session, source, origin)
    if checkpoint is None or checkpoint.deleted_at_ms is not None:
        is_step = isinstance(origin, CheckpointName)
        which = f"step {origin.step}" if is_step else f"number {origin.number}"
        raise CheckpointNotFoundError(
            f"Checkpoint not found: {which} of that finetune is not saved.",
            loc=("body", "from_checkpoint"),
        )
    if source.rank != rank:
        raise ValidationFailedError(
            f"The checkpoint has rank {source.rank}; rank {rank} was asked for.",
            loc=("body", "rank"),
        )
    if model is not None:
        check_base_model(source, model)
    return SavedState(
        name=_name(source.id, checkpoint.step),
        base_model=(source.base_model_name, source.base_model_digest),
        seed=source.adapter_seed,
        weights=checkpoint.weights,
    )


def name_in_rows(session: Session, account_id: str, origin: Origin) -> str:
    """Name an origin as rows do. A number stands for its step, also when it was deleted since."""
    if isinstance(origin, CheckpointName):
        return _name(origin.finetune_id, origin.step)
    source = finetunes.find(session, account_id, origin.finetune_id)
    checkpoint = source and _find(session, source, origin)
    return str(origin) if checkpoint is None else _name(origin.finetune_id, checkpoint.step)


def _name(finetune_id: str, step: int) -> str:
    return f"{finetune_id}@{step}"


def _find(session: Session, source: Finetune, origin: Origin) -> Checkpoint | None:
    if isinstance(origin, CheckpointName):
        return checkpoints.find_living(session, source.id, origin.step)
    return checkpoints.find_number(session, source.id, origin.number)
