"""Checkpoints: a saved step is a row that pins the weights of a committed step. Needs no worker."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from ulid import ULID

from contract import faults
from contract.engine import FileRef
from server.db import checkpoints, train_steps
from server.db.connection import Database
from server.db.models import Checkpoint, Finetune
from server.domain.clock import now_ms
from server.domain.errors import CheckpointNotFoundError, NoCheckpointError
from server.domain.pages import Page, cut_page
from server.services.adapters import living_finetune
from server.services.cleanup import Cleanup
from server.services.manifests import manifest_of

Also = Callable[[Session, Checkpoint], None]
"""What is done in the transaction that saves, such as storing the answer."""


class Checkpoints:
    """The saved steps of a finetune."""

    def __init__(self, database: Database, cleanup: Cleanup):
        self._database = database
        self._cleanup = cleanup

    async def save(
        self, account_id: str, finetune_id: str, *, also: Also | None = None
    ) -> Checkpoint:
        """Save the newest committed step; repeating gives the same checkpoint.

        Args:
            also: Done in the same transaction, with the checkpoint.

        Raises:
            NoCheckpointError: Nothing was trained yet.
        """
        try:
            saved = await self._database.write(_save, account_id, finetune_id, also)
        except IntegrityError:  # another process saved the same step; read its row
            saved = await self._database.write(_save, account_id, finetune_id, also)
        faults.point("checkpoint.saved")
        return saved

    async def list(
        self, account_id: str, finetune_id: str, *, after_step: int, limit: int
    ) -> Page[Checkpoint]:
        """Return saved checkpoints by step."""
        rows = await self._database.read(
            _list, account_id, finetune_id, after_step=after_step, limit=limit + 1
        )
        return cut_page(rows, limit=limit, key=lambda row: {"step": row.step})

    async def delete(self, account_id: str, finetune_id: str, step: int) -> None:
        """Delete a saved step, again if it was deleted; training is not touched.

        Raises:
            CheckpointNotFoundError: The step was never saved.
        """
        parsed = await self._database.write(_delete, account_id, finetune_id, step)
        self._cleanup.sweep_soon(parsed)

    async def delete_number(self, account_id: str, finetune_id: str, number: int) -> None:
        """Delete the save of that number, again if it was deleted; a later one of its step stays.

        Raises:
            CheckpointNotFoundError: There were fewer saves.
        """
        parsed = await self._database.write(_delete_number, account_id, finetune_id, number)
        self._cleanup.sweep_soon(parsed)


def _save(session: Session, account_id: str, finetune_id: str, also: Also | None) -> Checkpoint:
    checkpoint = _saved(session, account_id, finetune_id)
    if also is not None:
        also(session, checkpoint)
    faults.point("checkpoint.save")
    return checkpoint


def _saved(session: Session, account_id: str, finetune_id: str) -> Checkpoint:
    finetune = living_finetune(session, account_id, finetune_id)
    newest = train_steps.find_newest(session, finetune)
    if newest is None:
        raise NoCheckpointError("Nothing to save: the finetune is at step 0. Train a step first.")
    existing = checkpoints.find_living(session, finetune.id, finetune.step)
    if existing is not None:
        return existing
    checkpoint = _pin(session, finetune, newest.weights)
    finetune.updated_at_ms = checkpoint.updated_at_ms
    return checkpoint


def save_origin(session: Session, finetune: Finetune) -> Checkpoint:
    """Save step 0 of a finetune that was imported, so that it can be used before it is trained."""
    return _pin(session, finetune, finetune.origin_weights)


def _pin(session: Session, finetune: Finetune, weights: FileRef | None) -> Checkpoint:
    """Make the checkpoint of the step that a finetune is at."""
    at_ms = now_ms()
    parent_step = checkpoints.last_step_before(session, finetune.id, finetune.step)
    checkpoint = Checkpoint(
        id=str(ULID()),
        finetune_id=finetune.id,
        number=checkpoints.next_number(session, finetune.id),
        step=finetune.step,
        weights_path=weights and weights.path,
        weights_digest=weights and weights.digest,
        weights_num_bytes=weights and weights.num_bytes,
        manifest=manifest_of(finetune, weights, parent_step=parent_step, at_ms=at_ms),
        created_at_ms=at_ms,
        updated_at_ms=at_ms,
    )
    session.add(checkpoint)
    return checkpoint


def _list(
    session: Session, account_id: str, finetune_id: str, *, after_step: int, limit: int
) -> list[Checkpoint]:
    finetune = living_finetune(session, account_id, finetune_id)
    return checkpoints.list_living(session, finetune.id, after_step=after_step, limit=limit)


def _delete(session: Session, account_id: str, finetune_id: str, step: int) -> str:
    finetune = living_finetune(session, account_id, finetune_id)
    checkpoint = checkpoints.find_living(session, finetune.id, step)
    if checkpoint is not None:
        _mark_deleted(finetune, checkpoint)
    elif not checkpoints.was_ever_saved(session, finetune.id, step):
        raise CheckpointNotFoundError(f"Checkpoint not found: step {step} was never saved.")
    return finetune.id


def _delete_number(session: Session, account_id: str, finetune_id: str, number: int) -> str:
    finetune = living_finetune(session, account_id, finetune_id)
    checkpoint = checkpoints.find_number(session, finetune.id, number)
    if checkpoint is None:
        raise CheckpointNotFoundError(
            f"Checkpoint not found: of this adapter there is no save of number {number}."
        )
    if checkpoint.deleted_at_ms is None:
        _mark_deleted(finetune, checkpoint)
    return finetune.id


def _mark_deleted(finetune: Finetune, checkpoint: Checkpoint) -> None:
    checkpoint.deleted_at_ms = checkpoint.updated_at_ms = now_ms()
    finetune.updated_at_ms = checkpoint.updated_at_ms
    faults.point("checkpoint.delete")
