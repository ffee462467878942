"""Points, boxes and spatial references of requests, clamped to the image."""

from __future__ import annotations

from typing import Annotated, LiteralString, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from contract.skills import Box, GroundTruth, Point, Skill, SpatialRef
from server.api.schemas.fields import Coordinate, Items
from server.domain import rules
from server.domain.body import Body, Number
from server.domain.errors import Loc, ValidationFailedError


class PointBody(Body):
    x: Coordinate
    y: Coordinate

    def to_contract(self) -> Point:
        return Point(x=self.x, y=self.y)


class BoxBody(Body):
    x_min: Coordinate
    y_min: Coordinate
    x_max: Coordinate
    y_max: Coordinate

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.x_min > self.x_max or self.y_min > self.y_max:
            raise PydanticCustomError("box_order", "A box needs x_min <= x_max and y_min <= y_max")
        return self

    def to_contract(self) -> Box:
        return Box(x_min=self.x_min, y_min=self.y_min, x_max=self.x_max, y_max=self.y_max)


SpatialRefBody = Annotated[Items[Number], Field(min_length=2, max_length=4)]


def spatial_refs(refs: list[list[float]] | None) -> tuple[SpatialRef, ...]:
    """Return references as the contract has them.

    Raises:
        ValueError: One is neither a point nor a box, or outside the image.
    """
    return tuple(_spatial_ref(ref) for ref in refs or ())


def _spatial_ref(ref: list[float]) -> SpatialRef:
    if len(ref) not in (2, 4):
        raise ValueError("A spatial reference has 2 numbers (a point) or 4 (a box)")
    clamped = tuple(rules.clamp_coordinate(value) for value in ref)
    if len(clamped) == 4 and (clamped[0] > clamped[2] or clamped[1] > clamped[3]):
        raise ValueError("A box needs x_min <= x_max and y_min <= y_max")
    return clamped


QUERY_HAS_NO_TRUTH: LiteralString = (
    "ground_truth is for point and detect; score the answers of query in your own code and send"
    " the rewards with the train step"
)

_MAX = rules.MAX_GROUND_TRUTH_ENTRIES


class GroundTruthBody(Body):
    points: Annotated[Items[PointBody], Field(max_length=_MAX)] | None = None
    boxes: Annotated[Items[BoxBody], Field(max_length=_MAX)] | None = None

    def to_contract(self, skill: Skill, loc: Loc) -> GroundTruth:
        """Return what rewards of this skill are computed against.

        Raises:
            ValidationFailedError: The skill needs something else.
        """
        if skill is Skill.POINT and self.points is not None:
            return GroundTruth(points=tuple(point.to_contract() for point in self.points))
        if self.boxes is not None:
            return GroundTruth(boxes=tuple(box.to_contract() for box in self.boxes))
        wanted = "points or boxes" if skill is Skill.POINT else "boxes"
        raise ValidationFailedError(
            f"The ground_truth of {skill.value} needs {wanted}; an empty list is fine.", loc=loc
        )
