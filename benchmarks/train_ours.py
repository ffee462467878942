"""Our side of `benchmarks.train`: the dense family with the geometry of the stock model.

Text and vision have the sizes of `benchmarks.served_checkpoint`, weights are random, and the same
biases keep answers from ending. Rollouts and steps go through the code that serves them; no HTTP.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.gpu.local_finetune import LocalFinetune, returned, without_files
from benchmarks.gpu.random_adapter import random_adapter
from benchmarks.random_checkpoint.loaded import as_loaded
from benchmarks.rollout_sides import RANK
from benchmarks.served_checkpoint import IMPOSSIBLE, PUBLISHED
from benchmarks.train_task import Task, noise_pixels
from contract.engine import AdapterRef, TrainStep
from contract.groups import RLGroup, TrainOptions
from contract.skills import FinishReason, Pixels, QueryRequest, ReturnedRollout, Settings
from trainer.engine import DEFAULT_MICRO_BATCH_TOKENS, TrainerEngine
from trainer.loading import LoadedModel
from trainer.model.crops import make_crops
from trainer.model.moondream import Moondream
from trainer.model.published_config import MoondreamConfig
from trainer.optim import AdamState
from trainer.packing import pack
from trainer.step_plan import plan_step
from trainer.train_step import Limits, step_in_parts

WORD = "a"
"""One token, and one more for every ` a` behind it."""

AROUND_QUESTION = 6
"""BOS and the template of a query."""

SHIPPED = Limits(max_positions=DEFAULT_MICRO_BATCH_TOKENS)


def our_model(text: Mapping[str, int] | None = None) -> LoadedModel:
    """Random weights, float32; `text` overrides sizes of the text model."""
    published: dict[str, Any] = copy.deepcopy(PUBLISHED)
    published["config"]["text"] |= text or {}
    config = MoondreamConfig.from_published(published)
    model = Moondream.from_scratch(config, seed=0).eval().requires_grad_(False)
    ids = config.tokenizer
    model.text.lm_head.bias[[ids.eos_id, ids.coord_id, ids.size_id]] = IMPOSSIBLE
    return as_loaded(model, config)


class Ours:
    """One group of the task, and one adapter to train on it."""

    def __init__(
        self, task: Task, loaded: LoadedModel | None = None, limits: Limits = SHIPPED
    ) -> None:
        loaded = loaded or our_model()
        self._limits = limits
        self._model: Moondream = loaded.model
        config = config_of(loaded)
        self._pictures = [noise_picture()] if task.has_picture else []
        self._adapter = random_adapter(config.text, RANK, seed=0)
        self._command = command_of([group_of(task, request_of(task, config))])
        self.plan = plan_step(self._command, self._pictures, config, loaded.language)
        self._crops = [make_crops(noise_pixels(), config.vision)]
        num_positions = self.plan.examples[0].row.num_positions(config.vision.num_image_tokens)
        assert num_positions == task.prefix + task.num_tokens - 1, num_positions

    def loss_and_gradient(self, *, has_vision: bool = True) -> float:
        """CPU seconds of the picture, packing, forward and backward pass.

        The reference pass, which the step makes for its metrics, runs and does not count.
        """
        known = None if has_vision else self._known_features
        started = time.process_time()
        features = self._features() if known is None else known
        pack(self._model, [example.row for example in self.plan.examples], features)
        seconds = time.process_time() - started
        parts = self._parts(features)
        while True:
            try:
                next(parts)  # packed, and scored without the adapter
            except StopIteration:
                return seconds
            started = time.process_time()
            next(parts)
            seconds += time.process_time() - started

    @torch.no_grad()
    def _features(self) -> dict[str, Tensor]:
        if not self._pictures:
            return {}
        return {self._pictures[0].digest: self._model.vision.encode_images(self._crops)[0]}

    @cached_property
    def _known_features(self) -> dict[str, Tensor]:
        return self._features()

    def _parts(self, features: Mapping[str, Tensor]) -> Any:
        return step_in_parts(
            self._model,
            self._adapter,
            AdamState.fresh(self._adapter.tensors),
            self.plan,
            features,
            self._command,
            limits=self._limits,
        )


class OurFinetune:
    """An engine and a finetune on it, whose state is written to files as it is served."""

    def __init__(self, task: Task, directory: Path) -> None:
        loaded = our_model()
        self._task = task
        self._request = request_of(task, config_of(loaded))
        self._finetune = LocalFinetune(TrainerEngine(loaded), directory, rank=RANK)
        self._number = count()

    def step(self, *, is_new_picture: bool = True) -> None:
        """Sample the group, reward it, and train on it; a known picture costs no vision."""
        picture = noise_picture()
        if is_new_picture:
            picture = replace(picture, digest=f"picture {next(self._number)}")
        task = self._task
        made = self._finetune.rollouts(
            self._request,
            picture,
            Settings(temperature=1.0, max_tokens=task.num_tokens),
            num=task.num_rollouts,
            seed=next(self._number),
        )
        lengths = {len(rollout.answer_tokens) for rollout in made.rollouts}
        assert lengths == {task.num_tokens}, lengths
        group = RLGroup(
            request=self._request,
            rollouts=tuple(map(returned, made.rollouts)),
            rewards=tuple(task.rewards),
        )
        trained = self._finetune.train_step([group], [picture], lr=1e-4)
        assert trained.applied


def config_of(loaded: LoadedModel) -> MoondreamConfig:
    return cast("MoondreamConfig", loaded.model.config)


def request_of(task: Task, config: MoondreamConfig) -> QueryRequest:
    """A question that takes the positions of the task's prefix."""
    num_words = task.prefix - AROUND_QUESTION
    if task.has_picture:
        num_words -= config.vision.num_image_tokens
    question = " ".join([WORD] * num_words)
    return QueryRequest(question=question, image=0 if task.has_picture else None)


def group_of(task: Task, request: QueryRequest) -> RLGroup:
    """The task's answers as a client would send them without log-probabilities, so that the ratio
    is 1, as it is in TRL by default."""
    return RLGroup(
        request=request,
        rollouts=tuple(
            ReturnedRollout(finish_reason=FinishReason.LENGTH, answer_tokens=tuple(tokens))
            for tokens in task.answers_GA.tolist()
        ),
        rewards=tuple(task.rewards),
    )


def command_of(groups: Sequence[RLGroup], options: TrainOptions | None = None) -> TrainStep:
    finetune = AdapterRef(finetune_id="f", step=0, rank=RANK, seed=0, weights=None)
    return without_files(finetune, groups, lr=1e-4, options=options or TrainOptions())


def noise_picture() -> Pixels:
    pixels = noise_pixels()
    height, width, _ = pixels.shape
    return Pixels(height=height, width=width, digest="picture", data=pixels.tobytes())
