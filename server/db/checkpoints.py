"""All SQL of the table checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from server.db.models import Checkpoint, Finetune


def find_living(session: Session, finetune_id: str, step: int) -> Checkpoint | None:
    """Return the saved checkpoint of a step."""
    return session.scalar(
        select(Checkpoint).where(
            Checkpoint.finetune_id == finetune_id,
            Checkpoint.step == step,
            Checkpoint.deleted_at_ms.is_(None),
        )
    )


def find_number(session: Session, finetune_id: str, number: int) -> Checkpoint | None:
    """Return the save of that number, deleted or not."""
    return session.scalar(
        select(Checkpoint).where(Checkpoint.finetune_id == finetune_id, Checkpoint.number == number)
    )


def next_number(session: Session, finetune_id: str) -> int:
    """Return the number of the next save; rows are never removed, so that none comes twice."""
    newest = session.scalar(
        select(func.max(Checkpoint.number)).where(Checkpoint.finetune_id == finetune_id)
    )
    return (newest or 0) + 1


def was_ever_saved(session: Session, finetune_id: str, step: int) -> bool:
    """Say whether a checkpoint of the step exists or was deleted."""
    return bool(
        session.scalar(
            select(exists().where(Checkpoint.finetune_id == finetune_id, Checkpoint.step == step))
        )
    )


def list_living(
    session: Session, finetune_id: str, *, after_step: int, limit: int
) -> list[Checkpoint]:
    """Return saved checkpoints by step."""
    return list(
        session.scalars(
            select(Checkpoint)
            .where(
                Checkpoint.finetune_id == finetune_id,
                Checkpoint.deleted_at_ms.is_(None),
                Checkpoint.step > after_step,
            )
            .order_by(Checkpoint.step)
            .limit(limit)
        )
    )


def nearest_steps(session: Session, finetune_id: str, step: int, *, limit: int) -> Sequence[int]:
    """Return the saved steps closest to a step, nearest first."""
    return session.scalars(
        select(Checkpoint.step)
        .where(Checkpoint.finetune_id == finetune_id, Checkpoint.deleted_at_ms.is_(None))
        .order_by(func.abs(Checkpoint.step - step), Checkpoint.step)
        .limit(limit)
    ).all()


def last_step_before(session: Session, finetune_id: str, step: int) -> int | None:
    """Return the last saved step before one."""
    return session.scalar(
        select(func.max(Checkpoint.step)).where(
            Checkpoint.finetune_id == finetune_id,
            Checkpoint.deleted_at_ms.is_(None),
            Checkpoint.step < step,
        )
    )


def list_newest(session: Session, account_id: str, *, limit: int) -> list[Checkpoint]:
    """Return the account's saved checkpoints of living finetunes, newest first."""
    return list(
        session.scalars(
            select(Checkpoint)
            .join(Finetune, Finetune.id == Checkpoint.finetune_id)
            .where(
                Finetune.account_id == account_id,
                Finetune.deleted_at_ms.is_(None),
                Checkpoint.deleted_at_ms.is_(None),
            )
            .order_by(Checkpoint.created_at_ms.desc(), Checkpoint.id.desc())
            .limit(limit)
        )
    )


def list_all_living(session: Session) -> list[Checkpoint]:
    """Return the saved checkpoints of all accounts."""
    return list(session.scalars(select(Checkpoint).where(Checkpoint.deleted_at_ms.is_(None))))
