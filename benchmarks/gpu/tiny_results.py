"""What the tiny model computes at a place: forward passes, rollouts, train steps."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.local_finetune import (
    LocalFinetune,
    compute_without_files,
    returned,
    without_files,
)
from benchmarks.gpu.places import TINY_RANK, Place, adapter_at, tasks, tiny_model
from contract.engine import FileRef, TrainStep
from contract.groups import Group, RLGroup, SFTGroup, TrainOptions
from contract.skills import Pixels, Rollout, Settings, Skill, TunableRequest
from trainer.adapters.lora import Adapter
from trainer.batching import Row, make_batch
from trainer.engine import TrainerEngine
from trainer.image_features import ImageFeatures
from trainer.loading import LoadedModel
from trainer.skills import SKILLS
from trainer.train_step import Computed

LONG_ANSWER = Settings(temperature=1.0, max_tokens=48, max_objects=6)


@torch.no_grad()
def forward(
    loaded: LoadedModel, adapter: Adapter, image: Pixels, request: TunableRequest
) -> dict[str, Tensor]:
    """Image tokens, and what stands behind a prompt."""
    model = loaded.model
    features = ImageFeatures(model).of([image])
    prompt = SKILLS[Skill(request.skill)].prompt(request, loaded.language)
    batch = make_batch(model, [Row(image=image.digest, prompt=prompt)], features)
    hidden_1TD = model.text(
        batch.embeds_BTD,
        positions_BT=batch.positions_1T,
        prefix_len=batch.prefix_len,
        adapter=adapter,
    )
    return {
        "features": features[image.digest],
        "hidden": hidden_1TD,
        "logits": model.text.logits(hidden_1TD[:, -1]),
        "coordinates": model.region.coord_logits(hidden_1TD[:, -1]),
    }


def rollouts_at(
    place: Place, start: FileRef, directory: Path, settings: Settings, *, num: int
) -> list[Rollout]:
    """The rollouts of all tasks, every second task with top-p."""
    engine = TrainerEngine(tiny_model(place))
    finetune = LocalFinetune(engine, directory, rank=TINY_RANK, weights=start)
    made: list[Rollout] = []
    for number, (image, request, _) in enumerate(tasks()):
        asked = replace(settings, top_p=0.9 if number % 2 else 1.0)
        made += finetune.rollouts(request, image, asked, num=num, seed=number).rollouts
    return made


@cache
def step_commands(start: FileRef, directory: Path) -> dict[str, tuple[TrainStep, list[Pixels]]]:
    """One RL and one SFT step over the first tasks; the rollouts were drawn on the CPU."""
    engine = TrainerEngine(tiny_model(("cpu", "float32")))
    finetune = LocalFinetune(engine, directory, rank=TINY_RANK, weights=start)
    images: list[Pixels] = []
    groups: dict[str, list[Group]] = {"rl": [], "sft": []}
    for number, (image, request, target) in enumerate(tasks()[:9]):
        made = finetune.rollouts(request, image, LONG_ANSWER, num=6, seed=1000 + number).rollouts
        placed = replace(request, image=number)
        images.append(image)
        groups["rl"].append(
            RLGroup(
                request=placed,
                rollouts=tuple(map(returned, made)),
                rewards=tuple(float((number + i) % 3) for i in range(len(made))),
            )
        )
        groups["sft"].append(SFTGroup(request=placed, targets=(target,)))
    return {
        mode: (
            without_files(finetune.adapter, of_mode, lr=1e-3, options=TrainOptions(beta=0.05)),
            images,
        )
        for mode, of_mode in groups.items()
    }


def computed_at(place: Place, start: FileRef, directory: Path, mode: str) -> Computed:
    loaded = tiny_model(place)
    command, images = step_commands(start, directory)[mode]
    features = ImageFeatures(loaded.model).of(images)
    adapter = adapter_at(place, start)
    return compute_without_files(loaded, adapter, features, command, images, max_positions=2048)


# Most results are compared twice.
kept_rollouts = cache(rollouts_at)
kept_computed = cache(computed_at)
