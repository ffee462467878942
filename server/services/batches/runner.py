"""Which batches are worked on: the oldest of each account, of some accounts at once."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict

import structlog

from server.db import batches
from server.db.connection import Database
from server.domain.caller import Caller, calling
from server.domain.errors import ServiceError
from server.services.batches.errors import BatchFailedError, BatchFault
from server.services.batches.work import BatchGoneError, BatchWork

MAX_AT_ONCE = 8
MAX_FAILURES = 5
"""In a row, of one batch, until it is given up; shortages do not count."""

FIRST_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 60.0

_log = structlog.get_logger("server.batches")


class BatchRunner:
    """Keeps batches going, from `start` to `stop`; its turns with the worker are the dispatcher's.

    A batch whose work fails in an unforeseen way is taken up again, after growing pauses.
    """

    def __init__(self, database: Database, work: BatchWork):
        self._database = database
        self._work = work
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._running: dict[str, asyncio.Task[None]] = {}
        self._accounts: dict[str, str] = {}
        self._num_failures: defaultdict[str, int] = defaultdict(int)
        self._not_before: dict[str, float] = {}

    @property
    def num_running(self) -> int:
        """How many batches are worked on."""
        return len(self._running)

    def start(self) -> None:
        """Begin with what an earlier process left."""
        self._woken.set()
        self._task = asyncio.create_task(self._run())

    def wake(self) -> None:
        """There is a new batch."""
        self._woken.set()

    def give_up(self) -> None:
        """Give up the lines under way, commit what is answered, and begin nothing more."""
        self._stopping.set()
        self._woken.set()

    async def stop(self) -> None:
        """Give up, and wait until that is done; twice is once."""
        self.give_up()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            try:
                await self._begin()
            except ServiceError as error:
                _log.warning("batches_not_read", detail=str(error))
                self._wake_in(FIRST_PAUSE_SECONDS)
            except Exception:  # batches must not end with what nobody foresaw
                _log.exception("batches_not_begun")
                self._wake_in(FIRST_PAUSE_SECONDS)
            await self._woken.wait()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _begin(self) -> None:
        """Begin with batches of accounts that have none running."""
        for batch in await self._database.read(batches.list_open):
            is_free = batch.account_id not in self._accounts.values()
            if len(self._running) == MAX_AT_ONCE or not is_free or self._stopping.is_set():
                continue
            if (pause := self._not_before.get(batch.id, 0.0) - time.monotonic()) > 0:
                self._wake_in(pause)
                continue
            self._accounts[batch.id] = batch.account_id
            self._running[batch.id] = asyncio.create_task(self._work_on(batch.id))

    async def _work_on(self, batch_id: str) -> None:
        try:
            with calling(Caller(account_id=self._accounts[batch_id])):
                await self._work.run(batch_id, self._stopping)
        except BatchGoneError as gone:
            _log.info("batch_gone", batch_id=batch_id, detail=str(gone))
        except ServiceError as error:  # the database is busy, or we are shutting down
            if not self._stopping.is_set():
                _log.warning("batch_interrupted", batch_id=batch_id, detail=str(error))
                self._pause(batch_id)
        except Exception as error:
            _log.error("batch_crashed", batch_id=batch_id, exc_info=error)
            await self._note_failure(batch_id)
        else:
            self._num_failures.pop(batch_id, None)
            self._not_before.pop(batch_id, None)
        finally:
            del self._running[batch_id], self._accounts[batch_id]
            self._woken.set()

    async def _note_failure(self, batch_id: str) -> None:
        self._num_failures[batch_id] += 1
        self._pause(batch_id)
        if self._num_failures[batch_id] < MAX_FAILURES:
            return
        sentence = "The server met a fault of its own again and again; its log has it."
        try:
            await self._work.fail(
                batch_id, BatchFailedError(BatchFault.PROCESSING_FAILED, sentence)
            )
        except (ServiceError, BatchGoneError) as error:
            _log.warning("batch_not_failed", batch_id=batch_id, detail=str(error))

    def _pause(self, batch_id: str) -> None:
        pause = FIRST_PAUSE_SECONDS * 2 ** self._num_failures[batch_id]
        self._not_before[batch_id] = time.monotonic() + min(pause, MAX_PAUSE_SECONDS)

    def _wake_in(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self._woken.set)
