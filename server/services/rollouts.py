"""Rollouts: sample answers from the newest committed weights."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from contract import faults
from contract.codec import to_plain
from contract.engine import MakeRollouts, ModelInfo, RolloutsMade
from contract.ids import parse_ulid
from contract.skills import GroundTruth, Pixels, Settings, TunableRequest
from contract.work import WorkClass
from server.domain.errors import (
    NotSupportedError,
    OverloadedError,
    StartingError,
    WorkerUnavailableError,
)
from server.domain.seeds import SeedSource
from server.meters import ROLLOUTS_TAKEN_OVER, Meters
from server.services.adapters import Adapters, AdapterState
from server.services.dispatch import Dispatcher, Place, SupervisedEngine
from server.services.handover import Handover
from server.services.images import ImageUrl
from server.services.limits import RateLimits
from server.services.lingering import Lingering, Patience
from server.services.pictures import Pictures

T = TypeVar("T")

MIN_START_SECONDS = 5.0
"""How long a rollouts call waits to start at least, however long rollouts take."""


@dataclass(frozen=True, kw_only=True)
class RolloutsOrder:
    """What one rollouts call asks for, validated; `received_at` is monotonic, in seconds."""

    finetune_id: str
    request: TunableRequest
    images: Sequence[ImageUrl]
    settings: Settings
    num_rollouts: int
    ground_truth: GroundTruth | None
    fingerprint: bytes
    received_at: float


class Rollouts:
    """Makes rollouts, each call from one version of the weights."""

    def __init__(
        self,
        *,
        engine: SupervisedEngine,
        dispatcher: Dispatcher,
        handover: Handover,
        adapters: Adapters,
        pictures: Pictures,
        seeds: SeedSource,
        queue_seconds: float,
        answer_seconds: float,
        linger_seconds: float,
        limits: RateLimits,
        meters: Meters,
    ):
        self._lingering = Lingering[RolloutsMade](
            seconds=linger_seconds,
            clock=dispatcher.clock,
            on_taken_over=lambda: meters.count(ROLLOUTS_TAKEN_OVER),
        )
        self._engine = engine
        self._dispatcher = dispatcher
        self._handover = handover
        self._adapters = adapters
        self._pictures = pictures
        self._seeds = seeds
        self._queue_seconds = queue_seconds
        self._answer_seconds = answer_seconds
        self._limits = limits

    async def make_rollouts(
        self, account_id: str, order: RolloutsOrder, *, caller_left: asyncio.Future[None]
    ) -> RolloutsMade:
        """Sample when it is this call's turn, or take over what a caller like this one left."""
        return await self._lingering.run(
            (account_id, order.fingerprint),
            lambda patience: self._make(account_id, order, patience),
            caller_left=caller_left,
        )

    async def _make(
        self, account_id: str, order: RolloutsOrder, patience: Patience
    ) -> RolloutsMade:
        lane = parse_ulid(order.finetune_id) or order.finetune_id
        with (
            self._limits.rollouts(),
            self._dispatcher.place(
                WorkClass.ROLLOUTS, lane, account_id=account_id, since=order.received_at
            ) as place,
            self._pictures.of(order.images, WorkClass.ROLLOUTS) as pictures,
        ):
            faults.point("rollouts.received")
            await self._adapters.require_living(account_id, order.finetune_id)
            patience.counts_from(order.received_at)
            await pictures.measure(within=self._seconds_left(patience))
            model = await self._patiently(patience, lambda: self._turn(place, patience))
            require_skill(model.tunable_skills, order.request.skill, model)
            async with (
                pictures.decoded(within=self._seconds_left(patience)) as images,
                self._adapters.newest(account_id, order.finetune_id, model) as state,
            ):
                command = self._command(order, state, images)
                made = await self._patiently(
                    patience,
                    lambda: self._handover.call(
                        lambda: self._engine.make_rollouts(command, images),
                        fingerprint=order.fingerprint,
                        begin_before=patience.since + self._queue_seconds,
                        redo_before=patience.since + self._answer_seconds,
                    ),
                )
                faults.point("rollouts.made")
                return made

    async def _turn(self, place: Place, patience: Patience) -> ModelInfo:
        """Wait for the turn and a worker, as long as who waits now has patience."""
        begin_before = patience.since + self._seconds_to_start()
        if not place.is_running:  # else it has its turn, and only the worker came too late
            await place.turn(within=begin_before - place.waits_since)
        return await self._handover.loaded_model(before=begin_before)

    def _seconds_left(self, patience: Patience) -> float:
        """Until the work has to begin."""
        left = patience.since + self._seconds_to_start() - self._dispatcher.clock()
        return max(left, 0.0)

    async def _patiently(self, patience: Patience, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try again what came too late for the caller that left, if another took over."""
        while True:
            since = patience.since
            try:
                return await attempt()
            except (OverloadedError, StartingError, WorkerUnavailableError):
                if self._dispatcher.is_draining or patience.since == since:
                    raise

    def _seconds_to_start(self) -> float:
        """As long as the work can still end in time, if it takes as long as it did lately.

        Work that takes longer than any caller waits is begun all the same, if its turn comes soon:
        a resend takes it over.
        """
        lately = self._dispatcher.service_seconds(WorkClass.ROLLOUTS)
        return min(self._queue_seconds, max(self._answer_seconds - lately, MIN_START_SECONDS))

    def _command(
        self, order: RolloutsOrder, state: AdapterState, images: Sequence[Pixels]
    ) -> MakeRollouts:
        content: dict[str, Any] = {
            "request": to_plain(order.request),
            "images": [image.digest for image in images],
            "settings": to_plain(order.settings),
            "num_rollouts": order.num_rollouts,
            "ground_truth": to_plain(order.ground_truth),
        }
        return MakeRollouts(
            adapter=state.adapter,
            request=order.request,
            settings=order.settings,
            num_rollouts=order.num_rollouts,
            seed=self._seeds.call_seed("make_rollouts", state.ordinal, state.adapter.step, content),
            ground_truth=order.ground_truth,
        )


def require_skill(skills: Sequence[str], skill: str, model: ModelInfo) -> None:
    """Refuse a skill that the loaded model lacks."""
    if skill not in skills:
        raise NotSupportedError(
            f"The loaded model '{model.name}' does not support {skill} here;"
            f" it supports {', '.join(skills)}."
        )
