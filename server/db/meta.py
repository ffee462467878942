"""All SQL of the table meta."""

from __future__ import annotations

from sqlalchemy.orm import Session

from server.db.models import Meta


def get(session: Session, key: str) -> str | None:
    """Return one fact about this database."""
    row = session.get(Meta, key)
    return None if row is None else row.value


def put(session: Session, key: str, value: str) -> None:
    """Write one fact about this database."""
    session.merge(Meta(key=key, value=value))
