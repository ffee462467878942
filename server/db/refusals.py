"""All SQL of the table refusals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from server.db.models import Refusal
from server.domain.usage import MAX_REFUSALS


def add(session: Session, account_id: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write refusals of an account, in order, and remove its oldest beyond the limit."""
    if not rows:
        return
    session.execute(insert(Refusal), [{"account_id": account_id, **row} for row in rows])
    of_account = Refusal.account_id == account_id
    newest = select(Refusal.id).where(of_account).order_by(Refusal.id.desc())
    first_too_old = session.scalar(newest.offset(MAX_REFUSALS).limit(1))
    if first_too_old is not None:
        session.execute(delete(Refusal).where(of_account, Refusal.id <= first_too_old))


def list_newest(
    session: Session,
    account_id: str,
    *,
    before_id: int | None,
    finetune_id: str | None,
    limit: int,
) -> list[Refusal]:
    """Return refusals of an account, newest first; of one finetune if it is named."""
    query = select(Refusal).where(Refusal.account_id == account_id)
    if before_id is not None:
        query = query.where(Refusal.id < before_id)
    if finetune_id is not None:
        query = query.where(Refusal.finetune_id == finetune_id)
    return list(session.scalars(query.order_by(Refusal.id.desc()).limit(limit)))
