"""Packed tasks are trained exactly as if each stood alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tiny.model_config import tiny_config
from tiny.packing import Branch, branch, pack
from tiny.scenes import heldout_example
from tiny.train import learning_rate, losses, make_batch, make_language, shapes_range
from trainer.model.crops import make_crops
from trainer.model.moondream import Moondream
from trainer.skills.base import Language

BLUR = 8.0
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model() -> Moondream:
    return Moondream.from_scratch(tiny_config(), seed=3).eval()


@pytest.fixture(scope="module")
def language(model: Moondream) -> Language:
    return make_language(model.config)


def summed(model: Moondream, language: Language, crops: tuple, rows: list[list[Branch]]) -> dict:
    """Loss times count of each kind of draw, so that parts add up."""
    batch = pack(rows, prefix_len=model.config.text.prefix_attn, language=language)
    with torch.no_grad():
        means = losses(model, [crops] * len(rows), batch, BLUR)
    counts = {
        "text": int(batch.is_free_A.sum()),
        "choice": int(batch.is_choice_A.sum()),
        "coord": len(batch.coord_bins),
        "size": 2 * len(batch.size_bins),
    }
    return {
        name: float(means[name]) * count if count else 0.0 for name, count in counts.items()
    } | {f"num_{name}": count for name, count in counts.items()}


def test_a_packed_row_costs_what_its_tasks_cost_alone(model, language) -> None:
    example = heldout_example(4, num_tasks=5, num_shapes=(2, 3))
    crops = make_crops(np.asarray(example.scene.image), model.config.vision)
    branches = [branch(task, language) for task in example.tasks]
    together = summed(model, language, crops, [branches])
    alone = [summed(model, language, crops, [[one]]) for one in branches]
    for name, value in together.items():
        assert value == pytest.approx(sum(part[name] for part in alone), rel=TOLERANCE), name


def test_batches_of_unequal_rows_are_padded_without_effect(model, language) -> None:
    example = heldout_example(5, num_tasks=4)
    crops = make_crops(np.asarray(example.scene.image), model.config.vision)
    branches = [branch(task, language) for task in example.tasks]
    padded = summed(model, language, crops, [branches, branches[:1]])
    apart = [summed(model, language, crops, [row]) for row in (branches, branches[:1])]
    for name, value in padded.items():
        assert value == pytest.approx(sum(part[name] for part in apart), rel=TOLERANCE), name


def test_a_batch_is_a_function_of_seed_and_step(model, language) -> None:
    first, second = (make_batch(1, 7, 100, model.config, language) for _ in range(2))
    other = make_batch(1, 8, 100, model.config, language)
    assert all((a[0] == b[0]).all() for a, b in zip(first[0], second[0], strict=True))
    assert torch.equal(first[1].ids_BT, second[1].ids_BT)
    assert not all((a[0] == b[0]).all() for a, b in zip(first[0], other[0], strict=True))


def test_the_schedule_warms_up_cools_down_and_adds_shapes() -> None:
    assert learning_rate(0, 1000) < learning_rate(299, 1000) > learning_rate(900, 1000)
    assert shapes_range(0, 1000) == (1, 1)
    assert shapes_range(999, 1000) == (1, 3)
    assert shapes_range(996, 1000) == (1, 4)
