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
    """The bytes of an answer, and whether they were stored for an earlier call."""

    body: bytes
    is_replayed: bool


class KeyedCalls:
    """The calls with a key that run, and what was stored for those that ended."""

    def __init__(self, database: Database):
        self._database = database
        self._running: dict[tuple[str, str, str], tuple[str, asyncio.Task[bytes]]] = {}

    async def once(self, call: KeyedCall, work: Callable[[], Awaitable[bytes]]) -> KeyedAnswer:
        """Do `work`, which stores its answer by `call.store`, unless it was done.

        Raises:
            IdempotencyKeyReusedError: The key came with another body.
            ServiceError: What `work` raises; the key is free then.
        """
        place = (call.account_id, call.path, call.key)
        stored = await self.find(call)
        if stored is not None:
            return KeyedAnswer(body=stored, is_replayed=True)
        if place in self._running:
            fingerprint, task = self._running[place]
            _check(fingerprint, call)
            return KeyedAnswer(body=await asyncio.shield(task), is_replayed=True)
        task = asyncio.ensure_future(_awaited(work))
        self._running[place] = (call.fingerprint, task)
        task.add_done_callback(lambda _: self._running.pop(place))
        return KeyedAnswer(body=await asyncio.shield(task), is_replayed=False)

    async def find(self, call: KeyedCall) -> bytes | None:
        """Return what is stored for the key.

        Raises:
            IdempotencyKeyReusedError: It is the answer to another body.
        """
        row = await self._database.read(idempotency_keys.find, call.account_id, call.path, call.key)
        if row is None:
            return None
        _check(row.fingerprint, call)
        return row.response.encode()


def _check(fingerprint: str, call: KeyedCall) -> None:
    if fingerprint != call.fingerprint:
        raise IdempotencyKeyReusedError(
            "This idempotency key came before with another body. Send a new key with a new request,"
            " or the same body to have its answer again."
        )


async def _awaited(work: Callable[[], Awaitable[bytes]]) -> bytes:
    return await work()
