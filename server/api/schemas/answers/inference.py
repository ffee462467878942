"""Answers of the skills on a model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from server.api.schemas.answers.shapes import ULID, Count, Shape, like
from server.api.schemas.answers.skills import BoxShape, PointShape, ReasoningShape


class AnswerMetrics(Shape):
    input_tokens: Count
    output_tokens: Count
    prefill_time_ms: Annotated[float, Field(ge=0)]
    decode_time_ms: Annotated[float, Field(ge=0)]
    ttft_ms: Annotated[float, Field(ge=0)]


class _Answer(Shape):
    request_id: str
    finish_reason: Literal["stop", "length"]
    metrics: AnswerMetrics


_COST = {
    "request_id": ULID,
    "finish_reason": "stop",
    "metrics": {
        "input_tokens": 740,
        "output_tokens": 2,
        "prefill_time_ms": 18.5,
        "decode_time_ms": 9.1,
        "ttft_ms": 19.0,
    },
}


class QueryAnswer(_Answer):
    model_config = like({"answer": "Three.", **_COST})

    answer: str
    reasoning: ReasoningShape | None = None


class CaptionAnswer(_Answer):
    model_config = like({"caption": "A street.", **_COST})

    caption: str


class PointAnswer(_Answer):
    model_config = like({"points": [{"x": 0.5, "y": 0.25}], **_COST})

    points: list[PointShape]


class DetectAnswer(_Answer):
    model_config = like(
        {
            "objects": [{"x_min": 0.1, "y_min": 0.2, "x_max": 0.4, "y_max": 0.6}],
            **_COST,
        }
    )

    objects: list[BoxShape]


class SegmentAnswer(_Answer):
    model_config = like(
        {
            "path": "M 0 0.76 L 1 0.5 z",
            "bbox": {"x_min": 0.1, "y_min": 0.2, "x_max": 0.4, "y_max": 0.6},
            **_COST,
        }
    )

    path: Annotated[str, Field(description="SVG, in coordinates relative to `bbox`.")]
    bbox: BoxShape | None
