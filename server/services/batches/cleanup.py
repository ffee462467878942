"""Removal of what nobody needs: parts that were replaced, forgotten uploads, results of last week.

Rows say what counts, so they change first and files go after; the row of a batch goes last. Killed
anywhere in between, the next start goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from contract import faults
from server.batch_files import BatchFiles
from server.db import batches
from server.db.connection import Database
from server.domain.clock import NowMs, now_ms
from server.domain.errors import ServiceError
from server.services.postponed import Postponed

LOOK_SECONDS = 60.0
"""How often it is looked for what is over."""

_log = structlog.get_logger("server.cleanup")


class BatchCleanup:
    """Sweeps in the background; a sweep that fails is made good by a later one.

    Args:
        upload_seconds: An upload is forgotten after this long.
        results_seconds: A batch goes this long after its end.
        now: The time of day; nothing else can say for how long a server was not running.
    """

    def __init__(
        self,
        database: Database,
        files: BatchFiles,
        *,
        upload_seconds: int,
        results_seconds: int,
        now: NowMs = now_ms,
    ):
        self._database = database
        self._files = files
        self._upload_ms = 1000 * upload_seconds
        self._results_ms = 1000 * results_seconds
        self._now = now
        self._tasks: set[asyncio.Task[None]] = set()
        self._postponed = Postponed(self.sweep_soon)
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Remove what an earlier process left behind, then look now and then for what is over."""
        for batch_id in await asyncio.to_thread(self._files.batch_ids):
            await self._sweep_or_log(batch_id)
        await self._remove_or_log()
        self._looking = asyncio.create_task(self._look())

    async def close(self) -> None:
        """Wait for the sweeps that were begun; begin no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        self._postponed.close()
        await self.settled()
        self._postponed.close()

    async def settled(self) -> None:
        """Wait for the sweeps that were begun."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def sweep_soon(self, batch_id: str) -> None:
        """Sweep one batch without making the caller wait."""
        self._start(self._sweep_or_log(batch_id))

    async def remove_what_is_over(self) -> None:
        """Have forgotten uploads and old results count no more, and remove them."""
        now = self._now()
        over = await self._database.read(
            batches.list_over,
            begun_before_ms=now - self._upload_ms,
            ended_before_ms=now - self._results_ms,
        )
        for batch in over:
            await self._database.write(_remove, batch.id)
            await self.sweep(batch.id)
            _log.info("batch_removed", batch_id=batch.id, state=batch.state)
        await self._forget(now)

    async def sweep(self, batch_id: str) -> int:
        """Remove the files of one batch that nobody holds and no row names; return how many."""
        # Listed before the rows are read: a file whose row is being written meanwhile is held, and
        # therefore not listed.
        idle = await asyncio.to_thread(self._files.list_idle, batch_id)
        if batch_id not in await self._database.read(batches.list_all_ids):
            if idle:
                _log.warning("unknown_batch_folder_left_alone", batch_id=batch_id)
            return 0
        named = await self._database.read(batches.paths_of, batch_id)
        unneeded = self._files.unneeded(idle, named)
        with self._files.sweeping() as may_remove:
            if not may_remove:  # a backup reads
                self._postponed.add(batch_id)
                return 0
            return await asyncio.to_thread(self._files.remove, batch_id, unneeded)

    async def _forget(self, now: int) -> None:
        """Remove the rows of removed batches, once their files are gone.

        They stay as long as an upload may take, so that aborting one again succeeds.
        """
        begun_before_ms = now - self._upload_ms
        for batch_id in await self._database.read(
            batches.list_removed, begun_before_ms=begun_before_ms
        ):
            await self.sweep(batch_id)
            if not await asyncio.to_thread(self._files.list_idle, batch_id):
                await self._database.write(batches.forget, batch_id)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._remove_or_log()
            except Exception:  # looking must not end with what nobody foresaw
                _log.exception("sweep_crashed")

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _sweep_or_log(self, batch_id: str) -> None:
        try:
            await self.sweep(batch_id)
        except (OSError, ServiceError, DBAPIError) as error:
            _log.warning("sweep_failed", batch_id=batch_id, detail=str(error))

    async def _remove_or_log(self) -> None:
        try:
            await self.remove_what_is_over()
        except (OSError, ServiceError, DBAPIError) as error:
            _log.warning("sweep_failed", detail=str(error))


def _remove(session: Session, batch_id: str) -> None:
    batch = batches.find_by_id(session, batch_id)
    if batch is not None:
        batches.remove(session, batch)
    faults.point("batch.remove")
