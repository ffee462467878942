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
from server.domain.errors import CallerLeftError
from server.domain.seeds import SeedSource
from server.services.adapters import Adapters, AdapterState
from server.services.dispatch import Dispatcher, SupervisedEngine
from server.services.growth import Growth
from server.services.handover import Handover
from server.services.images import ImageUrl
from server.services.models import Models, no_such_model
from server.services.pictures import Pictures
from server.services.rollouts import require_skill

T = TypeVar("T")

_BASE_LANE = "base"


@dataclass(frozen=True, kw_only=True)
class AnswerOrder:
    """What one inference call asks for, validated; `model` None is the base model.

    `received_at` is when its body was there: monotonic, in seconds.
    """

    model: str | None
    request: SkillRequest
    images: Sequence[ImageUrl]
    settings: Settings
    fingerprint: bytes
    received_at: float


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
        models: Models,
        queue_seconds: float,
    ):
        self._engine = engine
        self._dispatcher = dispatcher
        self._handover = handover
        self._adapters = adapters
        self._pictures = pictures
        self._seeds = seeds
        self._models = models
        self._queue_seconds = queue_seconds

    async def answer(
        self,
        account_id: str,
        order: AnswerOrder,
        *,
        caller_left: asyncio.Future[None],
        growth: Growth | None = None,
    ) -> Answered:
        """Answer when it is this call's turn; the work ends when its caller leaves.

        With `growth` the answer is told there while it grows. When a worker dies it is done again
        as long as nothing of it was sent: what a caller has cannot be taken back.
        """
        saved = await self._models.resolve(account_id, order.model)
        lane = _BASE_LANE if saved is None else saved.finetune_id
        with (
            self._dispatcher.place(
                WorkClass.INFERENCE, lane, account_id=account_id, since=order.received_at
            ) as place,
            self._pictures.of(order.images, WorkClass.INFERENCE) as pictures,
        ):
            await pictures.measure(within=place.seconds_left(self._queue_seconds))
            await place.turn(within=self._queue_seconds, unless=caller_left)
            begin_before = place.waits_since + self._queue_seconds
            model = await self._handover.loaded_model(before=begin_before)
            if saved is None and not self._models.is_base(order.model):
                raise no_such_model()
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
                    is_streamed=growth is not None,
                )
                on_delta = None if growth is None else growth.add
                answering = self._handover.call(
                    lambda: self._engine.answer(command, images, on_delta),
                    fingerprint=order.fingerprint,
                    begin_before=begin_before,
                    may_redo=lambda: growth is None or growth.start_over(),
                )
                return await _unless(caller_left, answering)

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
