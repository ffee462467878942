"""The time of day jumps back by a day at every look, and decides nothing."""

from __future__ import annotations

import itertools
import time

import pytest

from tests.factories import make_sft_group
from tests.service import Service

pytestmark = pytest.mark.anyio

DAY_NS = 24 * 3600 * 10**9


@pytest.fixture
def falling_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the wall clock finds it a day earlier than the one before."""
    start = time.time_ns()
    looks = itertools.count()
    monkeypatch.setattr(time, "time_ns", lambda: start - next(looks) * DAY_NS)


@pytest.mark.usefixtures("falling_clock")
async def test_lists_are_in_the_order_of_what_happened(service: Service) -> None:
    created = [await service.create(f"f{number}") for number in range(5)]
    assert sorted(created) != created  # ids follow the clock
    listed = (await service.get("/v1/tuning/finetunes?limit=2")).json()
    found = listed["finetunes"]
    while listed["has_more"]:
        path = f"/v1/tuning/finetunes?limit=2&cursor={listed['next_cursor']}"
        listed = (await service.get(path)).json()
        found += listed["finetunes"]
    assert [row["finetune_id"] for row in found] == created
    stamps = [row["created_at_ms"] for row in found]
    assert stamps == sorted(stamps, reverse=True)


@pytest.mark.usefixtures("falling_clock")
async def test_a_run_counts_its_steps_and_replays_its_keys(service: Service) -> None:
    finetune_id = await service.create()
    for step in range(1, 4):
        assert (await service.train(finetune_id)).json()["step"] == step
        assert (await service.save(finetune_id)).json()["checkpoint"]["step"] == step
    body = {"finetune_id": finetune_id, "groups": [make_sft_group()]}
    answers = [
        await service.post("/v1/tuning/train_step", body, headers={"Idempotency-Key": "k"})
        for _ in range(2)
    ]
    assert answers[0].content == answers[1].content
    assert answers[1].json()["step"] == 4
    assert answers[1].headers["idempotent-replayed"] == "true"
