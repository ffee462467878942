"""A model of full geometry with random weights, one engine and one finetune on it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import cast

import numpy as np
import torch

from benchmarks.gpu.floors import Floors
from benchmarks.gpu.local_finetune import (
    LocalFinetune,
    compute_without_files,
    returned,
    without_files,
)
from benchmarks.gpu.random_adapter import random_adapter
from benchmarks.gpu.report import Part
from benchmarks.random_checkpoint.checkpoint import RandomCheckpoint
from benchmarks.random_checkpoint.loaded import as_loaded
from contract.groups import Group, RLGroup, TrainOptions
from contract.skills import DetectRequest, Pixels, QueryRequest, Settings, Skill, TunableRequest
from trainer.adapters.lora import Adapter
from trainer.batching import Row
from trainer.budgets import Budgets
from trainer.decoder import DecodeRequest
from trainer.engine import TrainerEngine
from trainer.image_features import ImageFeatures
from trainer.loading import LoadedModel
from trainer.model.config import Family
from trainer.model.published_config import MoondreamConfig
from trainer.prefill import Prefix, prefill
from trainer.skills import SKILLS
from trainer.train_step import Computed

RANK = 32
NUM_ROLLOUTS = 16
NUM_TOKENS = 30
NUM_PICTURES = 16
WIDTH_PX, HEIGHT_PX = 640, 480
"""An ordinary picture; nine crops in full geometry."""

NEVER = -100.0
"""Logit of the end, so that every answer is as long as it may be."""

QUERY = QueryRequest(question="how many circles are there, and what is left of them?", image=0)
DETECT = DetectRequest(object="red circle", image=0)


class LargeModel:
    """What is measured: the model, its engine, and what it is asked.

    Args:
        directory: Where finetunes keep their state.
        hardware: What `measure_hardware` found.
    """

    def __init__(self, loaded: LoadedModel, directory: Path, hardware: Part):
        self.loaded = loaded
        self.model = loaded.model
        self.config = cast("MoondreamConfig", loaded.model.config)
        self.language = loaded.language
        self.directory = directory
        self.device = loaded.model.text.wte.device
        self.dtype = loaded.model.text.wte.dtype
        self.budgets = Budgets.of(self.config, self.device, self.dtype)
        self.engine = TrainerEngine(loaded, budgets=self.budgets)
        self.finetune = LocalFinetune(self.engine, directory, rank=RANK, seed=5)
        self.floors = Floors(loaded.model, hardware)
        self.pictures = [noise_picture(WIDTH_PX, HEIGHT_PX, i) for i in range(NUM_PICTURES)]
        self._number = count()
        self._features = ImageFeatures(loaded.model)
        self._prefixes: dict[int, Prefix] = {}

    @cached_property
    def adapter(self) -> Adapter:
        """One that changes answers."""
        return self.new_adapter(RANK, seed=5)

    def new_adapter(self, rank: int, *, seed: int) -> Adapter:
        config = self.model.config.text
        return random_adapter(config, rank, seed=seed, device=self.device, dtype=self.dtype)

    def new_picture(self) -> Pixels:
        """One that no cache knows: known pixels under a new name, so that it costs nothing here."""
        number = next(self._number)
        return replace(self.pictures[number % NUM_PICTURES], digest=f"new {number}")

    def row(self, request: TunableRequest, picture: Pixels) -> Row:
        prompt = SKILLS[Skill(request.skill)].prompt(request, self.language)
        return Row(image=picture.digest, prompt=tuple(prompt))

    def num_prompt(self, request: TunableRequest) -> int:
        """Positions before the answer."""
        row = self.row(request, self.pictures[0])
        return row.num_positions(self.model.config.vision.num_image_tokens)

    def features(self, pictures: Sequence[Pixels]) -> dict[str, torch.Tensor]:
        return self._features.of(pictures)

    def prefix(self, picture: int, request: TunableRequest = QUERY) -> Prefix:
        """The prompt about one of the pictures after its prefill; that of the query is kept."""
        pixels = self.pictures[picture]
        if request is not QUERY:
            row = self.row(request, pixels)
            return prefill(self.model, self.adapter, row, self.features([pixels]))
        if picture not in self._prefixes:
            row = self.row(QUERY, pixels)
            found = prefill(self.model, self.adapter, row, self.features([pixels]))
            self._prefixes[picture] = found
        return self._prefixes[picture]

    def answers(
        self,
        prefix: Prefix,
        settings: Settings,
        *,
        num: int,
        adapter: Adapter | None,
        seed: int = 11,
        request: TunableRequest = QUERY,
    ) -> DecodeRequest:
        """What a decoder is asked for; the prefix may be that of another adapter."""
        skill = SKILLS[Skill(request.skill)]
        return DecodeRequest(
            prefix=prefix,
            adapter=adapter,
            new_grammar=lambda: skill.grammar(request, self.language),
            settings=settings,
            num_rollouts=num,
            seed=seed,
        )

    def groups(
        self,
        num: int,
        *,
        num_rollouts: int = NUM_ROLLOUTS,
        num_tokens: int = NUM_TOKENS,
        finetune: LocalFinetune | None = None,
    ) -> tuple[list[Group], list[Pixels]]:
        """Groups of rollouts with rewards, each about a picture of its own."""
        finetune = finetune or self.finetune
        groups: list[Group] = []
        for index, picture in enumerate(self.pictures[:num]):
            settings = of_tokens(num_tokens)
            made = finetune.rollouts(QUERY, picture, settings, num=num_rollouts, seed=index)
            groups.append(
                RLGroup(
                    request=replace(QUERY, image=index),
                    rollouts=tuple(map(returned, made.rollouts)),
                    rewards=tuple(float(i % 2) for i in range(num_rollouts)),
                )
            )
        return groups, self.pictures[:num]

    def compute(self, groups: Sequence[Group], pictures: Sequence[Pixels]) -> Computed:
        """A train step without its files."""
        command = without_files(self.finetune.adapter, groups, lr=1e-5, options=TrainOptions())
        features = self.features(pictures)
        return compute_without_files(self.loaded, self._masters, features, command, pictures)

    @cached_property
    def _masters(self) -> Adapter:
        return Adapter.fresh(self.model.config.text, RANK, seed=5, device=self.device)


def of_tokens(num: int = NUM_TOKENS) -> Settings:
    return Settings(temperature=1.0, max_tokens=num)


def built_model(scale: str, device: str) -> LoadedModel:
    """Random weights in bfloat16, drawn on the device; no file in between."""
    checkpoint = RandomCheckpoint(family=Family.MOONDREAM3, scale=scale, device=device)
    model, config = checkpoint.build(), checkpoint.config
    model.text.lm_head.bias[config.tokenizer.eos_id] = NEVER
    return as_loaded(model, config)


def noise_picture(width: int, height: int, seed: int) -> Pixels:
    data = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8).tobytes()
    digest = hashlib.sha256(data).hexdigest()
    return Pixels(height=height, width=width, digest=digest, data=data)
