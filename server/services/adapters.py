"""Leases of adapter states: what an engine call needs of a finetune, kept on disk while it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Awaitable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from sqlalchemy.orm import Session

from contract.engine import AdapterRef, FileRef, ModelInfo
from contract.ids import parse_ulid
from server.db import checkpoints, finetunes, train_requests, train_steps
from server.db.connection import Database
from server.db.models import Checkpoint, Finetune
from server.domain.clock import now_ms
from server.domain.errors import (
    BaseModelMismatchError,
    CheckpointNotFoundError,
    FinetuneNotFoundError,
    StepConflictError,
)
from server.files import StateFiles
from server.services.belonging import require_same_dtype

_NUM_NEAREST_STEPS = 5


@dataclass(frozen=True, kw_only=True)
class AdapterState:
    """One state of a finetune: its adapter and, if it is the newest, its optimizer.

    Attributes:
        weights_bytes: What its weights take in a file, or would.
        seq: The row in the ledger of the request that trains it.
    """

    ordinal: int
    adapter: AdapterRef
    optimizer: FileRef | None = None
    weights_bytes: int = 0
    seq: int | None = None

    @property
    def step_bytes(self) -> int:
        """What a step from here writes: weights, and two moments of each."""
        return 3 * self.weights_bytes

    @property
    def export_bytes(self) -> int:
        """What its exchange file takes: the weights in half the width."""
        return self.weights_bytes // 2


class Adapters:
    """Reads which files a call needs, and holds them until it ends."""

    def __init__(self, database: Database, files: StateFiles):
        self._database = database
        self._files = files

    def newest(
        self, account_id: str, finetune_id: str, model: ModelInfo
    ) -> AbstractAsyncContextManager[AdapterState]:
        """Lease the newest committed state; binds a finetune that has no base model yet.

        Raises:
            FinetuneNotFoundError: It was deleted or never was.
            BaseModelMismatchError: It belongs to another base model.
        """
        return self._lease(self._database.write(_bind_newest, account_id, finetune_id, model))

    def to_train(
        self,
        account_id: str,
        finetune_id: str,
        model: ModelInfo,
        *,
        fingerprint: str,
        epoch: int,
        expected_step: int | None,
    ) -> AbstractAsyncContextManager[AdapterState]:
        """As `newest`, and write the request that trains it into the ledger.

        Raises:
            StepConflictError: The finetune is not at the expected step; there is no row then.
        """
        recording = self._database.write(
            _record,
            account_id,
            finetune_id,
            model,
            fingerprint=fingerprint,
            epoch=epoch,
            expected_step=expected_step,
        )
        return self._lease(recording)

    def saved(
        self, account_id: str, finetune_id: str, step: int, model: ModelInfo
    ) -> AbstractAsyncContextManager[AdapterState]:
        """Lease a saved checkpoint.

        Raises:
            FinetuneNotFoundError: The finetune was deleted or never was.
            CheckpointNotFoundError: The step is not saved.
            BaseModelMismatchError: It belongs to another base model.
        """
        return self._lease(self._database.read(_read_saved, account_id, finetune_id, step, model))

    async def require_living(self, account_id: str, finetune_id: str) -> None:
        """Refuse a finetune that was deleted or never was."""
        await self._database.read(living_finetune, account_id, finetune_id)

    @asynccontextmanager
    async def _lease(self, reading: Awaitable[AdapterState]) -> AsyncGenerator[AdapterState]:
        async with self._files.lock:
            state = self._absolute(await reading)
            hold = self._files.hold(
                file.path for file in (state.adapter.weights, state.optimizer) if file is not None
            )
            hold.__enter__()
        try:
            yield state
        finally:
            hold.__exit__(None, None, None)

    def _absolute(self, state: AdapterState) -> AdapterState:
        weights = self._files.absolute(state.adapter.weights)
        return dataclasses.replace(
            state,
            adapter=dataclasses.replace(state.adapter, weights=weights),
            optimizer=self._files.absolute(state.optimizer),
        )


def living_finetune(session: Session, account_id: str, finetune_id: str) -> Finetune:
    """Return a finetune that calls may use; ids are accepted in any case.

    Raises:
        FinetuneNotFoundError: It was deleted, never was, or the id has an odd shape.
    """
    parsed = parse_ulid(finetune_id)
    finetune = parsed and finetunes.find_living(session, account_id, parsed)
    if not finetune:
        raise FinetuneNotFoundError("There is no such finetune. It may have been deleted.")
    return finetune


def _bind_newest(
    session: Session, account_id: str, finetune_id: str, model: ModelInfo
) -> AdapterState:
    finetune = living_finetune(session, account_id, finetune_id)
    if finetune.base_model_digest is None:
        finetune.base_model_name, finetune.base_model_digest = model.name, model.digest
    check_base_model(finetune, model)
    newest = train_steps.find_newest(session, finetune)
    weights = newest.weights if newest else finetune.origin_weights
    return AdapterState(
        ordinal=finetune.ordinal,
        adapter=_adapter(finetune, finetune.step, weights),
        optimizer=newest and newest.optimizer,
        weights_bytes=_weights_bytes(finetune, weights, model),
    )


def _record(
    session: Session,
    account_id: str,
    finetune_id: str,
    model: ModelInfo,
    *,
    fingerprint: str,
    epoch: int,
    expected_step: int | None,
) -> AdapterState:
    state = _bind_newest(session, account_id, finetune_id, model)
    if expected_step is not None and expected_step != state.adapter.step:
        raise StepConflictError(
            f"The finetune is at step {state.adapter.step}; expected_step was {expected_step}."
            " Read its step and go on from there.",
            loc=("body", "expected_step"),
        )
    require_same_dtype(session, state.adapter.finetune_id, state.adapter.step, model)
    seq = train_requests.record(
        session,
        state.adapter.finetune_id,
        fingerprint=fingerprint,
        epoch=epoch,
        at_ms=now_ms(),
    )
    return dataclasses.replace(state, seq=seq)


def saved_checkpoint(
    session: Session, account_id: str, finetune_id: str, step: int
) -> tuple[Finetune, Checkpoint]:
    """Return a saved checkpoint and its finetune.

    Raises:
        FinetuneNotFoundError: The finetune was deleted or never was.
        CheckpointNotFoundError: The step is not saved; it names those near it that are.
    """
    finetune = living_finetune(session, account_id, finetune_id)
    checkpoint = checkpoints.find_living(session, finetune.id, step)
    if checkpoint is None:
        nearest = checkpoints.nearest_steps(session, finetune.id, step, limit=_NUM_NEAREST_STEPS)
        saved = ", ".join(str(near) for near in sorted(nearest))
        hint = f"saved steps near it: {saved}" if saved else "no step of this finetune is saved"
        raise CheckpointNotFoundError(f"Checkpoint not found: step {step} is not saved; {hint}.")
    return finetune, checkpoint


def _read_saved(
    session: Session, account_id: str, finetune_id: str, step: int, model: ModelInfo
) -> AdapterState:
    finetune, checkpoint = saved_checkpoint(session, account_id, finetune_id, step)
    check_base_model(finetune, model)
    return AdapterState(
        ordinal=finetune.ordinal,
        adapter=_adapter(finetune, step, checkpoint.weights),
        weights_bytes=_weights_bytes(finetune, checkpoint.weights, model),
    )


def _adapter(finetune: Finetune, step: int, weights: FileRef | None) -> AdapterRef:
    return AdapterRef(
        finetune_id=finetune.id,
        step=step,
        rank=finetune.rank,
        seed=finetune.adapter_seed,
        weights=weights,
    )


def _weights_bytes(finetune: Finetune, weights: FileRef | None, model: ModelInfo) -> int:
    if weights is not None:
        return weights.num_bytes
    return finetune.rank * model.adapter_bytes_per_rank


def check_base_model(finetune: Finetune, model: ModelInfo) -> None:
    """Refuse a finetune of another base model.

    Raises:
        BaseModelMismatchError: Naming both.
    """
    if finetune.base_model_digest != model.digest:
        raise BaseModelMismatchError(
            f"The finetune belongs to base model {finetune.base_model_name!r}; loaded is"
            f" {model.name!r}, another model or another revision. Start the server with the first,"
            " or make a new finetune."
        )
