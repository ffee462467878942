"""What SQLite and PostgreSQL do alike but say differently."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute, Session

_INSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_BY_CODE_POINT = {"sqlite": "BINARY", "postgresql": "C"}


def insert_into(session: Session, model: type) -> Any:
    """Return an INSERT that knows `on_conflict_do_update`."""
    return _INSERTS[session.get_bind().dialect.name](model)


def by_code_point(session: Session, text: InstrumentedAttribute[str]) -> ColumnElement[str]:
    """Return a text that is ordered the same way on every database, whatever its language."""
    return text.collate(_BY_CODE_POINT[session.get_bind().dialect.name])
