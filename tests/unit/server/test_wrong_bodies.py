"""What a wrong body costs: few faults are made of it, however long it is."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from server.api.schemas.metrics import MetricsBody
from server.api.schemas.train_step import TrainStepBody
from server.domain.body import Body

FEW = 8


def faults(model: type[Body], value: dict[str, Any]) -> list[tuple[str, tuple[str | int, ...]]]:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(value)
    return [(fault["type"], fault["loc"]) for fault in caught.value.errors()]


def step(groups: list[Any]) -> dict[str, Any]:
    return {"finetune_id": "a", "groups": groups}


def supervised(target: dict[str, Any]) -> dict[str, Any]:
    request = {"skill": "point", "object": "a", "image_url": "x"}
    return step([{"mode": "sft", "request": request, "target": target}])


def returned(**fields: Any) -> dict[str, Any]:
    request = {"skill": "query", "question": "a"}
    return step([{"mode": "rl", "request": request, "rollouts": [{}], "rewards": [0], **fields}])


@pytest.mark.parametrize(
    "body",
    [
        step([0] * 1000),
        supervised({"points": [0] * 1000}),
        supervised({"boxes": [{}] * 1000}),
        supervised({"objects": [{"x_min": "0"}] * 1000}),
        supervised({"reasoning": {"text": "", "grounding": [0] * 1000}}),
        returned(rollouts=[0] * 1000),
        returned(rewards=["a"] * 1000),
        *(
            returned(rollouts=[{name: ["a"] * 1000}] * 1000)
            for name in ("answer_tokens", "thinking_tokens", "coords", "sizes")
        ),
        returned(rollouts=[{"sizes": [["a"] * 1000] * 1000}]),
        returned(request={"skill": "query", "question": "a", "spatial_refs": [["a"] * 9] * 1000}),
    ],
)
def test_a_list_of_wrong_items_has_few_faults(body: dict[str, Any]) -> None:
    found = faults(TrainStepBody, body)
    assert 1 <= len(found) <= FEW
    assert 0 in found[0][1]


@pytest.mark.parametrize(
    "body",
    [
        step([0] * 70_000),
        returned(rollouts=[0] * 70_000),
        returned(rewards=[0] * 70_000),
    ],
)
def test_far_too_many_of_something_are_not_looked_at(body: dict[str, Any]) -> None:
    ((kind, _),) = faults(TrainStepBody, body)
    assert kind == "too_long"


def test_far_too_many_metrics_are_not_looked_at() -> None:
    metrics = {f"a wrong name {index}": "x" for index in range(1000)}
    assert faults(MetricsBody, {"step": 0, "metrics": metrics}) == [("too_long", ("metrics",))]
