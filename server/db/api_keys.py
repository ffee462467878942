"""All SQL of the tables accounts and api_keys."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from server.db.models import Account, ApiKey

Stamp = tuple[int, int]
"""How many keys there are, and how many of them are revoked: no key changes in any other way."""


def stamp(session: Session) -> Stamp:
    """Return what tells whether keys were made or revoked since."""
    counts = select(func.count(ApiKey.id), func.count(ApiKey.revoked_at_ms))
    made, revoked = session.execute(counts).one()
    return made, revoked


def have_account(session: Session, account_id: str, *, at_ms: int) -> None:
    """Make an account unless it is there."""
    if session.get(Account, account_id) is None:
        session.add(Account(id=account_id, created_at_ms=at_ms))
        session.flush()


def find_account(session: Session, account_id: str) -> Account | None:
    """Return an account."""
    return session.get(Account, account_id)


def add(session: Session, key: ApiKey) -> None:
    """Write a new key."""
    session.add(key)
    session.flush()


def list_all(session: Session, *, account_id: str | None = None) -> list[ApiKey]:
    """Return the keys of an account, or of all, oldest first, revoked ones included."""
    query = select(ApiKey).order_by(ApiKey.created_at_ms, ApiKey.id)
    if account_id is not None:
        query = query.where(ApiKey.account_id == account_id)
    return list(session.scalars(query))


def note_uses(session: Session, used_at_ms: Mapping[str, int]) -> None:
    """Note when keys were used last."""
    if not used_at_ms:
        return
    rows = [{"id": key_id, "last_used_at_ms": at_ms} for key_id, at_ms in used_at_ms.items()]
    session.execute(update(ApiKey), rows)  # by primary key
