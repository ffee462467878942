"""Training: one step of one finetune, computed by the engine, made to count by one transaction."""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import structlog
from sqlalchemy.orm import Session

from contract import faults
from contract.codec import to_plain
from contract.engine import FileRef, ModelInfo, StepTrained
from contract.engine import TrainStep as TrainStepCommand
from contract.groups import Group, TrainOptions
from contract.ids import parse_ulid
from contract.skills import Pixels
from contract.work import WorkClass
from server.db import finetunes, metrics, train_requests, train_steps
from server.db.connection import Database
from server.db.models import TrainStep
from server.domain.clock import now_ms
from server.domain.delivery import Delivery
from server.domain.errors import (
    FinetuneNotFoundError,
    IdempotencyKeyReusedError,
    OverloadedError,
    ServiceError,
    StepConflictError,
)
from server.domain.json_text import to_json
from server.files import StateFiles
from server.meters import STEPS, Meters
from server.services.adapters import Adapters, AdapterState
from server.services.cleanup import Cleanup
from server.services.dispatch import Dispatcher, SupervisedEngine
from server.services.finite_watch import FiniteWatch
from server.services.handover import Handover
from server.services.images import ImageUrl
from server.services.keyed import KeyedCall, KeyedCalls
from server.services.ledger import Answered, Identity, Ledger, TrainAnswer
from server.services.pictures import Pictures
from server.services.rollouts import require_skill

_NOT_METRICS = ("step", "options")
_CLOSE_SECONDS = 1.0
_COMMIT_SECONDS = 60.0
"""How long a step that was computed is offered to a database that is busy or away."""

_COMMIT_PAUSE_SECONDS = 0.5
_log = structlog.get_logger("server.training")


@dataclass(frozen=True, kw_only=True)
class TrainOrder:
    """What one train step asks for, validated; `keyed` if it came with an explicit key."""

    finetune_id: str
    groups: tuple[Group, ...]
    images: Sequence[ImageUrl]
    lr: float
    options: TrainOptions
    expected_step: int | None
    fingerprint: bytes
    keyed: KeyedCall | None = None


@dataclass(kw_only=True)
class _Claim:
    """The row of a request in the ledger, and the worker that has it now."""

    seq: int
    epoch: int


class Training:
    """Train steps; one that was admitted runs to its end, also when its caller has gone."""

    def __init__(
        self,
        *,
        database: Database,
        engine: SupervisedEngine,
        dispatcher: Dispatcher,
        handover: Handover,
        adapters: Adapters,
        pictures: Pictures,
        files: StateFiles,
        cleanup: Cleanup,
        meters: Meters,
        ledger: Ledger,
        keyed: KeyedCalls,
        queue_seconds: float,
    ):
        self._ledger = ledger
        self._keyed = keyed
        self._database = database
        self._engine = engine
        self._dispatcher = dispatcher
        self._handover = handover
        self._adapters = adapters
        self._pictures = pictures
        self._files = files
        self._cleanup = cleanup
        self._meters = meters
        self._finite = FiniteWatch(meters)
        self._queue_seconds = queue_seconds
        self._admitted: set[asyncio.Task[TrainAnswer]] = set()
        self._keys_in_hand: dict[tuple[str, str], str] = {}

    async def train_step(
        self, account_id: str, order: TrainOrder, delivery: Delivery
    ) -> TrainAnswer:
        """Train one step, unless the answer of an earlier one is what the caller lacks.

        Args:
            delivery: The connection that will carry the answer.

        Raises:
            IdempotencyKeyReusedError: The explicit key came with another body.
            ServiceError: The step is refused; nothing was changed.
        """
        stored = None if order.keyed is None else await self._keyed.find(order.keyed)
        if stored is not None:
            return TrainAnswer(body=stored, is_replayed=True)
        identity = _identity(account_id, order)
        found = await self._ledger.find(identity, expected_step=order.expected_step)
        if isinstance(found, Answered):
            return await self._replay(identity, found, delivery)
        if found is None:
            self._check_key(order)
            found = self._ledger.begin(identity, self._admit(identity, order))
            self._admitted.add(found.task)
            found.task.add_done_callback(self._admitted.discard)
        return await found.answer(delivery)

    async def close(self) -> None:
        """After the engine ended: let admitted steps answer so, and give up those that do not."""
        if self._admitted:
            _, stuck = await asyncio.wait(self._admitted, timeout=_CLOSE_SECONDS)
            for task in stuck:
                task.cancel()
            await asyncio.gather(*stuck, return_exceptions=True)
        await self._ledger.close()

    async def _replay(
        self, identity: Identity, answered: Answered, delivery: Delivery
    ) -> TrainAnswer:
        """The stored answer of the newest step, byte for byte."""
        await self._ledger.count_replay(identity, answered)
        body = await self._database.read(_stored_answer, identity.finetune_id, answered.step)
        self._ledger.carry(identity, answered, delivery)
        return TrainAnswer(body=body, is_replayed=True)

    def _check_key(self, order: TrainOrder) -> None:
        """Hold the key of a step that begins; its like joins it, another body is refused."""
        if order.keyed is None:
            return
        place = (order.keyed.account_id, order.keyed.key)
        fingerprint = self._keys_in_hand.setdefault(place, order.keyed.fingerprint)
        if fingerprint != order.keyed.fingerprint:
            raise IdempotencyKeyReusedError(
                "A step with this idempotency key and another body is running."
            )

    async def _admit(self, identity: Identity, order: TrainOrder) -> TrainAnswer:
        faults.point("step.admitted")
        try:
            with (
                self._dispatcher.place(
                    WorkClass.TRAINING, identity.finetune_id, account_id=identity.account_id
                ) as place,
                self._pictures.of(order.images, WorkClass.TRAINING) as pictures,
            ):
                await self._adapters.require_living(identity.account_id, order.finetune_id)
                await pictures.measure(within=place.seconds_left(self._queue_seconds))
                await place.front(within=self._queue_seconds)
                within = place.seconds_left(self._queue_seconds)
                async with pictures.decoded(within=within) as images:
                    await place.turn(within=self._queue_seconds)
                    model = await self._handover.loaded_model()
                    for group in order.groups:
                        require_skill(model.tunable_skills, group.request.skill, model)
                    return await self._record(identity, order, images, model)
        except StepConflictError:
            newest = self._ledger.newest(identity)
            if newest is None or newest.step - 1 != order.expected_step:
                raise
            body = await self._database.read(_stored_answer, identity.finetune_id, newest.step)
            return TrainAnswer(body=body, is_replayed=True)
        finally:
            if order.keyed is not None:
                self._keys_in_hand.pop((order.keyed.account_id, order.keyed.key), None)

    async def _record(
        self, identity: Identity, order: TrainOrder, images: Sequence[Pixels], model: ModelInfo
    ) -> TrainAnswer:
        """Write the request into the ledger, then work on it; a failed one leaves no row."""
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
            claim = _Claim(seq=state.seq, epoch=epoch)
            try:
                return await self._train(identity, order, state, images, claim)
            except BaseException:
                await self._forget(identity.finetune_id, claim.seq)
                raise

    async def _forget(self, finetune_id: str, seq: int) -> None:
        try:
            await self._database.write(train_requests.drop, finetune_id, seq)
        except ServiceError as error:  # dropped at the next start
            _log.warning("ledger_row_left", finetune_id=finetune_id, detail=str(error))

    async def _train(
        self,
        identity: Identity,
        order: TrainOrder,
        state: AdapterState,
        images: Sequence[Pixels],
        claim: _Claim,
    ) -> TrainAnswer:
        finetune_id, step = state.adapter.finetune_id, state.adapter.step + 1
        started = time.monotonic()
        try:
            with ExitStack() as outputs:  # held until the row names them, or nothing does
                trained = await self._handover.call(
                    lambda: self._attempt(order, state, images, outputs, claim),
                    fingerprint=order.fingerprint,
                )
                faults.point("step.computed")
                duration_ms = round((time.monotonic() - started) * 1000)
                response = _response(trained, order, step=step, duration_ms=duration_ms)
                answer = to_json(response)
                await self._commit(
                    row=self._row(trained, state, step=step, answer=answer),
                    numbers=_numbers(response),
                    claim=claim,
                    keyed=order.keyed,
                )
                self._ledger.committed(identity, seq=claim.seq, step=step)
        finally:
            self._cleanup.sweep_soon(finetune_id)
        faults.point("step.committed")
        self._meters.count(STEPS, finetune_id, "true" if trained.applied else "false")
        self._finite.saw(finetune_id, step, trained)
        _log.info(
            "step_committed",
            finetune_id=finetune_id,
            step=step,
            applied=trained.applied,
            skip_reason=trained.skip_reason,
            duration_ms=duration_ms,
        )
        return TrainAnswer(body=answer)

    async def _commit(self, **facts: Any) -> None:
        """Make the step count; what was computed is not given up because a database is busy."""
        give_up_at = time.monotonic() + _COMMIT_SECONDS
        while True:
            try:
                await self._database.write(_commit, **facts)
                return
            except OverloadedError:
                if time.monotonic() > give_up_at:
                    raise
                _log.warning("commit_repeated", finetune_id=facts["row"].finetune_id)
                await asyncio.sleep(_COMMIT_PAUSE_SECONDS)

    async def _attempt(
        self,
        order: TrainOrder,
        state: AdapterState,
        images: Sequence[Pixels],
        outputs: ExitStack,
        claim: _Claim,
    ) -> StepTrained:
        await self._files.require_space(state.step_bytes)
        finetune_id = state.adapter.finetune_id
        epoch = self._engine.status().epoch
        if epoch != claim.epoch:  # another worker than the one that the ledger names
            await self._database.write(_claim, finetune_id, claim.seq, epoch=epoch)
            claim.epoch = epoch
        async with self._files.lock:
            output = self._files.new_output(finetune_id, state.adapter.step + 1)
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

    def _row(
        self, trained: StepTrained, state: AdapterState, *, step: int, answer: bytes
    ) -> TrainStep:
        weights, optimizer = state.adapter.weights, state.optimizer
        if trained.applied:
            weights, optimizer = trained.weights, trained.optimizer
            assert weights is not None, "an applied step has new weights"
            assert optimizer is not None, "an applied step has a new optimizer state"
        weights, optimizer = self._stored(weights), self._stored(optimizer)
        return TrainStep(
            finetune_id=state.adapter.finetune_id,
            step=step,
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


def _identity(account_id: str, order: TrainOrder) -> Identity:
    fingerprint = order.fingerprint.hex()
    if order.keyed is not None:
        named = f"{fingerprint} {order.keyed.key}".encode()
        fingerprint = hashlib.sha256(named).hexdigest()
    return Identity(
        account_id=account_id,
        finetune_id=parse_ulid(order.finetune_id) or order.finetune_id,
        fingerprint=fingerprint,
    )


def _response(
    trained: StepTrained, order: TrainOrder, *, step: int, duration_ms: int
) -> dict[str, Any]:
    """The answer of http-api.md 10.5; its eight fields first, then what else is known."""
    answer: dict[str, Any] = {
        "step": step,
        "applied": trained.applied,
        "kl": trained.kl,
        "router_kl": trained.router_kl,
        "grad_norm": trained.grad_norm,
        "reward_mean": trained.reward_mean,
        "reward_std": trained.reward_std,
        "sft_loss": trained.sft_loss,
        "lr": order.lr,
        "options": to_plain(order.options),
        "duration_ms": duration_ms,
    }
    if trained.skip_reason is not None:
        answer["skip_reason"] = trained.skip_reason.value
    return {**answer, **{k: v for k, v in trained.extra.items() if k not in answer}}


def _numbers(answer: dict[str, Any]) -> dict[str, float]:
    """The metrics that the server logs for a step: what its answer holds of numbers.

    A number inside of an object has the name of both, such as `sys/reward_by_skill/query`.
    """
    numbers: dict[str, float] = {}

    def take(name: str, value: Any) -> None:
        if isinstance(value, int | float) and math.isfinite(value):
            numbers[f"sys/{name}"] = float(value)

    for name, value in answer.items():
        if name in _NOT_METRICS:
            continue
        if isinstance(value, dict):
            for part, number in cast("dict[str, Any]", value).items():
                take(f"{name}/{part}", number)
        else:
            take(name, value)
    return numbers


def _claim(session: Session, finetune_id: str, seq: int, *, epoch: int) -> None:
    """Let another worker have a request.

    Raises:
        FinetuneNotFoundError: The request is not there any more.
    """
    if not train_requests.claim(session, finetune_id, seq, epoch=epoch):
        raise FinetuneNotFoundError("The finetune was deleted while the step was computed.")


def _commit(
    session: Session,
    *,
    row: TrainStep,
    numbers: dict[str, float],
    claim: _Claim,
    keyed: KeyedCall | None,
) -> None:
    """Make a step count: its number, its files, its answer and its metrics, or none of them."""
    faults.point("step.commit")
    if _was_committed(session, row, claim):
        return  # the database broke off while it said so
    is_ours = train_requests.finish(
        session,
        row.finetune_id,
        claim.seq,
        epoch=claim.epoch,
        step=row.step,
        at_ms=row.created_at_ms,
    )
    moved = is_ours and finetunes.advance(
        session, row.finetune_id, from_step=row.step - 1, at_ms=row.created_at_ms
    )
    if not moved:
        raise FinetuneNotFoundError("The finetune was deleted while the step was computed.")
    session.merge(row)
    metrics.upsert(session, row.finetune_id, step=row.step, values=numbers, at_ms=row.created_at_ms)
    if keyed is not None:
        keyed.store(session, row.response.encode(), row.finetune_id)


def _was_committed(session: Session, row: TrainStep, claim: _Claim) -> bool:
    request = train_requests.find(session, row.finetune_id, claim.seq)
    return request is not None and (request.step, request.epoch) == (row.step, claim.epoch)


def _stored_answer(session: Session, finetune_id: str, step: int) -> bytes:
    row = train_steps.find(session, finetune_id, step)
    assert row is not None, "a request that is done has its step"
    return row.response.encode()
