"""The adapters form of December 2025, shapes exactly of that time; http-api.md section 17."""

from __future__ import annotations

from tests.compat.bench import Bench
from tests.compat.case import Client, Table
from tests.compat.rows.http_tuning import ok
from tests.factories import ABSENT, make_request, make_sft_group

TABLE = Table(Client.HTTP_ADAPTERS)

ADAPTERS = "/v1/tuning/adapters"


def create(bench: Bench) -> str:
    body = {"name": f"my adapter {bench.new_name()}", "rank": 16}
    answer = ok(bench.http.post(ADAPTERS, json=body))
    assert set(answer) == {"adapter_id"}
    assert ok(bench.http.post(ADAPTERS, json=body)) == answer
    return answer["adapter_id"]


@TABLE.row("create with a space in the name, list, fetch, delete")
def life(bench: Bench) -> str:
    adapter_id = create(bench)
    one = ok(bench.http.get(f"{ADAPTERS}/{adapter_id}"))
    assert set(one) == {"adapter_id", "name", "rank", "created_at"}
    assert one["created_at"].endswith("Z")
    listed = ok(bench.http.get(ADAPTERS, params={"limit": 100}))
    assert set(listed) == {"adapters", "next_cursor"}
    assert one in listed["adapters"]
    finetune = ok(bench.http.get(f"/v1/tuning/finetunes/{adapter_id}"))["finetune"]
    assert finetune["name"] == one["name"]
    for _ in range(2):
        assert ok(bench.http.delete(f"{ADAPTERS}/{adapter_id}")) == {}
    return "and the finetune of the same id sees it"


@TABLE.row("`/rollouts` and `/train_step` with `adapter_id`")
def training(bench: Bench) -> str:
    adapter_id = create(bench)
    body = {"adapter_id": adapter_id, "num_rollouts": 2, "request": make_request("detect")}
    answer = ok(bench.http.post("/v1/tuning/rollouts", json=body))
    assert answer["request"]["adapter_id"] == adapter_id
    assert all(set(rollout["output"]) == {"boxes"} for rollout in answer["rollouts"])
    group = {"request": answer["request"], "rollouts": answer["rollouts"], "rewards": [0.0, 1.0]}
    groups = [group, make_sft_group(mode=ABSENT)]
    body = {"adapter_id": adapter_id, "groups": groups, "lr": 1e-3}
    assert ok(bench.http.post("/v1/tuning/train_step", json=body)) == {}
    return "output has `boxes`; the step answers `{}`"


@TABLE.row("checkpoints `chk_001`, and `from_checkpoint`")
def checkpoints(bench: Bench) -> str:
    adapter_id = create(bench)
    body = {"adapter_id": adapter_id, "groups": [make_sft_group(mode=ABSENT)]}
    ok(bench.http.post("/v1/tuning/train_step", json=body))
    saved = ok(bench.http.post(f"{ADAPTERS}/{adapter_id}/checkpoint"))
    assert set(saved) == {"checkpoint_id", "created_at"}
    assert saved["checkpoint_id"] == f"{adapter_id}/chk_001"
    listed = ok(bench.http.get(f"{ADAPTERS}/{adapter_id}/checkpoints"))
    assert listed == {"checkpoints": [saved], "next_cursor": None}
    body = {"name": bench.new_name(), "rank": 16, "from_checkpoint": saved["checkpoint_id"]}
    assert ok(bench.http.post(ADAPTERS, json=body))["adapter_id"] != adapter_id
    assert ok(bench.http.delete(f"{ADAPTERS}/{adapter_id}/checkpoints/chk_001")) == {}
    return "numbered from 1, copied, deleted"
