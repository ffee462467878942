"""The books: what was used and what was refused, counted in memory and written every few seconds.

No call waits for a write. What was not written when the process is killed is lost, at most
FLUSH_SECONDS of it; committed steps are not, since they are counted in their own transaction.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import structlog
from sqlalchemy.orm import Session

from contract.ids import parse_ulid
from server.db import api_keys, refusals, stored_bytes, usage
from server.db.connection import Database
from server.db.models import Refusal
from server.db.usage import UsageSum
from server.domain.caller import Caller, current_caller
from server.domain.clock import NowMs, now_ms
from server.domain.errors import ServiceError
from server.domain.pages import Page, cut_page
from server.domain.usage import MAX_REFUSALS, By, HourlyUsage, Payer, Usage, hour_of

FLUSH_SECONDS = 3.0
STORED_BYTES_SECONDS = 60.0
"""How often it is looked at how much an account stores, while it calls."""

_MAX_PATH_LENGTH = 255
_MAX_MESSAGE_LENGTH = 300

_log = structlog.get_logger("server.books")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A call of an account that was answered; `code` and `message` of a refusal.

    `finetune_id` is the one that the call named, in whatever shape.
    """

    method: str
    path: str
    request_id: str
    status: int
    code: str = ""
    message: str = ""
    finetune_id: str | None = None


class Books:
    """What the accounts of one process used, and what was refused to them.

    Args:
        clock: Monotonic seconds.
        stamp: Wall time, in milliseconds.
    """

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], float] = time.monotonic,
        stamp: NowMs = now_ms,
    ):
        self._database = database
        self._clock = clock
        self._stamp = stamp
        self._used: dict[tuple[Payer, int], Usage] = {}
        self._refused: dict[str, deque[dict[str, Any]]] = {}
        self._key_uses: dict[str, int] = {}
        self._unsized: dict[str, int] = {}
        self._sized_at: dict[str, float] = {}
        self._writing = asyncio.Lock()
        self._something = asyncio.Event()
        self._flushing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write every few seconds."""
        self._flushing = asyncio.create_task(self._flush_now_and_then())

    async def close(self) -> None:
        """Write what is left; twice is once."""
        if self._flushing is not None:
            async with self._writing:  # what it has in hand is written before it is ended
                self._flushing.cancel()
            await asyncio.gather(self._flushing, return_exceptions=True)
            self._flushing = None
        self._sized_at.clear()
        await self.flush()

    def ended(self, caller: Caller, call: Ended) -> None:
        """Count a call, and remember it if it was refused."""
        at_ms = self._stamp()
        if caller.key_id:
            self._key_uses[caller.key_id] = at_ms
        is_good = call.status < 400
        # A finetune counts only in calls that succeeded: then there is one, and it is theirs.
        finetune_id = parse_ulid(call.finetune_id or "") or ""
        self._add(caller, Usage(requests=1), finetune_id if is_good else "", at_ms)
        if is_good:
            return
        # As many as are kept at most; of a flood between two writes, the newest.
        kept = self._refused.setdefault(caller.account_id, deque(maxlen=MAX_REFUSALS))
        kept.append(
            {
                "at_ms": at_ms,
                "request_id": call.request_id,
                "method": call.method[:16],
                "path": quote(call.path, safe="/@:+,=~")[:_MAX_PATH_LENGTH],
                "status": call.status,
                "code": call.code,
                "message": _printable(call.message[:_MAX_MESSAGE_LENGTH]),
                "finetune_id": finetune_id or None,
            }
        )

    def used(self, spent: Usage, *, finetune_id: str = "") -> None:
        """Count what the caller of the work under way used, outside of any call if need be."""
        caller = current_caller()
        if caller is not None:
            self._add(caller, spent, finetune_id, self._stamp())

    def entry(self, spent: Usage, *, account_id: str, finetune_id: str) -> HourlyUsage:
        """What the caller of the work under way used, to be written in another transaction."""
        caller = current_caller()
        key_id = "" if caller is None else caller.key_id
        payer = Payer(account_id=account_id, finetune_id=finetune_id, key_id=key_id)
        return HourlyUsage(payer=payer, start_at_ms=hour_of(self._stamp()), usage=spent)

    async def usage(
        self,
        account_id: str,
        *,
        by: By,
        from_ms: int,
        to_ms: int,
        after_start_ms: int | None,
        after_name: str | None,
        limit: int,
    ) -> Page[UsageSum]:
        """Return what an account used in the hours from that of `from_ms` to before `to_ms`."""
        self._sized_at.pop(account_id, None)
        await self.flush()
        rows = await self._database.read(
            list_usage,
            account_id,
            by=by,
            from_ms=hour_of(from_ms),
            to_ms=to_ms,
            after_start_ms=after_start_ms,
            after_name=after_name,
            limit=limit + 1,
        )
        return cut_page(
            rows,
            limit=limit,
            key=lambda row: {"start": row.start_at_ms} if by.is_time else {"id": row.name},
        )

    async def refusals(
        self, account_id: str, *, before_id: int | None, finetune_id: str | None, limit: int
    ) -> Page[Refusal]:
        """Return what was refused to an account, newest first."""
        await self.flush()
        rows = await self._database.read(
            refusals.list_newest,
            account_id,
            before_id=before_id,
            finetune_id=finetune_id,
            limit=limit + 1,
        )
        return cut_page(rows, limit=limit, key=lambda row: {"id": row.id})

    async def flush(self) -> None:
        """Write what was counted; what cannot be written now is kept for the next time."""
        async with self._writing:
            to_size = self._to_size()
            if not (self._something.is_set() or to_size):
                return
            self._something.clear()
            used, refused, key_uses = self._used, self._refused, self._key_uses
            self._used, self._refused, self._key_uses = {}, {}, {}
            try:
                sizes = await self._database.read(_sizes, list(to_size))
                await self._database.write(_write, used, refused, key_uses, sizes, to_size)
            except ServiceError as error:
                _log.warning("books_not_written", detail=str(error))
                self._take_back(used, refused, key_uses)
                return
            for account_id, at_ms in to_size.items():
                self._sized_at[account_id] = self._clock()
                if self._unsized[account_id] == at_ms:  # else it called meanwhile
                    del self._unsized[account_id]

    def _add(self, caller: Caller, spent: Usage, finetune_id: str, at_ms: int) -> None:
        payer = Payer(account_id=caller.account_id, finetune_id=finetune_id, key_id=caller.key_id)
        key = payer, hour_of(at_ms)
        self._used[key] = self._used.get(key, Usage()) + spent
        self._unsized[caller.account_id] = at_ms
        self._something.set()

    def _to_size(self) -> dict[str, int]:
        """Who called, and when last, since their files were looked at, which is a while ago."""
        before = self._clock() - STORED_BYTES_SECONDS
        return {
            account_id: at_ms
            for account_id, at_ms in self._unsized.items()
            if self._sized_at.get(account_id, before) <= before
        }

    def _take_back(
        self,
        used: dict[tuple[Payer, int], Usage],
        refused: dict[str, deque[dict[str, Any]]],
        key_uses: dict[str, int],
    ) -> None:
        for key, spent in used.items():
            self._used[key] = self._used.get(key, Usage()) + spent
        for account_id, rows in refused.items():
            rows.extend(self._refused.get(account_id, ()))
            self._refused[account_id] = rows
        self._key_uses = key_uses | self._key_uses
        self._something.set()

    async def _flush_now_and_then(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(STORED_BYTES_SECONDS if self._unsized else None):
                    await self._something.wait()
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self.flush()
            except Exception:  # what cannot be written ever must not stop what comes after it
                _log.exception("books_lost")


def list_usage(
    session: Session,
    account_id: str,
    *,
    by: By,
    from_ms: int,
    to_ms: int,
    after_start_ms: int | None,
    after_name: str | None,
    limit: int,
) -> list[UsageSum]:
    """Return sums; by finetune with what each stores now."""
    rows = usage.list_sums(
        session,
        account_id,
        by=by,
        from_ms=from_ms,
        to_ms=to_ms,
        after_start_ms=after_start_ms,
        after_name=after_name,
        limit=limit,
    )
    if by is not By.FINETUNE:
        return rows
    sizes = stored_bytes.by_finetune(session, account_id)
    return [
        UsageSum(
            start_at_ms=row.start_at_ms,
            name=row.name,
            usage=row.usage,
            stored_bytes=sizes.get(row.name, 0),
        )
        for row in rows
    ]


def _sizes(session: Session, account_ids: list[str]) -> dict[str, int]:
    return {account_id: stored_bytes.of_account(session, account_id) for account_id in account_ids}


def _printable(text: str) -> str:
    """Without what a terminal obeys and a database does not take; names come from callers."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _write(
    session: Session,
    used: dict[tuple[Payer, int], Usage],
    refused: dict[str, deque[dict[str, Any]]],
    key_uses: dict[str, int],
    sizes: dict[str, int],
    sized_at_ms: dict[str, int],
) -> None:
    usage.add(
        session,
        [
            HourlyUsage(payer=payer, start_at_ms=start_at_ms, usage=spent)
            for (payer, start_at_ms), spent in used.items()
        ],
    )
    for account_id, rows in refused.items():
        refusals.add(session, account_id, list(rows))
    api_keys.note_uses(session, key_uses)
    for account_id, num_bytes in sizes.items():
        at_ms = sized_at_ms[account_id]
        usage.saw_stored_bytes(session, account_id, at_ms=at_ms, num_bytes=num_bytes)
