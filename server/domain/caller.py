"""Who calls: the account and the key of a call, what the key may do, and how much of it.

The caller of the work under way goes along with it as the request id of the logs does: a task has
the caller of whoever began it, so that work which outlives its connection is still theirs.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from enum import StrEnum

DEFAULT_ACCOUNT = "default"
"""The account of open mode, of MOONTUNE_API_KEY, and of everything that older releases made."""


class Scope(StrEnum):
    """What a key may do; which call needs what is said in server/api/rights.py."""

    FULL = "full"
    INFERENCE = "inference"
    READ = "read"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a key may do; None: as much as it likes.

    Attributes:
        requests_per_minute: Calls; as many at once, then evenly.
        max_concurrent_rollouts: Rollouts calls that are waited for or computed at once.
        max_finetunes: Living finetunes of its account with which it may make another.
        max_stored_bytes: Of its account's files, beyond which it may not train or copy.
    """

    requests_per_minute: int | None = None
    max_concurrent_rollouts: int | None = None
    max_finetunes: int | None = None
    max_stored_bytes: int | None = None

    def or_else(self, defaults: Limits) -> Limits:
        """Return these limits, with those of `defaults` where there are none."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return Limits(
            **{
                name: getattr(defaults, name) if value is None else value
                for name, value in own.items()
            }
        )


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Whose call it is; `key_id` is empty in open mode and for MOONTUNE_API_KEY."""

    account_id: str
    key_id: str = ""
    scope: Scope = Scope.FULL
    limits: Limits = Limits()


_current: ContextVar[Caller | None] = ContextVar("caller", default=None)


def current_caller() -> Caller | None:
    """Whose work is under way; None: nobody's, such as at start."""
    return _current.get()


def set_caller(caller: Caller) -> None:
    """Say whose call this is, until the `calling` around it ends."""
    _current.set(caller)


@contextmanager
def calling(caller: Caller | None = None) -> Generator[None]:
    """Do work for somebody, or for whom `set_caller` will say."""
    token = _current.set(caller)
    try:
        yield
    finally:
        _current.reset(token)
