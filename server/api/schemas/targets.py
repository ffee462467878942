"""The target of a supervised group; its shape depends on the skill of the group's request."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Discriminator, Field, StrictStr, Tag, model_validator
from pydantic_core import PydanticCustomError

from contract.skills import (
    DetectRequest,
    DetectTarget,
    Grounding,
    PointRequest,
    PointTarget,
    QueryRequest,
    QueryTarget,
    Reasoning,
    Target,
    TunableRequest,
)
from server.api.schemas.fields import Coordinate, Integer, Items
from server.api.schemas.geometry import BoxBody, PointBody
from server.domain.body import Body
from server.domain.errors import Loc, ValidationFailedError


class GroundingBody(Body):
    start_idx: Annotated[Integer, Field(ge=0)]
    end_idx: Annotated[Integer, Field(ge=0)]
    points: Items[Annotated[list[Coordinate], Field(min_length=2, max_length=2)]]


class ReasoningBody(Body):
    text: StrictStr
    grounding: Items[GroundingBody] | None = None

    @model_validator(mode="after")
    def _check_spans(self) -> Self:
        """Spans that run backwards or overlap would have words learned twice."""
        position = 0
        for span in sorted(self.grounding or (), key=lambda span: (span.start_idx, span.end_idx)):
            if not position <= span.start_idx <= span.end_idx:
                raise PydanticCustomError(
                    "grounding",
                    "Each grounding needs start_idx <= end_idx, and no two may overlap;"
                    " put all points of a phrase into one",
                )
            position = span.end_idx
        return self

    def to_contract(self) -> Reasoning:
        return Reasoning(
            text=self.text,
            grounding=tuple(
                Grounding(
                    start_idx=entry.start_idx,
                    end_idx=entry.end_idx,
                    points=tuple((x, y) for x, y in entry.points),
                )
                for entry in self.grounding or ()
            ),
        )


def _reasoning_tag(value: object) -> str | None:
    if isinstance(value, str):
        return "~text"
    return "~object" if isinstance(value, dict | ReasoningBody) else None


ReasoningField = Annotated[
    Annotated[ReasoningBody, Tag("~object")] | Annotated[StrictStr, Tag("~text")],
    Discriminator(
        _reasoning_tag,
        custom_error_type="reasoning",
        custom_error_message="Reasoning should be an object with text, or a string",
    ),
]


class TargetBody(Body):
    answer: StrictStr | None = None
    reasoning: ReasoningField | None = None
    points: Items[PointBody] | None = None
    boxes: Items[BoxBody] | None = None
    objects: Items[BoxBody] | None = None

    def to_contract(self, request: TunableRequest, loc: Loc) -> Target:
        """Return the target, which must be one of the request's skill.

        Raises:
            ValidationFailedError: Something that the skill needs is missing.
        """
        if isinstance(request, QueryRequest):
            return self._query_target(request, loc)
        if isinstance(request, PointRequest):
            return self._point_target(loc)
        return self._detect_target(request, loc)

    def _query_target(self, request: QueryRequest, loc: Loc) -> QueryTarget:
        if self.answer is None:
            raise _missing("answer", "The target of query needs an answer; it may be empty", loc)
        if request.reasoning and self.reasoning is None:
            raise _missing(
                "reasoning", "The request asks for reasoning; its target needs some", loc
            )
        if not request.reasoning and self.reasoning is not None:
            raise ValidationFailedError(
                "The target has reasoning, the request does not ask for it; set"
                " request.reasoning to true or leave it out of the target.",
                loc=(*loc, "reasoning"),
            )
        if isinstance(self.reasoning, str):
            return QueryTarget(answer=self.answer, reasoning=Reasoning(text=self.reasoning))
        return QueryTarget(
            answer=self.answer, reasoning=self.reasoning and self.reasoning.to_contract()
        )

    def _point_target(self, loc: Loc) -> PointTarget:
        if self.points is not None:
            return PointTarget(points=tuple(point.to_contract() for point in self.points))
        if self.boxes is not None:
            return PointTarget(boxes=tuple(box.to_contract() for box in self.boxes))
        raise _missing("points", "The target of point needs points or boxes", loc)

    def _detect_target(self, _request: DetectRequest, loc: Loc) -> DetectTarget:
        boxes = self.objects if self.boxes is None else self.boxes
        if boxes is None:
            raise _missing("boxes", "The target of detect needs boxes; none is an empty list", loc)
        return DetectTarget(boxes=tuple(box.to_contract() for box in boxes))


def _missing(field: str, message: str, loc: Loc) -> ValidationFailedError:
    return ValidationFailedError(f"{message}.", loc=(*loc, field), type="missing")
