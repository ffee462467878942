"""A finetune from its creation to an answer of its saved checkpoint, and over a restart."""

from __future__ import annotations

import pytest

from tests.api.conftest import Serve
from tests.factories import make_group, make_image_url, make_request, make_sft_group
from tests.service import Service

pytestmark = pytest.mark.anyio


async def test_a_finetune_is_created_trained_saved_and_asked(service: Service) -> None:
    finetune_id = await service.create()
    rollouts = await service.roll(finetune_id, num_rollouts=4, ground_truth={"boxes": []})
    assert rollouts.status_code == 200, rollouts.text
    body = rollouts.json()
    assert len(body["rollouts"]) == len(body["rewards"]) == 4

    group = {
        "mode": "rl",
        "request": body["request"],
        "rollouts": body["rollouts"],
        "rewards": body["rewards"],
    }
    step = await service.train(finetune_id, groups=[group, make_sft_group()], lr=1e-3)
    assert step.status_code == 200, step.text
    assert step.json()["step"] == 1
    assert step.json()["applied"] is True

    logged = await service.post(
        f"/v1/tuning/finetunes/{finetune_id}/metrics", {"step": 1, "metrics": {"eval/f1": 0.5}}
    )
    assert logged.json() == {"ok": True, "step": 1, "logged_count": 1}

    saved = await service.save(finetune_id)
    assert saved.status_code == 200, saved.text
    assert saved.json()["checkpoint"]["step"] == 1

    answer = await service.post(
        "/v1/query",
        {
            "question": "What?",
            "image_url": make_image_url(),
            "model": f"moondream3-preview/{finetune_id}@1",
            "stream": False,
        },
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["answer"]
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


async def test_the_step_goes_on_after_a_restart(serve: Serve) -> None:
    async with serve() as first:
        finetune_id = await first.create()
        await first.train(finetune_id)
    async with serve() as second:
        assert await second.create() == finetune_id
        step = await second.train(finetune_id, groups=[make_group()])
        assert step.json()["step"] == 2
        command = second.engine.commands("train_step")[0]
        assert command.adapter.step == 1
        assert command.adapter.weights.digest
        assert command.optimizer is not None
        assert make_request()["skill"] == command.groups[0].request.skill
