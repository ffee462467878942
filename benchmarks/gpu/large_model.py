"""A model of full geometry, with one finetune on it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.gpu.floors import Floors
from benchmarks.gpu.local_finetune import (
    LocalFinetune,
    compute_without_files,
    returned,
    without_files,
)
from benchmarks.gpu.report import Part
from contract.groups import Group, RLGroup, TrainOptions
from contract.skills import (
    DetectRequest,
    FinishReason,
    Pixels,
    QueryRequest,
    Rollout,
    Settings,
    Skill,
    TunableRequest,
)
from trainer.adapters.lora import Adapter
from trainer.batching import Row
from trainer.engine import TrainerEngine
from trainer.image_features import ImageFeatures
from trainer.loading import LoadedModel
from trainer.skills import SKILLS
from trainer.train_step import Computed

RANK = 32

QUERY = QueryRequest(question="how many circles are there, and what is left of them?", image=0)
DETECT = DetectRequest(object="red circle", image=0)
NUM_ROLLOUTS = 16
NUM_ACTIONS = 24


class LargeModel:
    """What is measured: the model, its engine, and what it is asked.

    Args:
        directory: Where the finetune keeps its state.
        hardware: What `measure_hardware` found.
    """

    def __init__(self, loaded: LoadedModel, directory: Path, hardware: Part):
        self._loaded = loaded
        self.model = loaded.model
        self.language = loaded.language
        self.engine = TrainerEngine(loaded)
        self.finetune = LocalFinetune(self.engine, directory, rank=RANK, seed=5)
        self.floors = Floors(loaded.model, hardware)
        self.picture = noise_picture(378, 378, 0)
        self._adapter = Adapter.fresh(
            loaded.model.config.text, RANK, seed=5, device=loaded.model.text.wte.device
        )
        self._features = ImageFeatures(loaded.model)

    def num_prompt(self, request: TunableRequest) -> int:
        """Positions before the answer."""
        prompt = SKILLS[Skill(request.skill)].prompt(request, self.language)
        row = Row(image=self.picture.digest, prompt=prompt)
        return row.num_positions(self.model.config.vision.num_image_tokens)

    def roll(self, request: TunableRequest, num: int, **limits: int) -> tuple[Rollout, ...]:
        settings = Settings(temperature=1.0, **limits)
        return self.finetune.rollouts(request, self.picture, settings, num=num, seed=11).rollouts

    def groups(self, num: int) -> tuple[list[Group], list[Pixels]]:
        """Groups of sixteen rollouts of 24 tokens, each about a picture of its own."""
        groups: list[Group] = []
        pictures = [noise_picture(378, 378, seed) for seed in range(num)]
        settings = Settings(temperature=1.0, max_tokens=NUM_ACTIONS)
        for index, picture in enumerate(pictures):
            made = self.finetune.rollouts(QUERY, picture, settings, num=NUM_ROLLOUTS, seed=index)
            groups.append(
                RLGroup(
                    request=replace(QUERY, image=index),
                    rollouts=tuple(map(returned, made.rollouts)),
                    rewards=tuple(float(i % 2) for i in range(NUM_ROLLOUTS)),
                )
            )
        return groups, pictures

    def compute(self, groups: Sequence[Group], pictures: Sequence[Pixels]) -> Computed:
        """A train step without its files."""
        command = without_files(self.finetune.adapter, groups, lr=1e-5, options=TrainOptions())
        features = self._features.of(pictures)
        return compute_without_files(self._loaded, self._adapter, features, command, pictures)


def noise_picture(width: int, height: int, seed: int) -> Pixels:
    data = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8).tobytes()
    digest = hashlib.sha256(data).hexdigest()
    return Pixels(height=height, width=width, digest=digest, data=data)


def num_drawn(rollout: Rollout) -> int:
    """Positions that were drawn, the end included."""
    is_stopped = rollout.finish_reason is FinishReason.STOP
    return len(rollout.thinking_tokens) + len(rollout.answer_tokens) + is_stopped
