"""Inference: one answer of the base model or of a saved checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from contract.codec import to_plain
from contract.engine import Answer, Answered, ModelInfo
from contract.ids import CheckpointName
from contract.skills import Settings, SkillRequest
from contract.work import WorkClass
from server.domain.errors import CallerLeftError, ModelNotFoundError
from server.domain.seeds import SeedSource
from server.services.adapters import Adapters, AdapterState
from server.services.dispatch import Dispatcher, SupervisedEngine
from server.services.handover import Handover
from server.services.images import ImageUrl
from server.services.model_names import ModelNames
from server.services.pictures import Pictures
from server.services.rollouts import require_skill

T = TypeVar("T")

_BASE_LANE = "base"


@dataclass(frozen=True, kw_only=True)
class AnswerOrder:
    """What one inference call asks for, validated; `model` None is the base model."""

    model: str | None
    request: SkillRequest
    images: Sequence[ImageUrl]
    settings: Settings
    fingerprint: bytes


class Inference:
    """Answers requests."""

    def __init__(
        self,
        *,
        engine: SupervisedEngine,
        dispatcher: Dispatcher,
        handover: Handover,
        adapters: Adapters,
        pictures: Pictures,
        seeds: SeedSource,
        names: ModelNames,
        queue_seconds: float,
    ):
        self._engine = engine
        self._dispatcher = dispatcher
        self._handover = handover
        self._adapters = adapters
        self._pictures = pictures
        self._seeds = seeds
        self._names = names
        self._queue_seconds = queue_seconds

    async def answer(
        self, account_id: str, order: AnswerOrder, *, caller_left: asyncio.Future[None]
    ) -> Answered:
        """Answer when it is this call's turn; the work ends when its caller leaves."""
        saved = await self._resolve(account_id, order.model)
        lane = _BASE_LANE if saved is None else saved.finetune_id
        with (
            self._dispatcher.place(WorkClass.INFERENCE, lane, account_id=account_id) as place,
            self._pictures.of(order.images, WorkClass.INFERENCE) as pictures,
        ):
            await pictures.measure(within=place.seconds_left(self._queue_seconds))
            await place.turn(within=self._queue_seconds, unless=caller_left)
            begin_before = place.taken_at + self._queue_seconds
            model = await self._handover.loaded_model(before=begin_before)
            if saved is None and not self._names.is_base(order.model):
                raise _no_such_model()
            require_skill(model.skills, order.request.skill, model)
            async with (
                pictures.decoded(within=place.seconds_left(self._queue_seconds)) as images,
                self._state(account_id, saved, model) as state,
            ):
                command = Answer(
                    adapter=state and state.adapter,
                    request=order.request,
                    settings=order.settings,
                    seed=self._seed(order, state, [image.digest for image in images]),
                )
                answering = self._handover.call(
                    lambda: self._engine.answer(command, images),
                    fingerprint=order.fingerprint,
                    begin_before=begin_before,
                )
                return await _unless(caller_left, answering)

    async def _resolve(self, account_id: str, name: str | None) -> CheckpointName | None:
        """Return the checkpoint that a model string names, None for the base model.

        While the first model loads, any other name may be its own; None then, too.
        """
        if name is None or self._names.is_base(name):
            return None
        saved = CheckpointName.parse(name)
        if saved is None:
            if not self._names.is_known:
                return None
            raise _no_such_model()
        await self._adapters.require_saved(account_id, saved.finetune_id, saved.step)
        return saved

    @asynccontextmanager
    async def _state(
        self, account_id: str, saved: CheckpointName | None, model: ModelInfo
    ) -> AsyncGenerator[AdapterState | None]:
        if saved is None:
            yield None
            return
        lease = self._adapters.saved(account_id, saved.finetune_id, saved.step, model)
        async with lease as state:
            yield state

    def _seed(self, order: AnswerOrder, state: AdapterState | None, digests: list[str]) -> int:
        content = [to_plain(order.request), digests, to_plain(order.settings)]
        ordinal, step = (0, 0) if state is None else (state.ordinal, state.adapter.step)
        return self._seeds.call_seed("answer", ordinal, step, content)


async def _unless(caller_left: asyncio.Future[None], work: Coroutine[Any, Any, T]) -> T:
    """Wait for `work`, and cancel it when its caller leaves or this wait is cancelled.

    Raises:
        CallerLeftError: The caller left first.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task, caller_left}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise CallerLeftError("The caller left.")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _no_such_model() -> ModelNotFoundError:
    return ModelNotFoundError(
        "There is no such model. Leave the field out for the base model, or name a saved"
        " checkpoint as {base}/{finetune_id}@{step}.",
        loc=("body", "model"),
    )
