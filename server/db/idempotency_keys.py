"""All SQL of the table idempotency_keys: stored answers of calls that came with a key."""

from __future__ import annotations

from sqlalchemy import delete
from sqlalchemy.orm import Session

from server.db.models import IdempotencyKey

KEPT_MS = 7 * 24 * 3600 * 1000
"""Promised are 24 hours. Kept is longer, so that a clock that jumps by a day breaks no promise."""


def find(
    session: Session, account_id: str, path: str, key: str, *, now_ms: int
) -> IdempotencyKey | None:
    """Return the stored answer, if there is one that is still kept."""
    row = session.get(IdempotencyKey, (account_id, path, key))
    return None if row is None or row.created_at_ms < now_ms - KEPT_MS else row


def store(session: Session, row: IdempotencyKey) -> None:
    """Write the answer, and forget those of last week.

    Raises:
        IntegrityError: The key has an answer already.
    """
    session.execute(
        delete(IdempotencyKey).where(IdempotencyKey.created_at_ms < row.created_at_ms - KEPT_MS)
    )
    session.add(row)
    session.flush()


def drop_all_of(session: Session, finetune_id: str) -> None:
    """The finetune is deleted."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.finetune_id == finetune_id))
