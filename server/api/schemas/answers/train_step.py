"""The answer of a train step."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from server.api.schemas.answers.shapes import Answer, like


class TrainStepAnswer(Answer):
    """The eight fields that are always there; more may follow."""

    model_config = like(
        {
            "step": 12,
            "applied": True,
            "kl": 0.031,
            "router_kl": 0.004,
            "grad_norm": 1.42,
            "reward_mean": 0.75,
            "reward_std": 0.18,
            "sft_loss": None,
            "lr": 2e-4,
            "duration_ms": 812,
            "warnings": [],
        },
        extra="allow",
    )

    step: Annotated[int, Field(ge=1)]
    applied: bool
    kl: Annotated[float, Field(ge=0)] | None
    router_kl: Annotated[float, Field(ge=0)] | None
    grad_norm: Annotated[float, Field(ge=0)] | None
    reward_mean: float | None
    reward_std: Annotated[float, Field(ge=0)] | None
    sft_loss: float | None
    skip_reason: Literal["no_signal", "non_finite", "zero_lr"] | None = None
