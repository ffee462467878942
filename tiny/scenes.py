"""Pretraining examples for the tiny Moondream: a drawn scene and tasks about it, all from one seed.

Boxes and points are in the order of the scene: left to right by centre, downwards for ties.

Training seeds lie in 0 .. 2**40 - 1; the held-out set uses 2**41 + index, so that no evaluation
scene was ever trained on. The held-out kinds and colours of `examples.shapes` never occur here,
neither drawn nor as words.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from examples.shapes import Scene, Shape, draw_scene
from tiny.descriptions import Description, absent, caption_of
from tiny.questions import make_query
from tiny.tasks import CaptionTask, DetectTask, PointTask, Task

NUM_TRAINING_SEEDS = 2**40
FIRST_HELD_OUT_SEED = 2**41

DEFAULT_WEIGHTS: Mapping[str, float] = {
    "detect": 0.27,
    "point": 0.15,
    "query": 0.48,
    "caption": 0.10,
}
CAPTION_LENGTHS = ("short", "normal", "long")
EMPTY_SHARE = 0.2  # of the point and detect tasks: nothing in the picture matches

PLAIN_SIZE = (84, 84)
# With crops of 84 px, patches of 7, a margin of 2 patches and at most 4 tiles, these are cut into
# 1 x 1 (another aspect), 2 x 2, 1 x 2 and 2 x 1 rows and columns of tiles.
OTHER_SIZES = ((112, 84), (120, 120), (168, 112), (112, 168))
OTHER_SIZE_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class Example:
    """One picture with its tasks."""

    seed: int
    scene: Scene
    tasks: list[Task]


def training_example(
    seed: int,
    *,
    num_tasks: int = 6,
    num_shapes: tuple[int, int] = (1, 3),
    weights: Mapping[str, float] = DEFAULT_WEIGHTS,
    other_size_share: float = OTHER_SIZE_SHARE,
) -> Example:
    """Make the example of a training seed.

    Args:
        seed: 0 .. NUM_TRAINING_SEEDS - 1.
        num_shapes: Least and greatest number of shapes; 1-3 is the plain curriculum, up to 8 fit.
        weights: How often each skill is drawn, in any scale; a skill left out is never drawn.
        other_size_share: Share of pictures that are not PLAIN_SIZE.

    Raises:
        ValueError: The seed is not a training seed.
    """
    if not 0 <= seed < NUM_TRAINING_SEEDS:
        raise ValueError(f"training seeds are 0 .. 2**40 - 1, got {seed}")
    return _example(seed, num_tasks, num_shapes, weights, other_size_share)


def heldout_example(
    index: int,
    *,
    num_tasks: int = 6,
    num_shapes: tuple[int, int] = (1, 3),
    weights: Mapping[str, float] = DEFAULT_WEIGHTS,
    other_size_share: float = OTHER_SIZE_SHARE,
) -> Example:
    """Make number `index` of the evaluation set: alike in distribution, but never trained on."""
    if not 0 <= index < NUM_TRAINING_SEEDS:
        raise ValueError(f"held-out indexes are 0 .. 2**40 - 1, got {index}")
    return _example(FIRST_HELD_OUT_SEED + index, num_tasks, num_shapes, weights, other_size_share)


def heldout_scene(
    index: int, *, num_shapes: tuple[int, int] = (1, 3), other_size_share: float = OTHER_SIZE_SHARE
) -> Scene:
    """The picture of `heldout_example(index)` without its tasks."""
    return heldout_example(
        index, num_tasks=0, num_shapes=num_shapes, other_size_share=other_size_share
    ).scene


def _example(
    seed: int,
    num_tasks: int,
    num_shapes: tuple[int, int],
    weights: Mapping[str, float],
    other_size_share: float,
) -> Example:
    rng = random.Random(seed)
    size = rng.choice(OTHER_SIZES) if rng.random() < other_size_share else PLAIN_SIZE
    scene = draw_scene(rng, size=size, num_shapes=num_shapes)
    return Example(seed=seed, scene=scene, tasks=make_tasks(scene, rng, num_tasks, weights=weights))


def make_tasks(
    scene: Scene,
    rng: random.Random,
    num_tasks: int = 6,
    *,
    weights: Mapping[str, float] = DEFAULT_WEIGHTS,
) -> list[Task]:
    """Draw tasks about a scene, without repeats as far as there is enough to ask about."""
    makers: dict[str, Callable[[Scene, random.Random], Task]] = {
        "detect": make_detect,
        "point": make_point,
        "query": make_query,
        "caption": make_caption,
    }
    tasks: list[Task] = []
    for _ in range(num_tasks):
        skill = rng.choices(list(weights), weights=list(weights.values()))[0]
        task = makers[skill](scene, rng)
        for _ in range(3):
            if task not in tasks:
                break
            task = makers[skill](scene, rng)
        tasks.append(task)
    return tasks


# --- captions ---


def make_caption(scene: Scene, rng: random.Random) -> CaptionTask:
    length = rng.choice(CAPTION_LENGTHS)
    return CaptionTask(length=length, caption=caption_of(scene, length))


# --- point and detect ---


def make_detect(scene: Scene, rng: random.Random) -> DetectTask:
    phrase, found = _object(scene, rng)
    return DetectTask(object=phrase, boxes=tuple(shape.box for shape in found))


def make_point(scene: Scene, rng: random.Random) -> PointTask:
    phrase, found = _object(scene, rng)
    return PointTask(object=phrase, points=tuple(shape.center for shape in found))


def _object(scene: Scene, rng: random.Random) -> tuple[str, list[Shape]]:
    """A phrase, and the shapes of the scene that it means."""
    form = rng.choices(
        ("color kind", "kind", "color", "any", "size", "size kind"),
        weights=(0.45, 0.2, 0.13, 0.1, 0.06, 0.06),
    )[0]
    is_empty = rng.random() < EMPTY_SHARE
    if is_empty and form == "any":
        form = "color kind"
    target = rng.choice(scene.shapes)
    wanted = Description(
        color=target.color if "color" in form else None,
        kind=target.kind if "kind" in form else None,
        size=target.size if "size" in form else None,
    )
    if is_empty:
        wanted = absent(scene, rng, wanted)
    found = [shape for shape in scene.shapes if wanted.matches(shape)]
    return wanted.phrase(plural=rng.random() < 0.35), found
