"""What stored data belongs to: the base model and the dtype under which it was trained.

docs/decisions/0010-belonging.md says what is refused, and what is only told.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from contract.engine import ModelInfo
from server.db import meta
from server.db.models import Finetune
from server.domain.errors import BaseModelMismatchError

_MAX_NAMED = 10


def require_same_dtype(session: Session, finetune_id: str, step: int, model: ModelInfo) -> None:
    """Before a step: refuse to go on in another dtype; note it for a finetune without steps.

    Raises:
        BaseModelMismatchError: Naming both, and what to do.
    """
    trained_in = meta.find_dtype(session, finetune_id)
    if trained_in == model.dtype:
        return
    if trained_in is not None and step > 0:
        raise BaseModelMismatchError(
            f"The finetune was trained on weights in {trained_in}; they are loaded in"
            f" {model.dtype}, and its next step would not be that of its run. Start the server with"
            f" --dtype {trained_in}, or save it and train a new one from_checkpoint."
        )
    meta.note_dtype(session, finetune_id, model.dtype)


def list_strangers(session: Session, model: ModelInfo) -> list[str]:
    """Say which finetunes cannot be trained with the loaded model, and what differs."""
    others: dict[str, list[str]] = {}
    living = select(Finetune).where(Finetune.deleted_at_ms.is_(None)).order_by(Finetune.ordinal)
    for finetune in session.scalars(living):
        if (difference := _difference(session, finetune, model)) is not None:
            others.setdefault(difference, []).append(finetune.name)
    return [
        f"{difference}: {len(names)} finetunes cannot be trained now ({_some(names)})."
        for difference, names in others.items()
    ]


def _difference(session: Session, finetune: Finetune, model: ModelInfo) -> str | None:
    digest = finetune.base_model_digest
    if digest is not None and digest != model.digest:
        return (
            f"base model {finetune.base_model_name} ({digest[:12]}) is wanted, {model.name}"
            f" ({model.digest[:12]}) is loaded"
        )
    dtype = meta.find_dtype(session, finetune.id)
    if dtype is not None and dtype != model.dtype and finetune.step > 0:
        return f"dtype {dtype} is wanted, {model.dtype} is loaded"
    return None


def _some(names: list[str]) -> str:
    return ", ".join(names[:_MAX_NAMED]) + (", ..." if len(names) > _MAX_NAMED else "")
