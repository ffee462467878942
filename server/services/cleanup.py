"""Removal of files that no row needs any more: after a step, after a delete, at start."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError

from contract.errors import EngineError
from server.db import files as file_rows
from server.db import finetunes, kept_aside
from server.db.connection import Database
from server.domain.errors import ServiceError
from server.files import StateFiles
from server.services.dispatch import SupervisedEngine
from server.services.postponed import Postponed

_log = structlog.get_logger("server.cleanup")


class Cleanup:
    """Sweeps in the background; a sweep that fails is made good by a later one."""

    def __init__(self, database: Database, files: StateFiles, engine: SupervisedEngine):
        self._database = database
        self._files = files
        self._engine = engine
        self._tasks: set[asyncio.Task[None]] = set()
        self._postponed = Postponed(self.sweep_soon)
        self._aside: kept_aside.Aside | None = None
        self._reading_aside: asyncio.Task[kept_aside.Aside] | None = None
        self._told_unread: set[Path] = set()

    def sweep_soon(self, finetune_id: str) -> None:
        """Sweep one finetune without making the caller wait."""
        self._start(self._sweep_or_log(finetune_id))

    def drop_soon(self, finetune_id: str) -> None:
        """After a delete: sweep, and let the worker forget the finetune.

        The worker is asked directly, also while a suspect is alone with it: forgetting runs no
        model, reads no file, brings nothing of a caller's along and leaves alone what is in use.
        So it is no cause of a death, and no suspect after one; a worker that died has forgotten.
        """
        self.sweep_soon(finetune_id)
        if self._engine.status().state == "ready":
            self._start(self._drop_or_log(finetune_id))

    async def sweep_all(self) -> None:
        """At start: remove what an earlier process left behind.

        The copies of the database that were made before its upgrades are read once, here.
        """
        self._aside = None
        await self._remove_unknown(await self._read_aside())
        known = await self._database.read(finetunes.list_all_ids)
        for finetune_id in await asyncio.to_thread(self._files.finetune_ids):
            if finetune_id in known:
                await self._sweep_or_log(finetune_id)

    async def _read_aside(self) -> kept_aside.Aside:
        """What the copies need; read again as long as one of them cannot be read."""
        if self._aside is not None and not self._aside.unread:
            return self._aside
        if self._reading_aside is None:  # sweeps that come at once share it
            self._reading_aside = asyncio.create_task(self._read_copies())
        return await asyncio.shield(self._reading_aside)

    async def _read_copies(self) -> kept_aside.Aside:
        try:
            self._aside = await asyncio.to_thread(kept_aside.read, self._database.url)
        finally:
            self._reading_aside = None
        for path, reason in self._aside.unread.items():
            if path not in self._told_unread:
                self._told_unread.add(path)
                _log.warning(
                    "copy_aside_not_readable",
                    path=str(path),
                    detail=f"{reason}; until it can be read no state of before is removed",
                    cure=kept_aside.CURE,
                )
        return self._aside

    async def _remove_unknown(self, aside: kept_aside.Aside) -> None:
        """Remove what a create or an import left that died before its row.

        Nobody else is at it: no other server has this directory, and an import has the lease from
        before its first file until its row is there. What was trained is left alone, and all of it
        if the database knows no finetune: then it may be the wrong database. So is what a copy of
        the database needs.
        """
        for_way_back = {Path(path).parent.name for path in aside.needed}
        with self._files.sweeping() as may_remove:
            known = await self._database.read(finetunes.list_all_ids)
            for finetune_id in await asyncio.to_thread(self._files.finetune_ids):
                if finetune_id in known:
                    continue
                may_go = may_remove and bool(known) and not aside.unread
                may_go = may_go and finetune_id not in for_way_back
                if may_go and await asyncio.to_thread(self._remove_begun, finetune_id):
                    _log.warning("unknown_finetune_folder_removed", finetune_id=finetune_id)
                else:
                    _log.warning("unknown_finetune_folder_left_alone", finetune_id=finetune_id)

    def _remove_begun(self, finetune_id: str) -> bool:
        try:
            begun = self._files.list_begun(finetune_id)
            if begun is not None:
                self._files.remove_begun(finetune_id, begun)
        except OSError as error:
            _log.warning("sweep_failed", finetune_id=finetune_id, detail=str(error))
            return False
        return begun is not None

    async def sweep(self, finetune_id: str) -> int:
        """Remove the files of one finetune that nobody holds and no row needs; return how many."""
        aside = await self._read_aside()
        async with self._files.lock:
            # Listed before the rows are read: a file that is being committed meanwhile is held now
            # and therefore not listed.
            idle = await asyncio.to_thread(self._files.list_idle, finetune_id, self._files.held())
            named = await self._database.read(file_rows.pinned_paths, finetune_id)
            is_living = named is not None
            pinned = self._files.absolute_paths(named or ())
            if is_living:  # a deleted finetune needs nothing, for the way back neither
                own = f"finetunes/{finetune_id}/"
                pinned |= self._files.absolute_paths(p for p in aside.needed if p.startswith(own))
            unneeded = [path for path in idle if path not in pinned]
            if not unneeded:
                return 0
            if is_living and aside.unread:  # nobody knows whether it needs them
                self._postponed.add(finetune_id)
                return 0
            with self._files.sweeping() as may_remove:
                if not may_remove:  # a backup reads
                    self._postponed.add(finetune_id)
                    return 0
                return await asyncio.to_thread(self._files.remove, unneeded)

    async def close(self) -> None:
        """Wait for the sweeps that were begun; begin no more."""
        self._postponed.close()
        await self.settled()
        self._postponed.close()

    async def settled(self) -> None:
        """Wait for the sweeps that were begun, and for those that they begin."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _sweep_or_log(self, finetune_id: str) -> None:
        try:
            num_removed = await self.sweep(finetune_id)
        except (OSError, ServiceError, DBAPIError) as error:
            _log.warning("sweep_failed", finetune_id=finetune_id, detail=str(error))
        else:
            if num_removed:
                _log.info("files_removed", finetune_id=finetune_id, num_files=num_removed)
                self._postponed.sweep()  # removing works again

    async def _drop_or_log(self, finetune_id: str) -> None:
        try:
            await self._engine.drop(finetune_id)
        except EngineError as error:
            _log.warning("drop_failed", finetune_id=finetune_id, detail=str(error))
