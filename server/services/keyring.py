"""The key ring: which keys there are, as this process knows it.

Keys are made and revoked by other processes (`moontune keys`). They are read again about once a
second while calls come, so that a call costs no look-up and a revoked key ends within two seconds.
While they cannot be read, those that were known go on for a while; then nobody is let in.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from sqlalchemy.orm import Session

from server.db import api_keys
from server.db.connection import Database
from server.db.models import ApiKey
from server.domain.caller import DEFAULT_ACCOUNT, Caller, Limits, Scope
from server.domain.errors import InvalidApiKeyError, OverloadedError, ServiceError
from server.domain.keys import digest_of

FRESH_SECONDS = 0.8
"""Older knowledge is read again while it is used."""

WAITED_FOR_SECONDS = 1.5
"""Older knowledge is not used until it was read again."""

TRUSTED_SECONDS = 30.0
"""How long keys that were known are let in while the database does not answer."""

_SHELF = 4
"""Characters of a digest that the keys are sorted by."""

_log = structlog.get_logger("server.keys")


@dataclass(frozen=True, kw_only=True)
class _Known:
    """The keys at one moment; those that are not revoked by the beginning of their digest."""

    stamp: api_keys.Stamp
    shelves: dict[str, tuple[tuple[str, Caller], ...]]

    @property
    def num_living(self) -> int:
        """How many are not revoked."""
        return sum(map(len, self.shelves.values()))

    def find(self, digest: str) -> Caller | None:
        """Who has the key of this digest.

        Time tells at most where a digest would lie, and nobody can choose the digest of a guess.
        """
        found = None
        for known, caller in self.shelves.get(digest[:_SHELF], ()):
            if hmac.compare_digest(known, digest):
                found = caller
        return found

    @property
    def has_any(self) -> bool:
        """Whether there ever was a key, revoked or not."""
        return self.stamp[0] > 0


class KeyRing:
    """Tells who a key is.

    Args:
        own_key: That of the configuration, a full one of the account `default`.
        defaults: Limits of keys that have none of their own.
        may_be_open: Whether anybody may call as `default` while there is no key at all.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        database: Database,
        *,
        own_key: str | None,
        defaults: Limits,
        may_be_open: bool,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._database = database
        self._own_digest = None if own_key is None else digest_of(own_key)
        self._anybody = Caller(account_id=DEFAULT_ACCOUNT, limits=defaults)
        self._may_be_open = may_be_open and own_key is None
        self._clock = clock
        self._known = _Known(stamp=(-1, -1), shelves={})
        self._read_at = self._tried_at = -TRUSTED_SECONDS - clock()
        self._reading: asyncio.Task[None] | None = None
        self._fault: Exception | None = None
        """Why the last try to read them failed."""

    async def open(self) -> None:
        """Read the keys for the first time."""
        await self._read()

    async def close(self) -> None:
        """Wait for what is being read."""
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)

    async def is_open(self) -> bool:
        """Whether callers need no key."""
        if not self._may_be_open or self._known.has_any:  # what was closed is never open again
            return False
        return not (await self._current()).has_any

    async def caller_of(self, sent: str) -> Caller:
        """Return who sends this key, empty for none.

        Raises:
            InvalidApiKeyError: It is none of ours, or was revoked.
            OverloadedError: The keys could not be read for too long.
            DBAPIError: The same, because the database is damaged.
        """
        known = await self._current()
        if self._may_be_open and not known.has_any:
            return self._anybody
        if not sent:
            raise InvalidApiKeyError(
                "No API key was sent; use the header X-Moondream-Auth, or Authorization: Bearer."
            )
        digest = digest_of(sent)
        caller = known.find(digest)
        is_own = self._own_digest is not None and hmac.compare_digest(digest, self._own_digest)
        if is_own:
            return self._anybody
        if caller is None:
            raise InvalidApiKeyError(
                "The API key is not known, or was revoked; send one that `moontune keys create`"
                " made, or the server's own (MOONTUNE_API_KEY)."
            )
        return caller

    async def _current(self) -> _Known:
        now = self._clock()
        if now - self._tried_at >= FRESH_SECONDS and self._reading is None:
            self._reading = asyncio.create_task(self._read_again())
        if now - self._read_at >= WAITED_FOR_SECONDS and self._reading is not None:
            await asyncio.shield(self._reading)
        if self._clock() - self._read_at >= TRUSTED_SECONDS:
            if self._fault is not None and not isinstance(self._fault, ServiceError):
                raise self._fault.with_traceback(None)  # each raise would make the trace longer
            raise OverloadedError("The keys cannot be read at the moment. Ask again.")
        return self._known

    async def _read_again(self) -> None:
        try:
            await self._read()
        except Exception as error:  # whatever it is, the keys that are known go on for a while
            _log.warning("keys_not_read", detail=str(error))
            self._fault = error
        finally:
            self._tried_at = self._clock()
            self._reading = None

    async def _read(self) -> None:
        asked_at = self._clock()
        known = await self._database.read(_read_keys, self._known, self._anybody.limits)
        if known is not self._known and known.has_any:
            _log.info("keys_read", num_living=known.num_living, num_made=known.stamp[0])
        self._known = known
        self._read_at = self._tried_at = asked_at


def _read_keys(session: Session, known: _Known, defaults: Limits) -> _Known:
    """Return what is known already unless keys were made or revoked since."""
    stamp = api_keys.stamp(session)
    if stamp == known.stamp:
        return known
    living = [key for key in api_keys.list_all(session) if key.revoked_at_ms is None]
    shelves: defaultdict[str, list[tuple[str, Caller]]] = defaultdict(list)
    for key in living:
        shelves[key.digest[:_SHELF]].append((key.digest, _caller(key, defaults)))
    return _Known(stamp=stamp, shelves={name: tuple(keys) for name, keys in shelves.items()})


def _caller(key: ApiKey, defaults: Limits) -> Caller:
    own = Limits(
        requests_per_minute=key.requests_per_minute,
        max_concurrent_rollouts=key.max_concurrent_rollouts,
        max_finetunes=key.max_finetunes,
        max_stored_bytes=key.max_stored_bytes,
    )
    return Caller(
        account_id=key.account_id,
        key_id=key.id,
        scope=Scope(key.scope),
        limits=own.or_else(defaults),
    )
