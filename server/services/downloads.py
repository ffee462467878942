"""Downloads: the exchange file of a saved checkpoint, made when it is first asked for."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from contract.engine import ExportCheckpoint, ExportedFile
from server.db import checkpoints, finetunes, meta
from server.db.connection import Database
from server.db.models import Checkpoint
from server.domain.errors import CheckpointDeletedError, CheckpointNotFoundError
from server.domain.signing import FileGrant, sign, verify
from server.files import StateFiles
from server.services.adapters import Adapters, living_finetune
from server.services.cleanup import Cleanup
from server.services.dispatch import Dispatcher, SupervisedEngine, WorkClass
from server.services.handover import Handover

QUEUE_SECONDS = 8.0
"""A download has to be answered within ten seconds; what cannot start by then is asked again."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """A way to a file: its token, how long it holds, and what it leads to."""

    token: str
    expires_in_seconds: int
    digest: str
    num_bytes: int
    manifest: dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file to send, and what it is called."""

    path: Path
    name: str


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
        link_seconds: int,
        clock: Callable[[], float] = time.time,
    ):
        self._database = database
        self._engine = engine
        self._dispatcher = dispatcher
        self._handover = handover
        self._adapters = adapters
        self._files = files
        self._cleanup = cleanup
        self._link_seconds = link_seconds
        self._clock = clock

    async def link(self, account_id: str, finetune_id: str, step: int) -> Link:
        """Return a link to the file of a saved step; makes the file when there is none yet.

        Raises:
            CheckpointNotFoundError: The step was never saved.
            CheckpointDeletedError: It was, and was deleted.
            BaseModelMismatchError: There is no file yet, and it belongs to another base model.
            OverloadedError: There is none yet, and the worker is busy.
        """
        checkpoint = await self._database.read(_find, account_id, finetune_id, step)
        if checkpoint.exchange is None:
            checkpoint = await self._make(account_id, checkpoint)
        file, manifest = checkpoint.exchange, checkpoint.exchange_manifest
        assert file is not None, "a file was made"
        assert manifest is not None, "a file has a manifest"
        grant = FileGrant(
            checkpoint_id=checkpoint.id,
            account_id=account_id,
            expires_at_seconds=int(self._clock()) + self._link_seconds,
        )
        return Link(
            token=sign(grant, await self._secret()),
            expires_in_seconds=self._link_seconds,
            digest=file.digest,
            num_bytes=file.num_bytes,
            manifest=json.loads(manifest),
        )

    async def open(self, token: str) -> Download:
        """Return what a token leads to; whoever has it needs no key.

        Raises:
            ForbiddenError: It is forged, damaged or expired.
            CheckpointNotFoundError: The checkpoint was deleted since.
        """
        grant = verify(token, await self._secret(), now_seconds=self._clock())
        checkpoint = await self._database.read(_find_granted, grant)
        file = self._files.absolute(checkpoint.exchange)
        if file is None or not await asyncio.to_thread(Path(file.path).is_file):
            raise _gone()
        return Download(path=Path(file.path), name=f"{checkpoint.finetune_id}@{checkpoint.step}.pt")

    async def _make(self, account_id: str, checkpoint: Checkpoint) -> Checkpoint:
        finetune_id, step = checkpoint.finetune_id, checkpoint.step
        with self._dispatcher.place(WorkClass.INFERENCE, finetune_id) as place:
            await place.turn(within=QUEUE_SECONDS)
            model = await self._handover.loaded_model()
            async with self._adapters.saved(account_id, finetune_id, step, model) as state:
                async with self._files.lock:
                    path = self._files.new_exchange(finetune_id, step)
                    hold = self._files.hold([path])
                    hold.__enter__()
                try:
                    exported = await self._handover.call(
                        _once_per_attempt(
                            lambda: self._engine.export_checkpoint(
                                ExportCheckpoint(adapter=state.adapter, path=path)
                            ),
                            path,
                        ),
                        fingerprint=hashlib.sha256(f"export {checkpoint.id}".encode()).digest(),
                    )
                    return await self._database.write(
                        _keep, account_id, checkpoint.id, self._stored(exported)
                    )
                finally:
                    hold.__exit__(None, None, None)
                    self._cleanup.sweep_soon(finetune_id)

    def _stored(self, exported: ExportedFile) -> ExportedFile:
        return ExportedFile(file=self._files.stored(exported.file), manifest=exported.manifest)

    async def _secret(self) -> bytes:
        secret = await self._database.read(meta.find_signing_secret)
        if secret is None:
            secret = await self._database.write(meta.signing_secret)
        return bytes.fromhex(secret)


def _once_per_attempt(
    verb: Callable[[], Awaitable[ExportedFile]], path: str
) -> Callable[[], Awaitable[ExportedFile]]:
    """A worker that died may have left the file; its name is ours, so the next begins afresh."""

    def attempt() -> Awaitable[ExportedFile]:
        Path(path).unlink(missing_ok=True)
        return verb()

    return attempt


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


def _keep(
    session: Session, account_id: str, checkpoint_id: str, exported: ExportedFile
) -> Checkpoint:
    """Note the file, unless another call was faster or the checkpoint is gone."""
    checkpoint = session.get(Checkpoint, checkpoint_id)
    assert checkpoint is not None, "rows of checkpoints are never removed"
    living_finetune(session, account_id, checkpoint.finetune_id)
    if checkpoint.deleted_at_ms is not None:
        raise CheckpointDeletedError("The checkpoint was deleted while its file was made.")
    if checkpoint.exchange is None:
        checkpoint.exchange_path = exported.file.path
        checkpoint.exchange_digest = exported.file.digest
        checkpoint.exchange_num_bytes = exported.file.num_bytes
        checkpoint.exchange_manifest = json.dumps(exported.manifest)
    return checkpoint


def _gone() -> CheckpointNotFoundError:
    return CheckpointNotFoundError("Checkpoint not found: it was deleted since the link was made.")
