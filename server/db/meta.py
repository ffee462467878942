"""All SQL of the table meta: facts about this database."""

from __future__ import annotations

import secrets

from sqlalchemy.orm import Session

from server.db.models import Meta

RELEASE = "release"
"""The newest release that has used this database."""

_EPOCH = "epoch"
_SIGNING_SECRET = "signing_secret"
_SECRET_BYTES = 32
_DTYPE = "dtype:"


def next_epoch(session: Session) -> int:
    """Return a number larger than any before in this database; each worker gets one at birth."""
    row = session.get(Meta, _EPOCH, with_for_update=True)
    epoch = 1 if row is None else int(row.value) + 1
    session.merge(Meta(key=_EPOCH, value=str(epoch)))
    return epoch


def find_signing_secret(session: Session) -> str | None:
    """Return what links are signed with, in hex, if one was drawn."""
    row = session.get(Meta, _SIGNING_SECRET)
    return None if row is None else row.value


def signing_secret(session: Session) -> str:
    """Return what links are signed with, in hex; drawn once for this database."""
    found = find_signing_secret(session)
    if found is None:
        found = secrets.token_hex(_SECRET_BYTES)
        session.add(Meta(key=_SIGNING_SECRET, value=found))
    return found


def find_dtype(session: Session, finetune_id: str) -> str | None:
    """Return the dtype of the base model under which a finetune was trained last."""
    row = session.get(Meta, _DTYPE + finetune_id)
    return None if row is None else row.value


def note_dtype(session: Session, finetune_id: str, dtype: str) -> None:
    """Note the dtype of the base model under which a finetune is trained now."""
    session.merge(Meta(key=_DTYPE + finetune_id, value=dtype))
