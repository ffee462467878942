"""What each skill answers with, in tuning and inference."""

from __future__ import annotations

from server.api.schemas.answers.shapes import Count, Shape, Unit


class PointShape(Shape):
    x: Unit
    y: Unit


class BoxShape(Shape):
    x_min: Unit
    y_min: Unit
    x_max: Unit
    y_max: Unit


class GroundingShape(Shape):
    start_idx: Count
    end_idx: Count
    points: list[list[Unit]]


class ReasoningShape(Shape):
    text: str
    grounding: list[GroundingShape]


class QueryOutput(Shape):
    answer: str
    reasoning: ReasoningShape | None = None


class PointOutput(Shape):
    points: list[PointShape]


class DetectOutput(Shape):
    objects: list[BoxShape]


class BoxesOutput(Shape):
    """Of detect in the form of December 2025."""

    boxes: list[BoxShape]
