"""Training: one step of one finetune, computed by the engine, made to count by one transaction."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import structlog
from sqlalchemy.orm import Session

from contract.codec import to_plain
from contract.engine import FileRef, StepTrained
from contract.engine import TrainStep as TrainStepCommand
from contract.groups import Group, TrainOptions
from contract.ids import parse_ulid
from contract.skills import Pixels
from contract.work import WorkClass
from server.db import finetunes, metrics
from server.db.connection import Database
from server.db.models import TrainStep
from server.domain.clock import now_ms
from server.domain.errors import FinetuneNotFoundError, StepConflictError
from server.domain.json_text import to_json
from server.files import StateFiles
from server.meters import STEPS, Meters
from server.services.adapters import Adapters, AdapterState
from server.services.cleanup import Cleanup
from server.services.dispatch import Dispatcher, SupervisedEngine
from server.services.handover import Handover
from server.services.images import ImageUrl
from server.services.pictures import Pictures
from server.services.rollouts import require_skill

_NOT_METRICS = ("step", "options")
_CLOSE_SECONDS = 1.0
_log = structlog.get_logger("server.training")


@dataclass(frozen=True, kw_only=True)
class TrainOrder:
    """What one train step asks for, validated."""

    finetune_id: str
    groups: tuple[Group, ...]
    images: Sequence[ImageUrl]
    lr: float
    options: TrainOptions
    expected_step: int | None
    fingerprint: bytes


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
        queue_seconds: float,
    ):
        self._database = database
        self._engine = engine
        self._dispatcher = dispatcher
        self._handover = handover
        self._adapters = adapters
        self._pictures = pictures
        self._files = files
        self._cleanup = cleanup
        self._meters = meters
        self._queue_seconds = queue_seconds
        self._admitted: set[asyncio.Task[bytes]] = set()

    async def train_step(self, account_id: str, order: TrainOrder) -> bytes:
        """Train one step and return its answer, which was committed with it."""
        task = asyncio.create_task(self._admit(account_id, order))
        self._admitted.add(task)
        task.add_done_callback(self._admitted.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """After the engine ended: let admitted steps answer so, and give up those that do not."""
        if not self._admitted:
            return
        _, stuck = await asyncio.wait(self._admitted, timeout=_CLOSE_SECONDS)
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)

    async def _admit(self, account_id: str, order: TrainOrder) -> bytes:
        lane = parse_ulid(order.finetune_id) or order.finetune_id
        with (
            self._dispatcher.place(WorkClass.TRAINING, lane, account_id=account_id) as place,
            self._pictures.of(order.images, WorkClass.TRAINING) as pictures,
        ):
            await self._adapters.require_living(account_id, order.finetune_id)
            await pictures.measure()
            await place.front(within=self._queue_seconds)
            async with pictures.decoded(within=place.seconds_left(self._queue_seconds)) as images:
                await place.turn(within=self._queue_seconds)
                model = await self._handover.loaded_model()
                for group in order.groups:
                    require_skill(model.tunable_skills, group.request.skill, model)
                async with self._adapters.newest(account_id, order.finetune_id, model) as state:
                    _check_expected_step(order.expected_step, state.adapter.step)
                    return await self._train(order, state, images)

    async def _train(
        self, order: TrainOrder, state: AdapterState, images: Sequence[Pixels]
    ) -> bytes:
        finetune_id, step = state.adapter.finetune_id, state.adapter.step + 1
        started = time.monotonic()
        try:
            with ExitStack() as outputs:  # held until the row names them, or nothing does
                trained = await self._handover.call(
                    lambda: self._attempt(order, state, images, outputs),
                    fingerprint=order.fingerprint,
                )
                duration_ms = round((time.monotonic() - started) * 1000)
                response = _response(trained, order, step=step, duration_ms=duration_ms)
                answer = to_json(response)
                await self._database.write(
                    _commit,
                    row=self._row(trained, state, step=step, answer=answer),
                    numbers=_numbers(response),
                )
        finally:
            self._cleanup.sweep_soon(finetune_id)
        self._meters.count(STEPS, finetune_id, "true" if trained.applied else "false")
        _log.info(
            "step_committed",
            finetune_id=finetune_id,
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
    ) -> StepTrained:
        async with self._files.lock:
            output = self._files.new_output(state.adapter.finetune_id, state.adapter.step + 1)
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


def _check_expected_step(expected: int | None, current: int) -> None:
    if expected is not None and expected != current:
        raise StepConflictError(
            f"The finetune is at step {current}; expected_step was {expected}.",
            loc=("body", "expected_step"),
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


def _commit(session: Session, *, row: TrainStep, numbers: dict[str, float]) -> None:
    """Make a step count: its number, its files, its answer and its metrics, or none of them."""
    moved = finetunes.advance(
        session, row.finetune_id, from_step=row.step - 1, at_ms=row.created_at_ms
    )
    if not moved:
        raise FinetuneNotFoundError("The finetune was deleted while the step was computed.")
    session.add(row)
    metrics.upsert(session, row.finetune_id, step=row.step, values=numbers, at_ms=row.created_at_ms)
