"""All SQL of the table finetunes."""

from __future__ import annotations

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from server.db.models import Finetune


def find(session: Session, account_id: str, finetune_id: str) -> Finetune | None:
    """Return a finetune of the account, deleted or not."""
    return session.scalar(
        select(Finetune).where(Finetune.id == finetune_id, Finetune.account_id == account_id)
    )


def find_owner(session: Session, finetune_id: str) -> str | None:
    """Return whose finetune it is, deleted or not."""
    return session.scalar(select(Finetune.account_id).where(Finetune.id == finetune_id))


def find_living(session: Session, account_id: str, finetune_id: str) -> Finetune | None:
    """Return a finetune of the account that was not deleted."""
    finetune = find(session, account_id, finetune_id)
    return None if finetune is None or finetune.deleted_at_ms is not None else finetune


def find_by_name(session: Session, account_id: str, name: str) -> Finetune | None:
    """Return the living finetune of that name."""
    return session.scalar(
        select(Finetune).where(
            Finetune.account_id == account_id,
            Finetune.name == name,
            Finetune.deleted_at_ms.is_(None),
        )
    )


def count_living(session: Session, account_id: str) -> int:
    """Return how many finetunes an account has that were not deleted."""
    count = select(func.count(Finetune.id)).where(
        Finetune.account_id == account_id, Finetune.deleted_at_ms.is_(None)
    )
    return session.execute(count).scalar_one()


def list_living(
    session: Session, account_id: str, *, after_ordinal: int, limit: int
) -> list[Finetune]:
    """Return living finetunes, oldest first."""
    return list(
        session.scalars(
            select(Finetune)
            .where(
                Finetune.account_id == account_id,
                Finetune.deleted_at_ms.is_(None),
                Finetune.ordinal > after_ordinal,
            )
            .order_by(Finetune.ordinal)
            .limit(limit)
        )
    )


def list_all_ids(session: Session) -> set[str]:
    """Return the ids of every account's finetunes, deleted ones included."""
    return set(session.scalars(select(Finetune.id)))


def list_deleted_ids(session: Session) -> set[str]:
    """Return the ids of every account's finetunes that were deleted."""
    return set(session.scalars(select(Finetune.id).where(Finetune.deleted_at_ms.is_not(None))))


def advance(session: Session, finetune_id: str, *, from_step: int, at_ms: int) -> bool:
    """Move a living finetune one step on; False if it was deleted or is at another step."""
    moved = session.execute(
        update(Finetune)
        .where(
            Finetune.id == finetune_id,
            Finetune.step == from_step,
            Finetune.deleted_at_ms.is_(None),
        )
        .values(step=from_step + 1, updated_at_ms=at_ms)
        .returning(Finetune.id)
    )
    return moved.first() is not None
