"""Explicit keys: a call that comes with one is done once, and answered the same ever after.

Same key and same body: the stored answer, delivered or not. Same key and another body: 409. While
the first one runs, the second waits for it. The answer is stored in the transaction of its effect.
Source: http-api.md 4.4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sqlalchemy.orm import Session

from server.db import idempotency_keys
from server.db.connection import Database
from server.db.models import IdempotencyKey
from server.domain.clock import now_ms
from server.domain.errors import IdempotencyKeyReusedError


@dataclass(frozen=True, kw_only=True)
class KeyedCall:
    """A call with its key.

    Attributes:
        path: Of the route; a key means nothing on another one.
        fingerprint: SHA-256 (hex) over the raw body.
    """

    account_id: str
    path: str
    key: str
    fingerprint: str

    def store(self, session: Session, answer: bytes, finetune_id: str | None) -> None:
        """Write the answer, inside the transaction of what the call does."""
        row = IdempotencyKey(
            account_id=self.account_id,
            path=self.path,
            key=self.key,
            fingerprint=self.fingerprint,
            response=answer.decode(),
            finetune_id=finetune_id,
            created_at_ms=now_ms(),
        )
        idempotency_keys.store(session, row)


@dataclass(frozen=True, kw_only=True)
class KeyedAnswer:
    """The bytes of an answer, and whether they were stored before this call came."""

    body: bytes
    is_replayed: bool


class KeyedCalls:
    """The calls with a key that run, and what was stored for those that ended."""

    def __init__(self, database: Database):
        self._database = database
        self._running: dict[tuple[str, str, str], _Running] = {}

    async def once(
        self,
        call: KeyedCall,
        work: Callable[[], Awaitable[bytes]],
        *,
        on_joined: Callable[[], None] = lambda: None,
    ) -> KeyedAnswer:
        """Do `work`, which stores its answer by `call.store`, unless it was done.

        Args:
            on_joined: Called when another call does it, and this one only waits.

        Raises:
            IdempotencyKeyReusedError: The key came with another body.
            ServiceError: What `work` raises; the key is free then.
        """
        place = (call.account_id, call.path, call.key)
        running = self._running.get(place)
        if running is None:  # taken before anything is awaited, so that one of two is the first
            task = asyncio.create_task(self._stored_or_done(call, work))
            running = self._running[place] = _Running(fingerprint=call.fingerprint, task=task)
            task.add_done_callback(lambda _: self._end(place))
        else:
            _check(running.fingerprint, call)
            on_joined()
        return await asyncio.shield(running.task)

    async def _stored_or_done(
        self, call: KeyedCall, work: Callable[[], Awaitable[bytes]]
    ) -> KeyedAnswer:
        row = await self._database.read(
            idempotency_keys.find, call.account_id, call.path, call.key, now_ms=now_ms()
        )
        if row is None:
            return KeyedAnswer(body=await work(), is_replayed=False)
        _check(row.fingerprint, call)
        return KeyedAnswer(body=row.response.encode(), is_replayed=True)

    def _end(self, place: tuple[str, str, str]) -> None:
        task = self._running.pop(place).task
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it when nobody waits


@dataclass(frozen=True, kw_only=True)
class _Running:
    fingerprint: str
    task: asyncio.Task[KeyedAnswer]


def _check(fingerprint: str, call: KeyedCall) -> None:
    if fingerprint != call.fingerprint:
        raise IdempotencyKeyReusedError(
            "This idempotency key came before with another body. Send a new key with a new request,"
            " or the same body to have its answer again."
        )
