"""The answer to a train step, and the metrics that it holds; http-api.md 10.5 and 11.2."""

from __future__ import annotations

import math
from typing import Any, cast

from contract.codec import to_plain
from contract.engine import StepTrained
from server.services.train_order import TrainOrder

_NOT_METRICS = ("step", "options")


def step_answer(
    trained: StepTrained, order: TrainOrder, *, step: int, duration_ms: int
) -> dict[str, Any]:
    """The eight fields that are always there first, then what else is known."""
    answer: dict[str, Any] = {
        "step": step,
        "applied": trained.applied,
        "kl": trained.kl,
        "router_kl": trained.router_kl,
        "grad_norm": trained.grad_norm,
        "reward_mean": trained.reward_mean,
        "reward_std": trained.reward_std,
        "sft_loss": trained.sft_loss,
        "lr": order.lr,
        "options": to_plain(order.options),
        "duration_ms": duration_ms,
    }
    if trained.skip_reason is not None:
        answer["skip_reason"] = trained.skip_reason.value
    return {**answer, **{k: v for k, v in trained.extra.items() if k not in answer}}


def step_metrics(answer: dict[str, Any]) -> dict[str, float]:
    """The metrics that the server logs for a step: what its answer holds of numbers.

    A number inside of an object has the name of both, such as `sys/reward_by_skill/query`.
    """
    numbers: dict[str, float] = {}

    def take(name: str, value: Any) -> None:
        if isinstance(value, int | float) and math.isfinite(value):
            numbers[f"sys/{name}"] = float(value)

    for name, value in answer.items():
        if name in _NOT_METRICS:
            continue
        if isinstance(value, dict):
            for part, number in cast("dict[str, Any]", value).items():
                take(f"{name}/{part}", number)
        else:
            take(name, value)
    return numbers
