"""What the tiny Moondream is asked and should answer: text and coordinates, not yet token ids.

Answers are lower case, without a leading space or a full stop, exactly as the model should write
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from examples.shapes import Box

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A phrase of a reasoning and its points, for example "red circle" and its centre."""

    text: str
    points: tuple[Point, ...] = ()


@dataclass(frozen=True, kw_only=True)
class QueryTask:
    """A question and its answer; `reasoning` is None where the model is asked to answer at once.

    Spatial references are points (x, y) or boxes (x_min, y_min, x_max, y_max).
    """

    question: str
    answer: str
    reasoning: tuple[Chunk, ...] | None = None
    spatial_refs: tuple[tuple[float, ...], ...] = ()
    topic: str = ""  # which question it is, for breakdowns in an evaluation
    skill = "query"


@dataclass(frozen=True, kw_only=True)
class CaptionTask:
    length: str
    caption: str
    skill = "caption"


@dataclass(frozen=True, kw_only=True)
class PointTask:
    object: str
    points: tuple[Point, ...]
    skill = "point"


@dataclass(frozen=True, kw_only=True)
class DetectTask:
    object: str
    boxes: tuple[Box, ...]
    skill = "detect"


Task = QueryTask | CaptionTask | PointTask | DetectTask


def texts_of(task: Task) -> Sequence[str]:
    """Every text of a task as the tokenizer gets it, which is what its corpus is made of."""
    match task:
        case QueryTask():
            return [task.question, task.answer, *(chunk.text for chunk in task.reasoning or ())]
        case CaptionTask():
            return [task.caption]
        case PointTask() | DetectTask():
            return [" " + task.object]
