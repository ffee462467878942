"""All SQL of the table train_steps."""

from __future__ import annotations

from sqlalchemy.orm import Session

from server.db.models import Finetune, TrainStep


def find(session: Session, finetune_id: str, step: int) -> TrainStep | None:
    """Return one committed step."""
    return session.get(TrainStep, (finetune_id, step))


def find_newest(session: Session, finetune: Finetune) -> TrainStep | None:
    """Return the step that a finetune is at; None at step 0."""
    return find(session, finetune.id, finetune.step)
