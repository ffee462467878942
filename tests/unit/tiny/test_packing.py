"""Packed tasks are trained exactly as if each stood alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from examples.shapes import TRAINED_COLORS, TRAINED_KINDS
from tiny.model_config import tiny_config
from tiny.packing import Branch, branch, pack
from tiny.patches import patch_labels
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
        image_BPD = model.vision.encode_images([crops] * len(rows))
        means = losses(model, image_BPD, batch, BLUR)
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
    assert torch.equal(first.tasks.ids_BT, second.tasks.ids_BT)
    assert torch.equal(first.labels_BPC, second.labels_BPC)
    assert all((a[0] == b[0]).all() for a, b in zip(first.crops, second.crops, strict=True))
    assert not torch.equal(first.labels_BPC, other.labels_BPC)


def test_a_patch_belongs_to_the_shape_whose_box_holds_its_centre() -> None:
    scene = heldout_example(6, num_tasks=0, num_shapes=(2, 2)).scene
    labels = patch_labels([scene], 12)[0].view(12, 12, 6)
    for row in range(12):
        for column in range(12):
            x, y = (column + 0.5) / 12, (row + 0.5) / 12
            owners = [
                shape
                for shape in scene.shapes
                if shape.box[0] <= x <= shape.box[2] and shape.box[1] <= y <= shape.box[3]
            ]
            kind, color, *box = labels[row, column].tolist()
            if not owners:
                assert (kind, color) == (0, 0)
            else:
                assert TRAINED_KINDS[int(kind) - 1] == owners[-1].kind
                assert TRAINED_COLORS[int(color) - 1] == owners[-1].color
                assert box[:2] == pytest.approx(owners[-1].center, abs=1e-6)


def test_the_schedule_warms_up_cools_down_and_adds_shapes() -> None:
    assert learning_rate(0, 1000) < learning_rate(99, 1000) > learning_rate(900, 1000)
    assert shapes_range(0, 1000) == (1, 2)
    assert shapes_range(999, 1000) == (1, 3)
    assert shapes_range(996, 1000) == (1, 4)
