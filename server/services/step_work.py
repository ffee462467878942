"""One step from its row in the ledger to the transaction that makes it count.

    record -> worker -> files (durable) -> commit

Doing it again from the state before is right at every point before the commit, and reading the
stored answer at every point after it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack

import structlog

from contract import faults
from contract.engine import FileRef, ModelInfo, StepTrained
from contract.engine import TrainStep as TrainStepCommand
from contract.skills import Pixels
from server.db import train_requests
from server.db.connection import Database
from server.db.models import TrainStep
from server.domain.clock import now_ms
from server.domain.errors import OverloadedError, ServiceError
from server.domain.json_text import to_json
from server.domain.usage import HourlyUsage, Usage
from server.files import StateFiles
from server.meters import STEPS, Meters
from server.services.adapters import Adapters, AdapterState
from server.services.books import Books
from server.services.cleanup import Cleanup
from server.services.dispatch import SupervisedEngine
from server.services.finite_watch import FiniteWatch
from server.services.handover import Handover
from server.services.ledger import Ledger
from server.services.metered_engine import ms_since
from server.services.quotas import Quotas
from server.services.step_answer import step_answer, step_metrics
from server.services.step_commit import LedgerRow, commit_step, give_to_worker
from server.services.train_order import Identity, TrainOrder

COMMIT_SECONDS = 60.0
"""How long a step that was computed is offered to a database that is busy or away."""

COMMIT_PAUSE_SECONDS = 0.5

_log = structlog.get_logger("server.training")


class StepWork:
    """Computes steps that have their turn."""

    def __init__(
        self,
        *,
        database: Database,
        engine: SupervisedEngine,
        handover: Handover,
        adapters: Adapters,
        files: StateFiles,
        cleanup: Cleanup,
        ledger: Ledger,
        meters: Meters,
        books: Books,
        quotas: Quotas,
    ):
        self._database = database
        self._engine = engine
        self._handover = handover
        self._adapters = adapters
        self._files = files
        self._cleanup = cleanup
        self._ledger = ledger
        self._meters = meters
        self._books = books
        self._quotas = quotas
        self._finite = FiniteWatch(meters)

    async def do(
        self,
        identity: Identity,
        order: TrainOrder,
        images: Sequence[Pixels],
        model: ModelInfo,
        *,
        begin_before: float,
    ) -> bytes:
        """Train one step and return its answer, which was committed with it.

        Args:
            begin_before: Not handed to a worker by then (dispatcher's clock), it is refused; once
                it was, it is done, however many workers it takes.

        Raises:
            ServiceError: It is refused; it has left no row, and nothing was changed.
        """
        epoch = self._engine.status().epoch
        lease = self._adapters.to_train(
            identity.account_id,
            order.finetune_id,
            model,
            fingerprint=identity.fingerprint,
            epoch=epoch,
            expected_step=order.expected_step,
        )
        async with lease as state:
            assert state.seq is not None, "it was recorded"
            faults.point("step.recorded")
            row = LedgerRow(
                account_id=identity.account_id,
                finetune_id=state.adapter.finetune_id,
                seq=state.seq,
                epoch=epoch,
            )
            try:
                return await self._train(identity, order, state, images, row, begin_before)
            except BaseException:
                self._ledger.doubt(identity.account_id, identity.finetune_id)
                await self._drop(row)
                raise
            finally:
                self._cleanup.sweep_soon(row.finetune_id)

    async def _train(
        self,
        identity: Identity,
        order: TrainOrder,
        state: AdapterState,
        images: Sequence[Pixels],
        row: LedgerRow,
        begin_before: float,
    ) -> bytes:
        step = state.adapter.step + 1
        started = begun = time.monotonic()

        async def attempt() -> StepTrained:
            nonlocal begun
            begun = time.monotonic()
            return await self._attempt(order, state, images, outputs, row)

        with ExitStack() as outputs:  # held until the row names them, or nothing does
            trained = await self._handover.call(
                attempt,
                fingerprint=order.fingerprint,
                begin_before=begin_before,
                redo_before=math.inf,
            )
            faults.point("step.computed")
            duration_ms = ms_since(started)
            told = step_answer(trained, order, step=step, duration_ms=duration_ms)
            answer = to_json(told)
            used = self._used(row, trained, num_images=len(images), compute_ms=ms_since(begun))
            made = self._step(trained, state, answer)
            await self._commit(row, made, step_metrics(told), order, used)
            self._ledger.committed(identity, seq=row.seq, step=step)
        faults.point("step.committed")
        self._meters.count(STEPS, row.finetune_id, "true" if trained.applied else "false")
        self._finite.saw(row.finetune_id, step, trained)
        _log.info(
            "step_committed",
            finetune_id=row.finetune_id,
            step=step,
            applied=trained.applied,
            skip_reason=trained.skip_reason,
            duration_ms=duration_ms,
        )
        return answer

    async def _attempt(
        self,
        order: TrainOrder,
        state: AdapterState,
        images: Sequence[Pixels],
        outputs: ExitStack,
        row: LedgerRow,
    ) -> StepTrained:
        """Hand the step to the present worker, with file names that nobody had before."""
        await self._quotas.require_bytes(row.account_id, state.step_bytes)
        await self._files.require_space(state.step_bytes)
        epoch = self._engine.status().epoch
        if epoch != row.epoch:  # another worker than the one that the ledger names
            await self._database.write(give_to_worker, row, epoch=epoch)
            row.epoch = epoch
        async with self._files.lock:
            output = self._files.new_output(row.finetune_id, state.adapter.step + 1)
            outputs.enter_context(self._files.hold([output.weights]))
        command = TrainStepCommand(
            adapter=state.adapter,
            optimizer=state.optimizer,
            groups=order.groups,
            lr=order.lr,
            options=order.options,
            weights_path=output.weights,
            optimizer_path=output.optimizer,
        )
        return await self._engine.train_step(command, images)

    async def _commit(
        self,
        row: LedgerRow,
        step: TrainStep,
        numbers: dict[str, float],
        order: TrainOrder,
        used: HourlyUsage,
    ) -> None:
        """Make the step count; what was computed is not given up because a database is busy."""
        give_up_at = time.monotonic() + COMMIT_SECONDS
        while True:
            try:
                await self._database.write(
                    commit_step, row, step, numbers=numbers, keyed=order.keyed, used=used
                )
                return
            except OverloadedError:
                if time.monotonic() > give_up_at:
                    raise
                _log.warning("commit_repeated", finetune_id=row.finetune_id)
                await asyncio.sleep(COMMIT_PAUSE_SECONDS)

    def _used(
        self, row: LedgerRow, trained: StepTrained, *, num_images: int, compute_ms: int
    ) -> HourlyUsage:
        num_tokens = trained.extra.get("num_tokens")
        spent = Usage(
            steps=1,
            images=num_images,
            training_tokens=num_tokens if isinstance(num_tokens, int) else 0,
            compute_ms=compute_ms,
        )
        return self._books.entry(spent, account_id=row.account_id, finetune_id=row.finetune_id)

    async def _drop(self, row: LedgerRow) -> None:
        """A failed request leaves no row; what cannot be dropped now is by the next step."""
        try:
            await self._database.write(train_requests.drop, row.finetune_id, row.seq)
        except ServiceError as error:
            _log.warning("ledger_row_left", finetune_id=row.finetune_id, detail=str(error))

    def _step(self, trained: StepTrained, state: AdapterState, answer: bytes) -> TrainStep:
        """The row of the step; one that was not applied names the files of the one before."""
        weights, optimizer = state.adapter.weights, state.optimizer
        if trained.applied:
            weights, optimizer = trained.weights, trained.optimizer
            assert weights is not None, "an applied step has new weights"
            assert optimizer is not None, "an applied step has a new optimizer state"
        weights, optimizer = self._stored(weights), self._stored(optimizer)
        return TrainStep(
            finetune_id=state.adapter.finetune_id,
            step=state.adapter.step + 1,
            applied=trained.applied,
            response=answer.decode(),
            weights_path=weights and weights.path,
            weights_digest=weights and weights.digest,
            weights_num_bytes=weights and weights.num_bytes,
            optimizer_path=optimizer and optimizer.path,
            optimizer_digest=optimizer and optimizer.digest,
            optimizer_num_bytes=optimizer and optimizer.num_bytes,
            created_at_ms=now_ms(),
        )

    def _stored(self, ref: FileRef | None) -> FileRef | None:
        return ref and self._files.stored(ref)
