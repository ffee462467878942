"""Answers of rollouts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from server.api.schemas.answers.shapes import ULID, Bin, Count, Shape, Unit, like
from server.api.schemas.answers.skills import BoxesOutput, DetectOutput, PointOutput, QueryOutput


class RolloutShape(Shape):
    skill: Literal["query", "point", "detect"]
    finish_reason: Literal["stop", "length"]
    output: QueryOutput | PointOutput | DetectOutput | BoxesOutput
    answer_tokens: list[Count]
    thinking_tokens: list[Count]
    has_answer_separator: bool
    coords: list[Bin]
    sizes: list[Annotated[list[Bin], Field(min_length=2, max_length=2)]]
    policy_step: Count
    logprobs: dict[str, Any]


class RolloutsAnswer(Shape):
    model_config = like(
        {
            "request": {
                "finetune_id": ULID,
                "num_rollouts": 1,
                "request": {
                    "skill": "detect",
                    "object": "car",
                    "image_url": "data:image/jpeg;base64,...",
                },
            },
            "rollouts": [
                {
                    "skill": "detect",
                    "finish_reason": "stop",
                    "output": {
                        "objects": [
                            {
                                "x_min": 0.1199,
                                "y_min": 0.2201,
                                "x_max": 0.3904,
                                "y_max": 0.5795,
                            }
                        ]
                    },
                    "answer_tokens": [5, 5, 6],
                    "thinking_tokens": [],
                    "has_answer_separator": False,
                    "coords": [261, 409],
                    "sizes": [[830, 872]],
                    "policy_step": 12,
                    "logprobs": {"v": 1},
                }
            ],
            "rewards": None,
        }
    )

    request: Annotated[dict[str, Any], Field(description="The body as it came.")]
    rollouts: Annotated[list[RolloutShape], Field(min_length=1)]
    rewards: list[Unit | None] | None
