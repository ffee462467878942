"""Downloads: the exchange file of a saved checkpoint, made when it is first asked for."""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy.orm import Session

from contract import faults
from contract.engine import ExportCheckpoint, ExportedFile
from contract.work import WorkClass
from server.db import checkpoints, finetunes
from server.db.connection import Database
from server.db.models import Checkpoint
from server.domain.errors import (
    CheckpointDeletedError,
    CheckpointNotFoundError,
    OverloadedError,
)
from server.domain.signing import FileGrant
from server.files import StateFiles, is_intact
from server.services.adapters import Adapters, AdapterState, living_finetune
from server.services.cleanup import Cleanup
from server.services.dispatch import Dispatcher, SupervisedEngine
from server.services.handover import Handover
from server.services.links import Download, Links

_log = structlog.get_logger("server.downloads")

ANSWER_SECONDS = 9.0
"""A caller is answered within ten seconds; a file that takes longer is made all the same."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """A way to a file: its token, and how long it holds."""

    token: str
    expires_in_seconds: int


class Downloads:
    """Links to exchange files, and what they lead to."""

    def __init__(
        self,
        *,
        database: Database,
        engine: SupervisedEngine,
        dispatcher: Dispatcher,
        handover: Handover,
        adapters: Adapters,
        files: StateFiles,
        cleanup: Cleanup,
        links: Links,
        queue_seconds: float,
    ):
        self._database = database
        self._engine = engine
        self._dispatcher = dispatcher
        self._handover = handover
        self._adapters = adapters
        self._files = files
        self._cleanup = cleanup
        self._links = links
        self._queue_seconds = queue_seconds
        self._making: dict[str, asyncio.Task[None]] = {}

    async def link(self, account_id: str, finetune_id: str, step: int) -> Link:
        """Return a link to the file of a saved step; makes the file when there is none.

        Raises:
            CheckpointNotFoundError: The step was never saved.
            CheckpointDeletedError: It was, and was deleted.
            BaseModelMismatchError: There is no file yet, and it belongs to another base model.
            OverloadedError: There is none yet, and it takes long.
        """
        checkpoint = await self._database.read(_find, account_id, finetune_id, step)
        if not await self._has_file(checkpoint):
            await self._have_made(account_id, checkpoint)
        (token,) = await self._links.sign(
            lambda expires_at_seconds: FileGrant(
                checkpoint_id=checkpoint.id,
                account_id=account_id,
                expires_at_seconds=expires_at_seconds,
            )
        )
        return Link(token=token, expires_in_seconds=self._links.seconds)

    async def open(self, grant: FileGrant) -> Download:
        """Return what a token leads to; whoever has it needs no key.

        Raises:
            CheckpointNotFoundError: The checkpoint was deleted since, or its file is gone.
        """
        checkpoint = await self._database.read(_find_granted, grant)
        file = self._files.absolute(checkpoint.exchange)
        if file is None or not await self._has_file(checkpoint):
            raise CheckpointNotFoundError("Checkpoint not found: its file is gone; ask for a link.")
        return Download(
            path=Path(file.path),
            name=f"{checkpoint.finetune_id}@{checkpoint.step}.pt",
            digest=file.digest,
        )

    async def close(self) -> None:
        """After the engine ended: let what was being made come to its end."""
        await asyncio.gather(*self._making.values(), return_exceptions=True)

    async def _has_file(self, checkpoint: Checkpoint) -> bool:
        file = self._files.absolute(checkpoint.exchange)
        return file is not None and await asyncio.to_thread(is_intact, file)

    async def _have_made(self, account_id: str, checkpoint: Checkpoint) -> None:
        """Wait for the one task that makes this file; it goes on when its callers have gone."""
        task = self._making.get(checkpoint.id)
        if task is None:
            task = asyncio.create_task(self._make(account_id, checkpoint))
            self._making[checkpoint.id] = task
            task.add_done_callback(lambda ended: self._made(checkpoint.id, ended))
        try:
            await asyncio.wait_for(asyncio.shield(task), ANSWER_SECONDS)
        except TimeoutError:
            raise OverloadedError("The checkpoint's file is still being made. Ask again.") from None

    def _made(self, checkpoint_id: str, task: asyncio.Task[None]) -> None:
        del self._making[checkpoint_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("exchange_file_not_made", checkpoint_id=checkpoint_id, detail=str(error))

    async def _make(self, account_id: str, checkpoint: Checkpoint) -> None:
        finetune_id, step = checkpoint.finetune_id, checkpoint.step
        try:
            found = await self._database.read(_find, account_id, finetune_id, step)
            if await self._has_file(found):
                return  # it was made between our caller's look and now
            with self._dispatcher.place(
                WorkClass.INFERENCE, finetune_id, account_id=account_id
            ) as place:
                await place.turn(within=self._queue_seconds)
                begin_before = place.waits_since + self._queue_seconds
                model = await self._handover.loaded_model(before=begin_before)
                async with self._adapters.saved(account_id, finetune_id, step, model) as state:
                    with ExitStack() as outputs:  # held until the row names them, or nothing does
                        exported = await self._handover.call(
                            lambda: self._attempt(state, outputs),
                            fingerprint=hashlib.sha256(f"export {checkpoint.id}".encode()).digest(),
                            begin_before=begin_before,
                        )
                        stored = self._stored(exported)
                        await self._database.write(_keep, account_id, checkpoint.id, stored)
        finally:
            self._cleanup.sweep_soon(finetune_id)

    async def _attempt(self, state: AdapterState, outputs: ExitStack) -> ExportedFile:
        """One worker's attempt, under a name of its own."""
        adapter = state.adapter
        await self._files.require_space(state.export_bytes)
        async with self._files.lock:
            path = self._files.new_exchange(adapter.finetune_id, adapter.step)
            outputs.enter_context(self._files.hold([path]))
        return await self._engine.export_checkpoint(ExportCheckpoint(adapter=adapter, path=path))

    def _stored(self, exported: ExportedFile) -> ExportedFile:
        return ExportedFile(file=self._files.stored(exported.file), manifest=exported.manifest)


def _find(session: Session, account_id: str, finetune_id: str, step: int) -> Checkpoint:
    finetune = living_finetune(session, account_id, finetune_id)
    checkpoint = checkpoints.find_living(session, finetune.id, step)
    if checkpoint is not None:
        return checkpoint
    if checkpoints.was_ever_saved(session, finetune.id, step):
        raise CheckpointDeletedError(f"Checkpoint deleted: step {step} was saved and deleted.")
    raise CheckpointNotFoundError(f"Checkpoint not found: step {step} was never saved.")


def _find_granted(session: Session, grant: FileGrant) -> Checkpoint:
    checkpoint = session.get(Checkpoint, grant.checkpoint_id)
    if checkpoint is None or checkpoint.deleted_at_ms is not None:
        raise _gone()
    if finetunes.find_living(session, grant.account_id, checkpoint.finetune_id) is None:
        raise _gone()
    return checkpoint


def _keep(session: Session, account_id: str, checkpoint_id: str, exported: ExportedFile) -> None:
    """Note the file, unless the checkpoint is gone; what was noted before is missing by now."""
    faults.point("export.commit")
    checkpoint = session.get(Checkpoint, checkpoint_id)
    assert checkpoint is not None, "rows of checkpoints are never removed"
    living_finetune(session, account_id, checkpoint.finetune_id)
    if checkpoint.deleted_at_ms is not None:
        raise CheckpointDeletedError("The checkpoint was deleted while its file was made.")
    checkpoint.exchange_path = exported.file.path
    checkpoint.exchange_digest = exported.file.digest
    checkpoint.exchange_num_bytes = exported.file.num_bytes
    checkpoint.exchange_manifest = json.dumps(exported.manifest)


def _gone() -> CheckpointNotFoundError:
    return CheckpointNotFoundError("Checkpoint not found: it was deleted since the link was made.")
