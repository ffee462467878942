"""Making, listing and revoking API keys: what `moontune keys` does, in units of work.

A server that runs hears of it within two seconds (services/keyring.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session
from ulid import ULID

from server.db import api_keys
from server.db.models import ApiKey
from server.domain.caller import Limits, Scope
from server.domain.clock import now_ms
from server.domain.keys import (
    digest_of,
    draw_key,
    is_account_name,
    is_key_name,
    shown_part,
)


class KeyRefusedError(Exception):
    """A key cannot be made or revoked; the message is a sentence for people."""


@dataclass(frozen=True, kw_only=True)
class MadeKey:
    """A new key: the only time that it is known in whole."""

    key: str
    row: ApiKey


def create_key(
    session: Session, *, account_id: str, name: str, scope: Scope, limits: Limits
) -> MadeKey:
    """Make a key, and its account if there is none.

    Raises:
        KeyRefusedError: One of the names cannot be.
    """
    if not is_account_name(account_id):
        raise KeyRefusedError(
            "An account's name has 1-64 characters of a-z 0-9 . _ - and begins with one of the"
            " first two kinds."
        )
    if not is_key_name(name):
        raise KeyRefusedError("A key's name has 1-128 printable characters.")
    at_ms = now_ms()
    api_keys.have_account(session, account_id, at_ms=at_ms)
    key = draw_key()
    row = ApiKey(
        id=str(ULID()),
        account_id=account_id,
        digest=digest_of(key),
        prefix=shown_part(key),
        name=name,
        scope=scope.value,
        requests_per_minute=limits.requests_per_minute,
        max_concurrent_rollouts=limits.max_concurrent_rollouts,
        max_finetunes=limits.max_finetunes,
        max_stored_bytes=limits.max_stored_bytes,
        created_at_ms=at_ms,
    )
    api_keys.add(session, row)
    return MadeKey(key=key, row=row)


def revoke_key(session: Session, named: str) -> ApiKey:
    """End a key for good, again if it is revoked.

    Args:
        named: Its id, its first characters as lists show them, or its name; whatever names one
            key only, among living ones first.

    Raises:
        KeyRefusedError: No key is meant by that, or several are.
    """
    called = named.strip()
    every = [
        key
        for key in api_keys.list_all(session)
        if called.upper() == key.id or called in (key.prefix, key.name)
    ]
    found = [key for key in every if key.revoked_at_ms is None] or every
    if not found:
        raise KeyRefusedError("There is no such key; `moontune keys list --all` shows all.")
    if len(found) > 1:
        ids = ", ".join(key.id for key in found)
        raise KeyRefusedError(f"Several keys are called so; name one by its id: {ids}.")
    (key,) = found
    if key.revoked_at_ms is None:
        key.revoked_at_ms = now_ms()
    return key
