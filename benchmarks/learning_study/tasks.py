"""The tasks of `benchmarks.learning_tasks` in the words of the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.learning_tasks import (
    COLOR_QUESTION,
    HEXAGON,
    STAR,
    TEAL,
    THING_QUESTION,
    hexagon_boxes,
    hexagon_scene,
    single_scene,
    star_boxes,
    star_scene,
    teal_scene,
    thing_answer,
)
from contract.skills import (
    Box,
    DetectRequest,
    DetectTarget,
    GroundTruth,
    PointRequest,
    PointTarget,
    QueryRequest,
    QueryTarget,
    Settings,
    Target,
    TunableRequest,
)
from examples.shapes import Scene

WARM = Settings(temperature=1.0, max_tokens=12, max_objects=6)
GREEDY = Settings(temperature=0.0, max_tokens=12, max_objects=6)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One thing to learn. `request` names its picture by the index 0.

    Attributes:
        truth: What the engine's reward is computed against; None where `reward` says it.
        target: The right answer, for supervised groups.
    """

    request: TunableRequest
    scene: Callable[[int], Scene]
    target: Callable[[Scene], Target]
    truth: Callable[[Scene], GroundTruth] | None = None
    text: Callable[[Scene], str] = lambda _: ""

    def reward(self, scene: Scene, output: dict[str, Any]) -> float:
        """Exact match, for tasks without `truth`."""
        return float(output["answer"] == self.text(scene))


def _as_boxes(boxes: Sequence[tuple[float, float, float, float]]) -> tuple[Box, ...]:
    return tuple(
        Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
        for x_min, y_min, x_max, y_max in boxes
    )


def _query(question: str, scene: Callable[[int], Scene], text: Callable[[Scene], str]) -> Task:
    return Task(
        request=QueryRequest(question=question, image=0),
        scene=scene,
        target=lambda scene: QueryTarget(answer=text(scene)),
        text=text,
    )


TASKS: dict[str, Task] = {
    "query": _query(THING_QUESTION, single_scene, thing_answer),
    "point": Task(
        request=PointRequest(object=HEXAGON, image=0),
        scene=hexagon_scene,
        target=lambda scene: PointTarget(boxes=_as_boxes(hexagon_boxes(scene))),
        truth=lambda scene: GroundTruth(boxes=_as_boxes(hexagon_boxes(scene))),
    ),
    "detect": Task(
        request=DetectRequest(object=STAR, image=0),
        scene=star_scene,
        target=lambda scene: DetectTarget(boxes=_as_boxes(star_boxes(scene))),
        truth=lambda scene: GroundTruth(boxes=_as_boxes(star_boxes(scene))),
    ),
    "word": _query(COLOR_QUESTION, teal_scene, lambda _: TEAL),
}
