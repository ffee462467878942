"""One finetune in process, without server and database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import cast

from torch import Tensor

from contract.engine import AdapterRef, FileRef, MakeRollouts, RolloutsMade, StepTrained, TrainStep
from contract.groups import Group, TrainOptions
from contract.skills import Pixels, ReturnedRollout, Rollout, Settings, TunableRequest
from trainer.adapters.lora import Adapter
from trainer.engine import DEFAULT_MICRO_BATCH_TOKENS, TrainerEngine
from trainer.loading import LoadedModel
from trainer.model.published_config import MoondreamConfig
from trainer.optim import AdamState
from trainer.step_plan import plan_step
from trainer.train_step import Computed, Limits, in_one_go, step_in_parts


class LocalFinetune:
    """What the API does around an engine: it names files and remembers the newest state."""

    def __init__(
        self,
        engine: TrainerEngine,
        directory: Path,
        *,
        rank: int,
        seed: int = 1,
        weights: FileRef | None = None,
    ):
        self._engine = engine
        self._directory = directory
        self._number = count()
        self._optimizer: FileRef | None = None
        self.adapter = AdapterRef(
            finetune_id=f"finetune-{seed}", step=0, rank=rank, seed=seed, weights=weights
        )

    def rollouts(
        self, request: TunableRequest, image: Pixels, settings: Settings, *, num: int, seed: int
    ) -> RolloutsMade:
        command = MakeRollouts(
            adapter=self.adapter, request=request, settings=settings, num_rollouts=num, seed=seed
        )
        return self._engine.make_rollouts(command, [image])

    def train_step(
        self, groups: Sequence[Group], images: Sequence[Pixels], *, lr: float
    ) -> StepTrained:
        name = f"{self.adapter.finetune_id}-{next(self._number)}"
        command = TrainStep(
            adapter=self.adapter,
            optimizer=self._optimizer,
            groups=tuple(groups),
            lr=lr,
            options=TrainOptions(),
            weights_path=str(self._directory / f"{name}.weights"),
            optimizer_path=str(self._directory / f"{name}.optimizer"),
        )
        trained = self._engine.train_step(command, images)
        if trained.applied:
            self._optimizer = trained.optimizer
            step = self.adapter.step + 1
            self.adapter = replace(self.adapter, step=step, weights=trained.weights)
        return trained


def returned(rollout: Rollout) -> ReturnedRollout:
    return ReturnedRollout(**vars(rollout))


def compute_without_files(
    loaded: LoadedModel,
    adapter: Adapter,
    features: Mapping[str, Tensor],
    command: TrainStep,
    images: Sequence[Pixels],
    *,
    max_positions: int = DEFAULT_MICRO_BATCH_TOKENS,
) -> Computed:
    """The first train step of an adapter, of which nothing is kept.

    Args:
        features: Image tokens by digest.
        max_positions: Of a pack.
    """
    config = cast("MoondreamConfig", loaded.model.config)
    return in_one_go(
        step_in_parts(
            loaded.model,
            adapter,
            AdamState.fresh(adapter.tensors),
            plan_step(command, images, config, loaded.language),
            features,
            command,
            limits=Limits(max_positions=max_positions),
        )
    )


def without_files(
    adapter: AdapterRef, groups: Sequence[Group], *, lr: float, options: TrainOptions
) -> TrainStep:
    """The command of such a step."""
    return TrainStep(
        adapter=adapter,
        optimizer=None,
        groups=tuple(groups),
        lr=lr,
        options=options,
        weights_path="",
        optimizer_path="",
    )
