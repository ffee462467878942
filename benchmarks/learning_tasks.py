"""What finetunes of the bundled tiny Moondream are taught: pictures, questions and right answers.

Held-out pictures have seeds that training never uses.
"""

from __future__ import annotations

import random

from examples.shapes import TRAINED_COLORS, Scene, draw_scene

FIRST_HELD_OUT_SEED = 2**41

Box = tuple[float, float, float, float]

STAR = "star"
"""To be detected; a shape that the base has never seen."""


def star_scene(seed: int) -> Scene:
    """One to three stars, so that saying nothing never pays."""
    return draw_scene(seed, kinds=(STAR,), colors=TRAINED_COLORS)


def star_boxes(scene: Scene) -> list[Box]:
    return [shape.box for shape in scene.shapes]


HEXAGON = "hexagon"
"""To be pointed at among shapes that are none; the base has never seen one either."""


def hexagon_scene(seed: int) -> Scene:
    """Two to four small shapes, of which at least one is a hexagon."""
    rng = random.Random(seed)
    while True:
        scene = draw_scene(
            rng, num_shapes=(2, 4), kinds=(HEXAGON, "circle", "diamond"), sizes=("small", "medium")
        )
        if hexagon_boxes(scene):
            return scene


def hexagon_boxes(scene: Scene) -> list[Box]:
    return [shape.box for shape in scene.shapes if shape.kind == HEXAGON]


THING_QUESTION = "what thing is it?"
"""The base was never asked that; the right answer is colour and kind."""


def single_scene(seed: int) -> Scene:
    return draw_scene(seed, num_shapes=(1, 1))


def thing_answer(scene: Scene) -> str:
    return scene.shapes[0].name


TEAL = "teal"
"""The word for a colour that the base has never seen."""
COLOR_QUESTION = "what color is the shape?"


def teal_scene(seed: int) -> Scene:
    """A single shape, teal."""
    return draw_scene(seed, num_shapes=(1, 1), colors=(TEAL,))


def first_training_seed(seed: int) -> int:
    """The first picture of a run; the others follow it."""
    return seed << 20
