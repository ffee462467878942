"""The ledger of train requests: one that comes again is joined, answered again, or a new step.

The SDK sends the same bytes again when it had no answer, and scripts send the same bytes again on
purpose. Rules (http-api.md 4.2): a request that runs is joined; one whose answer nobody took, and
that no later step has followed, gets the stored answer; everything else is a new step.

Rows in train_requests outlive this process. What is known of deliveries lives here as well, so that
it counts before it is written.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from contract import faults
from server.db import train_requests
from server.db.connection import Database
from server.db.models import RequestState, TrainRequest
from server.domain.clock import now_ms
from server.domain.delivery import Delivery, Fate
from server.domain.errors import (
    FinetuneNotFoundError,
    OverloadedError,
    ServiceError,
    StorageFullError,
)
from server.meters import STEPS_JOINED, STEPS_REPLAYED, Meters
from server.services.adapters import living_finetune
from server.services.train_order import Identity

MAX_REPLAYS = 10
"""As often as the SDK resends; then the same bytes are a new step."""

OPEN_SECONDS = 5.0
"""How long the fate of an answer that is being written is waited for."""

KEPT_SECONDS = 24 * 3600.0
"""How long an answer that nobody took is kept for its caller, by a clock that never jumps. After a
restart it counts anew: the stamp of a row is of the time of day, and that may have jumped."""

STALE_MS = 48 * 3600 * 1000
"""A row whose stamp lies so far back is too old, also if the clock has jumped by a day."""

_log = structlog.get_logger("server.ledger")


@dataclass(frozen=True, kw_only=True)
class TrainAnswer:
    """The bytes of an answer, and whether they were stored for an earlier call."""

    body: bytes
    is_replayed: bool = False


class Run:
    """A request that was admitted; it goes on whoever leaves."""

    def __init__(self, task: asyncio.Task[TrainAnswer]):
        self.task = task
        self.deliveries: list[Delivery] = []

    async def answer(self, delivery: Delivery) -> TrainAnswer:
        """Wait for the answer that all connections get which wait for it."""
        self.deliveries.append(delivery)
        try:
            return await asyncio.shield(self.task)
        except BaseException as error:
            delivery.settle(Fate.LEFT)  # this connection carries no answer of a step
            if isinstance(error, asyncio.CancelledError) and _is_only_the_task(self.task):
                raise OverloadedError(
                    "The server is shutting down. Ask again in a few seconds."
                ) from None
            raise


def _is_only_the_task(task: asyncio.Task[Any]) -> bool:
    """Whether that task was cancelled, and not who waits for it."""
    waiting = asyncio.current_task()
    return task.cancelled() and waiting is not None and not waiting.cancelling()


class Answered:
    """The newest committed step of a finetune: whose answer it was, and whether that was taken."""

    def __init__(
        self,
        *,
        seq: int,
        step: int,
        fingerprint: str,
        expires_at: float,
        is_delivered: bool = False,
        num_replays: int = 0,
    ):
        self.seq = seq
        self.step = step
        self.fingerprint = fingerprint
        self.is_delivered = is_delivered
        self.num_replays = num_replays
        self._expires_at = expires_at
        self._num_open = 0
        self._changed = asyncio.Event()

    @property
    def is_open(self) -> bool:
        """Whether the answer is on its way, and no connection is known to have brought it."""
        return not self.is_delivered and self._num_open > 0

    def may_be_replayed(self, now: float) -> bool:
        """Whether the same request gets the stored answer."""
        is_left = self.num_replays < MAX_REPLAYS and now < self._expires_at
        return is_left and not self.is_delivered

    def carried_by(self, delivery: Delivery, on_delivered: Callable[[], None]) -> None:
        """Another connection brings the answer."""
        self._num_open += 1

        def settle(is_delivered: bool) -> None:
            self._num_open -= 1
            if is_delivered and not self.is_delivered:
                self.is_delivered = True
                on_delivered()
            self._changed.set()
            self._changed = asyncio.Event()

        delivery.when_known(settle)

    async def known(self) -> None:
        """Wait until the answer is known to have been taken, or not."""
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                while self.is_open:
                    await self._changed.wait()
        except TimeoutError:
            _log.warning("delivery_unknown", step=self.step)


class Ledger:
    """The train requests of one process.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(
        self, database: Database, meters: Meters, clock: Callable[[], float] = time.monotonic
    ):
        self._database = database
        self._meters = meters
        self._clock = clock
        self._runs: dict[Identity, Run] = {}
        self._newest: dict[tuple[str, str], Answered | None] = {}
        self._doubts: dict[tuple[str, str], object] = {}
        self._marking: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """At start: drop what an earlier process had in hand; its callers send it again.

        On a full disk the rows stay, and harm nobody: the next step of their finetune drops them.
        """
        try:
            num_dropped = await self._database.write(train_requests.drop_running)
        except StorageFullError as error:
            _log.warning("ledger_rows_left", detail=str(error))
            return
        if num_dropped:
            _log.info("unfinished_requests_dropped", num_requests=num_dropped)

    async def settled(self) -> None:
        """Wait for the marks that are being written."""
        await asyncio.gather(*self._marking, return_exceptions=True)

    async def find(
        self, identity: Identity, *, expected_step: int | None = None
    ) -> Run | Answered | None:
        """Return what answers this request without training; None: it is a new step.

        Whoever gets None has to `begin` before anything else is awaited.

        Raises:
            FinetuneNotFoundError: There is no such finetune.
        """
        has_waited = False
        while True:
            run = self._runs.get(identity)
            if run is not None:
                self._meters.count(STEPS_JOINED)
                _log.info("step_joined", finetune_id=identity.finetune_id)
                return run
            key = identity.finetune_key
            if key not in self._newest or key in self._doubts:
                await self._look_up(identity)
                continue
            newest = self.newest(identity)
            if newest is None:
                return None
            if expected_step is not None and newest.step == expected_step + 1:
                return newest
            if newest.is_open and not has_waited:
                has_waited = True
                await newest.known()
                continue
            return newest if newest.may_be_replayed(self._clock()) else None

    def begin(
        self, identity: Identity, work: Callable[[], Coroutine[Any, Any, TrainAnswer]]
    ) -> Run:
        """Admit a new step: from here on its twins join it."""
        assert identity not in self._runs, "a request that runs is joined"
        run = self._runs[identity] = Run(asyncio.create_task(work()))
        run.task.add_done_callback(lambda _: self._end(identity, run))
        return run

    def committed(self, identity: Identity, *, seq: int, step: int) -> None:
        """The step counts; call it with the transaction, before anything else is awaited."""
        newest = self._newest[identity.finetune_key] = Answered(
            seq=seq,
            step=step,
            fingerprint=identity.fingerprint,
            expires_at=self._clock() + KEPT_SECONDS,
        )
        run = self._runs.pop(identity)
        for delivery in run.deliveries:
            self.carry(identity, newest, delivery)

    def newest(self, identity: Identity) -> Answered | None:
        """The newest committed step of the finetune, if it is this request's."""
        newest = self._newest.get(identity.finetune_key)
        is_ours = newest is not None and newest.fingerprint == identity.fingerprint
        return newest if is_ours else None

    def carry(self, identity: Identity, answered: Answered, delivery: Delivery) -> None:
        """A connection brings the answer of a step."""
        answered.carried_by(delivery, lambda: self._mark_soon(identity.finetune_id, answered.seq))

    async def read_newest(self, identity: Identity) -> Answered | None:
        """The newest committed step of the finetune as rows tell, if it is this request's."""
        await self._look_up(identity)
        return self.newest(identity)

    def replayed(self, identity: Identity, answered: Answered, delivery: Delivery) -> None:
        """The stored answer goes out once more, by this connection."""
        answered.num_replays += 1
        self.carry(identity, answered, delivery)
        self._meters.count(STEPS_REPLAYED)
        _log.info(
            "step_replayed",
            finetune_id=identity.finetune_id,
            step=answered.step,
            num_replays=answered.num_replays,
        )
        self._write_soon(train_requests.count_replay, identity.finetune_id, answered.seq)

    def forget(self, account_id: str, finetune_id: str) -> None:
        """The finetune is deleted."""
        self._newest.pop((account_id, finetune_id), None)
        self._doubts.pop((account_id, finetune_id), None)

    def doubt(self, account_id: str, finetune_id: str) -> None:
        """A step failed, and may have been committed all the same: rows are asked before the next.

        What is known of the deliveries of the step before it is kept: the row may lack it.
        """
        self._doubts[account_id, finetune_id] = object()

    async def _look_up(self, identity: Identity) -> None:
        """Learn from rows of a step that is newer than the one that is known."""
        key = identity.finetune_key
        doubt = self._doubts.get(key)
        try:
            row = await self._database.read(_newest, identity.account_id, identity.finetune_id)
        except FinetuneNotFoundError:
            self.forget(identity.account_id, identity.finetune_id)
            raise
        if self._doubts.get(key) is doubt:  # else a step failed meanwhile
            self._doubts.pop(key, None)
        known, told = self._newest.get(key), self._answered(row)
        if known is None or (told is not None and told.step > known.step):
            self._newest[key] = told

    def _answered(self, row: TrainRequest | None) -> Answered | None:
        if row is None or row.step is None:
            return None
        is_stale = (row.done_at_ms or 0) < now_ms() - STALE_MS
        return Answered(
            seq=row.seq,
            step=row.step,
            fingerprint=row.fingerprint,
            expires_at=self._clock() + (0.0 if is_stale else KEPT_SECONDS),
            is_delivered=row.state == RequestState.DELIVERED,
            num_replays=row.num_replays,
        )

    def _end(self, identity: Identity, run: Run) -> None:
        """A request that was refused or failed leaves nothing that could be joined."""
        if self._runs.get(identity) is run:
            del self._runs[identity]
        if not run.task.cancelled():
            run.task.exception()  # looked at, so that asyncio does not report it when nobody waits

    def _mark_soon(self, finetune_id: str, seq: int) -> None:
        faults.point("step.deliver")
        self._write_soon(train_requests.mark_delivered, finetune_id, seq, at_ms=now_ms())

    def _write_soon(self, work: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Write down what counts already; if that fails, a crash may replay one answer too many."""
        task = asyncio.get_running_loop().create_task(self._write(work, *args, **kwargs))
        self._marking.add(task)
        task.add_done_callback(self._marking.discard)

    async def _write(self, work: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        try:
            await self._database.write(work, *args, **kwargs)
        except (ServiceError, DBAPIError) as error:
            _log.warning("delivery_not_recorded", detail=str(error))


def _newest(session: Session, account_id: str, finetune_id: str) -> TrainRequest | None:
    finetune = living_finetune(session, account_id, finetune_id)
    return train_requests.find_of_step(session, finetune.id, finetune.step)
