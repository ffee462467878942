"""Train steps: what is accepted, what the engine gets, what is committed; http-api.md 10."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest

from contract.errors import EngineFailed, RequestRefused, StateDamaged, StorageFull
from contract.groups import RLGroup, SFTGroup, TrainOptions
from contract.skills import (
    Box,
    DetectTarget,
    Grounding,
    Point,
    PointTarget,
    QueryTarget,
    Reasoning,
    ReturnedRollout,
)
from server.domain.train_options import OptionsBody
from tests.api.conftest import Serve
from tests.factories import (
    ABSENT,
    make_group,
    make_image_url,
    make_request,
    make_rollout,
    make_sft_group,
)
from tests.service import Service, locs, refusal, until

pytestmark = pytest.mark.anyio

BOX = {"x_min": 0.1, "y_min": 0.2, "x_max": 0.3, "y_max": 0.5}


async def command_for(service: Service, **changes: Any) -> Any:
    """Train one step and return what the engine was asked."""
    answer = await service.train(await service.create(), **changes)
    assert answer.status_code == 200, answer.text
    return service.engine.commands("train_step")[-1]


async def refused(service: Service, **changes: Any) -> Any:
    """Send a step that is refused before the engine sees it."""
    finetune_id = await service.create()
    answer = await service.train(finetune_id, **changes)
    assert service.engine.calls == []
    details = await service.get(f"/v1/tuning/finetunes/{finetune_id}")
    assert details.json()["finetune"]["step"] == 0
    return answer


# --- the answer


async def test_the_answer_has_its_eight_fields_and_more(service: Service) -> None:
    groups = [make_group(rewards=[1.0, 0.5]), make_sft_group()]
    answer = (await service.train(await service.create(), groups=groups, lr=0.01)).json()
    duration = answer.pop("duration_ms")
    assert duration >= 0
    assert answer == {
        "step": 1,
        "applied": True,
        "kl": 0.01,
        "router_kl": 0.002,
        "grad_norm": 1.5,
        "reward_mean": 0.75,
        "reward_std": 0.1,
        "sft_loss": 2.0,
        "lr": 0.01,
        "num_tokens": 12,
        "policy_lag": None,
        "reward_by_skill": {"query": 0.75},
        "warnings": ["something"],
        "options": {
            "advantage_scale": "group",
            "std_floor": 1e-4,
            "loss": "group",
            "loss_length": 64.0,
            "clip_low": 0.2,
            "clip_high": 0.28,
            "dual_clip": 3.0,
            "drop_below": 1e-4,
            "drop_above": 100.0,
            "drop_gap": 0.7,
            "beta": 0.0,
            "kl_ratio_max": 2.0,
            "router_beta": 0.0,
            "sft_weight": 1.0,
            "expert_lr_ratio": 1.0,
            "max_grad_norm": 1.0,
        },
    }


async def test_every_answered_step_counts_applied_or_not(service: Service) -> None:
    finetune_id = await service.create()
    for step in range(1, 4):
        answer = (await service.train(finetune_id, lr=0)).json()
        assert answer["step"] == step
        assert answer["applied"] is False
        assert answer["skip_reason"] == "zero_lr"


async def test_identical_steps_in_sequence_are_separate_steps(service: Service) -> None:
    finetune_id = await service.create()
    steps = [(await service.train(finetune_id)).json()["step"] for _ in range(5)]
    assert steps == [1, 2, 3, 4, 5]


async def test_a_skipped_step_keeps_the_files_of_the_one_before(service: Service) -> None:
    finetune_id = await service.create()
    await service.train(finetune_id)
    await service.train(finetune_id, lr=0)
    await service.train(finetune_id)
    second, third = service.engine.commands("train_step")[1:]
    assert third.adapter.weights == second.adapter.weights
    assert third.optimizer == second.optimizer
    assert third.adapter.step == 2


async def test_numbers_that_are_not_finite_are_null_and_no_metric(service: Service) -> None:
    finetune_id = await service.create()
    service.engine.step_overrides = {
        "applied": False,
        "grad_norm": math.nan,
        "sft_loss": math.inf,
        "extra": {"entropy": -math.inf},
    }
    answer = await service.train(finetune_id)
    body = json.loads(answer.text, parse_constant=pytest.fail)
    assert (body["grad_norm"], body["sft_loss"], body["entropy"]) == (None, None, None)
    page = (await service.get(f"/v1/tuning/finetunes/{finetune_id}/metrics")).json()
    assert {item["name"] for item in page["metrics"]} == {
        "sys/router_kl",
        "sys/lr",
        "sys/applied",
        "sys/duration_ms",
    }


# --- learning rate and options


@pytest.mark.parametrize(
    ("sent", "used"),
    [
        ({}, 2e-4),
        ({"lr": None}, 2e-4),
        ({"lr": 1}, 1.0),
        ({"lr": 0.0}, 0.0),
        ({"learning_rate": 1e-3}, 1e-3),
        ({"lr": None, "learning_rate": 1e-3}, 1e-3),
        ({"lr": 1e-5, "learning_rate": 1e-3}, 1e-5),
        ({"lr": 0, "learning_rate": 1e-3}, 0.0),
    ],
)
async def test_learning_rates(service: Service, sent: dict[str, Any], used: float) -> None:
    assert (await command_for(service, **sent)).lr == used


@pytest.mark.parametrize("lr", [-1e-9, 1.01, "0.1", True, [0.1], 10**400])
async def test_other_learning_rates_are_refused(service: Service, lr: Any) -> None:
    answer = await refused(service, lr=lr)
    refusal(answer, 422, "validation_error")
    assert locs(answer) == [("body", "lr")]


async def test_options_are_effective_and_unknown_ones_named(service: Service) -> None:
    finetune_id = await service.create()
    answer = await service.train(
        finetune_id, options={"beta": 0.1, "clip_low": None, "alpha": 3}, epochs=2
    )
    assert answer.json()["options"]["beta"] == 0.1
    assert answer.json()["options"]["clip_low"] == 0.2
    assert sorted(answer.headers["x-ignored-fields"].split(", ")) == ["epochs", "options.alpha"]
    assert service.engine.commands("train_step")[0].options == TrainOptions(beta=0.1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("advantage_scale", "x"),
        ("std_floor", 0),
        ("loss", "ppo"),
        ("loss_length", 0),
        ("drop_below", 1),
        ("drop_above", 1),
        ("drop_gap", 0),
        ("kl_ratio_max", -0.1),
        ("router_beta", -0.1),
        ("clip_low", 1.5),
        ("clip_high", -0.1),
        ("clip_high", 1e39),  # over what float32 can hold
        ("kl_ratio_max", 1e39),
        ("dual_clip", 1),
        ("beta", -1),
        ("beta", "0.1"),
        ("sft_weight", -1),
        ("expert_lr_ratio", 0),
        ("max_grad_norm", 0),
        ("max_grad_norm", True),
    ],
)
async def test_options_out_of_range_are_refused(service: Service, name: str, value: Any) -> None:
    answer = await refused(service, options={name: value})
    refusal(answer, 422, "validation_error")
    assert locs(answer) == [("body", "options", name)]


async def test_options_are_those_of_the_contract() -> None:
    assert list(OptionsBody.model_fields) == list(TrainOptions.__dataclass_fields__)
    assert OptionsBody().to_contract() == TrainOptions()


# --- groups


async def test_a_group_of_rollouts_reaches_the_engine(service: Service) -> None:
    rollout = make_rollout(policy_step=3, logprobs={"v": 1}, extra="x")
    command = await command_for(
        service, groups=[make_group(rollouts=[rollout, {}], rewards=[True, -7])]
    )
    group = command.groups[0]
    assert isinstance(group, RLGroup)
    assert group.rewards == (1.0, -7.0)
    assert group.rollouts[0].answer_tokens == (5, 5, 6)
    assert group.rollouts[0].sizes == ((830, 872),)
    assert group.rollouts[0].logprobs == {"v": 1}
    assert group.rollouts[1] == ReturnedRollout()


@pytest.mark.parametrize("logprobs", [5, "x", [1], None, {}])
async def test_odd_logprobs_are_no_reason_to_refuse(service: Service, logprobs: Any) -> None:
    group = make_group(rollouts=[make_rollout(logprobs=logprobs)], rewards=[1])
    await command_for(service, groups=[group])


async def test_the_echo_and_the_inner_request_are_both_accepted(service: Service) -> None:
    full = {
        "finetune_id": "anything",
        "num_rollouts": 99,
        "ground_truth": {"whatever": 1},
        "request": make_request(),
    }
    command = await command_for(
        service,
        groups=[
            make_group(request=full),
            make_group(),
            make_sft_group(request={"request": make_request("query")}),
        ],
    )
    assert [group.request.skill for group in command.groups] == ["detect", "detect", "query"]


async def test_equal_pictures_are_decoded_once(service: Service) -> None:
    blue = make_image_url((0, 0, 200))
    command = await command_for(
        service,
        groups=[make_group(), make_sft_group(), make_group(request=make_request(image_url=blue))],
    )
    assert [group.request.image for group in command.groups] == [0, 0, 1]
    assert service.decoder.num_decoded == 2


@pytest.mark.parametrize(
    ("group", "kind"),
    [
        (make_group(mode=ABSENT), RLGroup),
        (make_group(mode=None), RLGroup),
        (make_sft_group(mode=ABSENT), SFTGroup),
        (make_sft_group(mode=ABSENT, target=ABSENT, targets=[{"answer": "x"}]), SFTGroup),
        (make_sft_group(mode=ABSENT, rollouts=None), SFTGroup),
    ],
)
async def test_the_mode_may_be_absent(service: Service, group: Any, kind: type) -> None:
    assert isinstance((await command_for(service, groups=[group])).groups[0], kind)


@pytest.mark.parametrize(
    ("spans", "status"),
    [
        ([(0, 2), (2, 5)], 200),
        ([(3, 5), (0, 0), (0, 2)], 200),
        ([(5, 2)], 422),
        ([(0, 5), (2, 8)], 422),
        ([(2, 8), (2, 8)], 422),
    ],
)
async def test_groundings_neither_overlap_nor_run_backwards(
    service: Service, spans: list[tuple[int, int]], status: int
) -> None:
    grounding = [{"start_idx": a, "end_idx": b, "points": [[0.5, 0.5]]} for a, b in spans]
    group = make_sft_group(
        request=make_request("query", reasoning=True),
        target={"answer": "1", "reasoning": {"text": "a red circle", "grounding": grounding}},
    )
    answer = await service.train(await service.create(), groups=[group])
    assert answer.status_code == status, answer.text
    if status == 422:
        assert locs(answer)[0] == ("body", "groups", 0, "target", "reasoning")


async def test_several_targets_are_examples_of_one_group(service: Service) -> None:
    group = make_sft_group(target=None, targets=[{"answer": "a"}, {"answer": ""}])
    command = await command_for(service, groups=[group])
    assert command.groups[0].targets == (QueryTarget(answer="a"), QueryTarget(answer=""))


@pytest.mark.parametrize(
    ("skill", "request_changes", "target", "expected"),
    [
        ("query", {}, {"answer": ""}, QueryTarget(answer="")),
        (
            "query",
            {"reasoning": True},
            {"answer": "a", "reasoning": "since"},
            QueryTarget(answer="a", reasoning=Reasoning(text="since")),
        ),
        (
            "query",
            {"reasoning": True},
            {
                "answer": "a",
                "reasoning": {
                    "text": "since",
                    "grounding": [{"start_idx": 0, "end_idx": 2, "points": [[0.5, 1.005]]}],
                },
            },
            QueryTarget(
                answer="a",
                reasoning=Reasoning(
                    text="since",
                    grounding=(Grounding(start_idx=0, end_idx=2, points=((0.5, 1.0),)),),
                ),
            ),
        ),
        (
            "point",
            {},
            {"points": [{"x": 0, "y": 1}], "boxes": [BOX]},
            PointTarget(points=(Point(x=0.0, y=1.0),)),
        ),
        (
            "point",
            {},
            {"boxes": [BOX]},
            PointTarget(boxes=(Box(x_min=0.1, y_min=0.2, x_max=0.3, y_max=0.5),)),
        ),
        ("detect", {}, {"boxes": []}, DetectTarget(boxes=())),
        (
            "detect",
            {},
            {"objects": [BOX]},
            DetectTarget(boxes=(Box(x_min=0.1, y_min=0.2, x_max=0.3, y_max=0.5),)),
        ),
    ],
)
async def test_targets(
    service: Service, skill: str, request_changes: Any, target: Any, expected: Any
) -> None:
    group = make_sft_group(skill, request=make_request(skill, **request_changes), target=target)
    command = await command_for(service, groups=[group])
    assert command.groups[0].targets == (expected,)


@pytest.mark.parametrize(
    ("group", "loc"),
    [
        (make_group(mode="x"), ()),
        (make_group(mode=5), ()),
        (make_group(mode=ABSENT, target={"answer": "x"}), ()),
        (make_group(mode=ABSENT, rollouts=ABSENT), ()),
        ("group", ()),
        (make_group(rollouts=[]), ("rollouts",)),
        (make_group(rollouts=None), ("rollouts",)),
        (make_group(rewards=None), ("rewards",)),
        (make_group(rewards=ABSENT), ("rewards",)),
        (make_group(rewards=[1.0]), ("rewards",)),
        (make_group(rewards=[1.0, 2.0, 3.0]), ("rewards",)),
        (make_group(rewards=[1.0, None]), ("rewards", 1)),
        (make_group(rewards=[1.0, "1"]), ("rewards", 1)),
        (make_group(request=make_request(image_url=ABSENT)), ("request", "image_url")),
        (
            make_group(request={"request": make_request(image_url=ABSENT)}),
            ("request", "request", "image_url"),
        ),
        (make_group(request=make_request(reasoning=True)), ("request", "reasoning")),
        (make_group(request=ABSENT), ("request",)),
        (make_group(1, rollouts=[5]), ("rollouts", 0)),
        (make_group(1, rollouts=[make_rollout(skill="point")]), ("rollouts", 0, "skill")),
        (make_group(1, rollouts=[make_rollout(skill="x")]), ("rollouts", 0, "skill")),
        (
            make_group(1, rollouts=[make_rollout(finish_reason="x")]),
            ("rollouts", 0, "finish_reason"),
        ),
        (
            make_group(1, rollouts=[make_rollout(answer_tokens=[5, "5"])]),
            ("rollouts", 0, "answer_tokens", 1),
        ),
        (
            make_group(1, rollouts=[make_rollout(answer_tokens=[5, True])]),
            ("rollouts", 0, "answer_tokens", 1),
        ),
        (
            make_group(1, rollouts=[make_rollout(answer_tokens=[10**30])]),
            ("rollouts", 0, "answer_tokens", 0),
        ),
        (make_group(1, rollouts=[make_rollout(sizes=[5])]), ("rollouts", 0, "sizes", 0)),
        (make_group(1, rollouts=[make_rollout(output="x")]), ("rollouts", 0, "output")),
        (make_sft_group(target=ABSENT), ("target",)),
        (make_sft_group(target=None, targets=[]), ("targets",)),
        (make_sft_group(target="x"), ("target",)),
        (make_sft_group(target={}), ("target", "answer")),
        (make_sft_group(target={"answer": 5}), ("target", "answer")),
        (make_sft_group(target={"answer": "a", "reasoning": "b"}), ("target", "reasoning")),
        (
            make_sft_group(request=make_request("query", reasoning=True)),
            ("target", "reasoning"),
        ),
        (
            make_sft_group(
                request=make_request("query", reasoning=True),
                target={"answer": "a", "reasoning": 5},
            ),
            ("target", "reasoning"),
        ),
        (make_sft_group("point", target={}), ("target", "points")),
        (make_sft_group("detect", target={"points": []}), ("target", "boxes")),
        (
            make_sft_group("detect", target={"boxes": [{**BOX, "x_max": 3}]}),
            ("target", "boxes", 0, "x_max"),
        ),
        (
            make_sft_group(target=None, targets=[{"answer": "a"}, {}]),
            ("targets", 1, "answer"),
        ),
    ],
)
async def test_one_bad_group_refuses_the_step_and_is_named(
    service: Service, group: Any, loc: tuple[str | int, ...]
) -> None:
    answer = await refused(service, groups=[make_group(), group])
    refusal(answer, 422, "validation_error")
    assert locs(answer)[0] == ("body", "groups", 1, *loc)


async def test_an_unknown_skill_in_a_group(service: Service) -> None:
    answer = await refused(service, groups=[make_group(request=make_request("caption"))])
    refusal(answer, 422, "unknown_skill")
    assert locs(answer) == [("body", "groups", 0, "request")]


async def test_pictures_that_cannot_be_used_name_their_group(service: Service) -> None:
    bad = make_request(image_url="https://example.com/a.png")
    answer = await refused(service, groups=[make_group(), make_group(request={"request": bad})])
    refusal(answer, 422, "image_url_scheme")
    assert locs(answer) == [("body", "groups", 1, "request", "request", "image_url")]


@pytest.mark.parametrize("groups", [[], None, {}, "x", ABSENT])
async def test_groups_are_needed(service: Service, groups: Any) -> None:
    body: dict[str, Any] = {"finetune_id": await service.create()}
    if groups is not ABSENT:
        body["groups"] = groups
    answer = await service.post("/v1/tuning/train_step", body)
    refusal(answer, 422, "validation_error")
    assert locs(answer) == [("body", "groups")]


async def test_too_many_groups_or_examples(serve: Serve) -> None:
    async with serve(max_groups=2, max_train_examples=5) as service:
        finetune_id = await service.create()
        assert (await service.train(finetune_id, groups=[make_group()] * 2)).status_code == 200
        for groups in ([make_group(1)] * 3, [make_group(3)] * 2):
            answer = await service.train(finetune_id, groups=groups)
            refusal(answer, 422, "validation_error")
            assert locs(answer) == [("body", "groups")]
        assert len(service.engine.calls) == 1


async def test_the_default_limits_are_those_of_the_contract(service: Service) -> None:
    assert service.config.max_groups == 512
    assert service.config.max_train_examples == 4096


async def test_unknown_finetunes(service: Service) -> None:
    refusal(await service.train("01JZZZZZZZZZZZZZZZZZZZZZZZ"), 404, "finetune_not_found")
    refusal(await service.train("x"), 404, "finetune_not_found")
    answer = await service.train(5)  # type: ignore[arg-type]
    refusal(answer, 422, "validation_error")


# --- one transaction, or nothing


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (RequestRefused("No.", loc=("groups", 0, "rollouts", 1)), 422, "validation_error"),
        (RequestRefused("Too big.", code="batch_too_large"), 413, "batch_too_large"),
        (StorageFull("No space."), 507, "storage_full"),
        (StateDamaged("A file is damaged."), 409, "state_damaged"),
        (EngineFailed("Oh no."), 500, "internal_error"),
        (RuntimeError("Oh no."), 500, "internal_error"),
    ],
)
async def test_a_step_that_fails_changes_nothing(
    service: Service, fault: Exception, status: int, code: str
) -> None:
    finetune_id = await service.create()
    await service.train(finetune_id)
    await service.settled()
    before = service.state_files(finetune_id)
    service.engine.faults.append(fault)
    refusal(await service.train(finetune_id), status, code)
    await service.settled()
    assert service.state_files(finetune_id) == before
    assert (await service.train(finetune_id)).json()["step"] == 2
    first, second, third = service.engine.commands("train_step")
    assert first.adapter.weights is None
    assert second.adapter == third.adapter


async def test_a_step_whose_finetune_is_deleted_meanwhile_leaves_nothing(service: Service) -> None:
    finetune_id = await service.create()
    service.engine.gate.clear()
    step = asyncio.create_task(service.train(finetune_id))
    await until(lambda: service.engine.calls)
    await service.delete(f"/v1/tuning/finetunes/{finetune_id}")
    service.engine.gate.set()
    refusal(await step, 404, "finetune_not_found")
    await service.settled()
    assert service.state_files(finetune_id) == []


# --- files


def is_file(path: str) -> bool:
    return Path(path).is_file()


async def test_the_last_two_states_and_saved_weights_are_kept(service: Service) -> None:
    finetune_id = await service.create()
    for step in range(1, 6):
        await service.train(finetune_id)
        if step == 2:
            await service.save(finetune_id)
        await service.settled()
    kept = [(name[:8], name.split(".")[1]) for name in service.state_files(finetune_id)]
    assert kept == [
        ("00000002", "weights"),
        ("00000004", "optimizer"),
        ("00000004", "weights"),
        ("00000005", "optimizer"),
        ("00000005", "weights"),
    ]
    await service.delete(f"/v1/tuning/finetunes/{finetune_id}/checkpoints/2")
    await service.settled()
    assert {name[:8] for name in service.state_files(finetune_id)} == {"00000004", "00000005"}


async def test_skipped_steps_keep_the_state_they_name(service: Service) -> None:
    finetune_id = await service.create()
    await service.train(finetune_id)
    for _ in range(4):
        await service.train(finetune_id, lr=0)
    await service.settled()
    assert {name[:8] for name in service.state_files(finetune_id)} == {"00000001"}
    command = service.engine.commands("train_step")[-1]
    assert is_file(command.adapter.weights.path)


async def test_left_overs_are_swept_at_start_and_strangers_are_not(serve: Serve) -> None:
    async with serve() as first:
        finetune_id = await first.create()
        await first.train(finetune_id)
        folder = first.data_dir / "finetunes" / finetune_id
        (folder / "00000002-abc.weights.safetensors").write_text("of a dead worker")
        (folder / ".tmp-1234").write_text("half written")
        stranger = first.data_dir / "finetunes" / ("0" * 26)
        stranger.mkdir()
        (stranger / "file").write_text("of another database")
        before = {path.name for path in folder.iterdir()}
    async with serve() as second:
        assert len(second.state_files(finetune_id)) == len(before) - 2 == 2
        assert (stranger / "file").is_file()
        assert (await second.train(finetune_id)).json()["step"] == 2


@pytest.mark.database("sqlite")
async def test_the_data_directory_can_be_moved(serve: Serve, data_dir: Path) -> None:
    async with serve() as first:
        finetune_id = await first.create()
        await first.train(finetune_id)
    moved = data_dir / "elsewhere"
    moved.mkdir()
    for name in ("moontune.db", "finetunes"):
        (data_dir / name).rename(moved / name)
    async with serve(data_dir=moved) as second:
        await second.train(finetune_id)
        command = second.engine.commands("train_step")[0]
        assert Path(command.adapter.weights.path).is_relative_to(moved)
        assert is_file(command.adapter.weights.path)
