"""Numbers that are not finite: refused on the way in, told on the way out, an alarm in a row."""

from __future__ import annotations

import json
from typing import Any

import pytest
import structlog

from contract.engine import NonFinite, SkipReason
from server.services.finite_watch import ALARM_AFTER
from tests.factories import make_group, make_rollout, make_sft_group
from tests.service import refusal

pytestmark = pytest.mark.anyio

NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999")
PLACE = "\u0001"
"""Stands where the number goes; JSON of ours cannot carry one."""

BODIES: dict[str, dict[str, Any]] = {
    "lr": {"groups": [make_sft_group()], "lr": PLACE},
    "reward": {"groups": [make_group(rewards=[0.5, PLACE])]},
    "point": {"groups": [make_sft_group("point", target={"points": [{"x": PLACE, "y": 0.5}]})]},
    "box": {
        "groups": [
            make_sft_group(
                "detect",
                target={"boxes": [{"x_min": 0.1, "y_min": 0.2, "x_max": PLACE, "y_max": 0.5}]},
            )
        ]
    },
    "option": {"groups": [make_sft_group()], "options": {"beta": PLACE}},
    "rollout-output": {
        "groups": [
            make_group(
                rollouts=[
                    make_rollout(),
                    make_rollout(output={"points": [{"x": PLACE, "y": 0.5}]}),
                ]
            )
        ]
    },
    "rollout-coords": {"groups": [make_group(rollouts=[make_rollout(coords=[PLACE, 3])] * 2)]},
    "logprobs": {"groups": [make_group(rollouts=[make_rollout(logprobs={"answer": [PLACE]})] * 2)]},
}


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("name", BODIES)
async def test_a_number_that_is_not_finite_is_refused_before_any_work(service, name, number):
    finetune = await service.create()
    body = json.dumps({"finetune_id": finetune, **BODIES[name]})
    sent = body.replace(json.dumps(PLACE), number)
    assert number in sent
    answer = await service.http.post(
        "/v1/tuning/train_step", content=sent, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422, answer.text
    assert service.engine.verbs() == []
    assert (await service.train(finetune)).json()["step"] == 1


def not_finite(service, groups=(2,), tensors=("text_lora.dense.0.up_a",)) -> None:
    service.engine.step_overrides = {
        "applied": False,
        "skip_reason": SkipReason.NON_FINITE,
        "non_finite": NonFinite(groups=groups, tensors=tensors),
    }


async def test_a_step_that_is_not_finite_counts_says_where_and_changes_nothing(service):
    finetune = await service.create()
    await service.train(finetune)
    files = service.state_files(finetune)
    not_finite(service)
    with structlog.testing.capture_logs() as logs:
        answer = await service.train(finetune, lr=0.5)
    assert answer.json()["step"] == 2
    assert answer.json()["applied"] is False
    assert answer.json()["skip_reason"] == "non_finite"
    await service.settled()
    assert service.state_files(finetune) == files
    (event,) = [line for line in logs if line["event"] == "step_not_finite"]
    assert event["groups"] == [2]
    assert event["tensors"] == ["text_lora.dense.0.up_a"]
    assert event["step"] == 2
    metrics = (await service.get("/metrics")).text
    assert f'moontune_steps_not_finite_total{{finetune_id="{finetune}"}} 1.0' in metrics


async def test_several_in_a_row_raise_an_alarm_and_a_good_one_ends_the_row(service):
    finetune = await service.create()

    async def alarms(count: int) -> list[int]:
        with structlog.testing.capture_logs() as logs:
            for number in range(count):
                await service.train(finetune, lr=0.1 + number / 100)
        return [line["in_a_row"] for line in logs if line["event"] == "alarm_steps_not_finite"]

    not_finite(service)
    assert await alarms(ALARM_AFTER + 1) == [ALARM_AFTER, ALARM_AFTER + 1]
    service.engine.step_overrides = {}
    assert await alarms(1) == []
    not_finite(service)
    assert await alarms(ALARM_AFTER - 1) == []


async def test_more_bodies_refusal_has_the_one_shape(service):
    finetune = await service.create()
    answer = await service.http.post(
        "/v1/tuning/train_step",
        content=f'{{"finetune_id": "{finetune}", "groups": [], "lr": NaN}}',
        headers={"content-type": "application/json"},
    )
    code = answer.json()["error"]["code"]
    refusal(answer, 422, code)
    assert code in ("validation_error", "invalid_json")
