"""All SQL of the table meta: facts about this database."""

from __future__ import annotations

from sqlalchemy.orm import Session

from server.db.models import Meta

_EPOCH = "epoch"


def next_epoch(session: Session) -> int:
    """Return a number larger than any before in this database; each worker gets one at birth."""
    row = session.get(Meta, _EPOCH, with_for_update=True)
    epoch = 1 if row is None else int(row.value) + 1
    session.merge(Meta(key=_EPOCH, value=str(epoch)))
    return epoch
