"""One step's loss, gradients and metrics against the naive twin; what must not change them."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from contract.engine import SkipReason
from contract.errors import RequestRefused
from contract.groups import Group, RLGroup, SFTGroup
from contract.skills import (
    Box,
    DetectTarget,
    FinishReason,
    Grounding,
    Point,
    PointTarget,
    QueryTarget,
    Reasoning,
    ReturnedRollout,
    Rollout,
)
from tests.micro import (
    DETECT,
    POINT,
    QUERY,
    QUERY_WITH_IMAGE,
    REASONING,
    features_of,
    language_of,
    micro_model,
    pictures,
    random_adapter,
    rl_group,
    sample_rollouts,
    train_command,
)
from tests.reference.trainer.naive import NaiveStep, naive_step
from trainer.adapters.lora import Adapter
from trainer.optim import BETA_1, AdamState
from trainer.rl.loss import log_ratios, policy_loss
from trainer.step_plan import plan_step
from trainer.train_step import Computed, Limits, in_one_go, step_in_parts

TOLERANCE = 1e-10  # relative, float64 on both sides
SPLIT_TOLERANCE = 1e-9  # relative; sums in another order
UNCLIPPED = {"max_grad_norm": 1e12}  # so that the first moment shows the gradient itself

SFT_QUERY = SFTGroup(
    request=QUERY_WITH_IMAGE,
    targets=(QueryTarget(answer="a red circle"), QueryTarget(answer="")),
)
SFT_REASONING = SFTGroup(
    request=REASONING,
    targets=(
        QueryTarget(
            answer="the square",
            reasoning=Reasoning(
                text="The circle is red, left of it",
                grounding=(
                    Grounding(start_idx=4, end_idx=10, points=((0.25, 0.75), (0.5, 0.5))),
                    Grounding(start_idx=19, end_idx=23, points=((1.0, 0.0),)),
                ),
            ),
        ),
    ),
)
SFT_DETECT = SFTGroup(
    request=DETECT,
    targets=(
        DetectTarget(
            boxes=(
                Box(x_min=0.1, y_min=0.2, x_max=0.4, y_max=0.9),
                Box(x_min=0.5, y_min=0.5, x_max=0.5, y_max=1.0),
            )
        ),
        DetectTarget(boxes=()),
    ),
)
SFT_POINT = SFTGroup(
    request=POINT,
    targets=(
        PointTarget(points=(Point(x=0.3, y=0.7),)),
        PointTarget(boxes=(Box(x_min=0.0, y_min=0.1, x_max=0.4, y_max=0.3),)),
    ),
)


@cache
def stale_rollouts(family: str, request: Any, seed: int = 7) -> list[Rollout]:
    """Rollouts of an adapter far from the one that is trained, so that ratios meet every clip."""
    model = micro_model(family)
    sampler = random_adapter(model, seed=11, scale=0.25)
    return sample_rollouts(model, request, adapter=sampler, num_rollouts=5, seed=seed)


REWARDS = [1.0, 0.0, 0.25, 0.75, -2.0]


def groups_of(case: str, family: str) -> list[Group]:
    rl = {
        "query": rl_group(QUERY, stale_rollouts(family, QUERY), REWARDS),
        "image": rl_group(QUERY_WITH_IMAGE, stale_rollouts(family, QUERY_WITH_IMAGE), REWARDS),
        "reasoning": rl_group(REASONING, stale_rollouts(family, REASONING), REWARDS[::-1]),
        "point": rl_group(POINT, stale_rollouts(family, POINT), REWARDS),
        "detect": rl_group(DETECT, stale_rollouts(family, DETECT), REWARDS[::-1]),
        "fresh": rl_group(DETECT, stale_rollouts(family, DETECT, seed=5), REWARDS, logprobs=None),
        "equal": rl_group(POINT, stale_rollouts(family, POINT, seed=6), [0.5] * 5),
        "single": rl_group(QUERY, stale_rollouts(family, QUERY)[:1], [3.0]),
    }
    sft = {"query": SFT_QUERY, "reasoning": SFT_REASONING, "detect": SFT_DETECT, "point": SFT_POINT}
    if case.startswith("mixed"):
        return [*rl.values(), *sft.values()]
    kind, name = case.split(" ")
    return [{"rl": rl, "sft": sft}[kind][name]]


ANY_GAP: dict[str, Any] = {"drop_below": 0.0, "drop_above": 1e9, "drop_gap": 100.0}
"""Nothing is left out, however far it is from the trained policy."""

CASES: dict[str, dict[str, Any]] = {
    "rl query": {**ANY_GAP},
    "rl image": {**ANY_GAP, "advantage_scale": "none", "loss": "dr_grpo", "loss_length": 7.0},
    "rl reasoning": {**ANY_GAP, "clip_low": 0.05, "clip_high": 0.01, "dual_clip": 1.1},
    "rl point": {**ANY_GAP, "beta": 0.3, "router_beta": 0.4, "loss": "grpo"},
    "rl detect": {**ANY_GAP, "std_floor": 0.5},
    "rl fresh": {"loss": "gspo"},
    "rl equal": {**ANY_GAP, "beta": 0.7, "kl_ratio_max": 0.9},
    "sft query": {},
    "sft reasoning": {"sft_weight": 0.3},
    "sft detect": {},
    "sft point": {},
    "mixed": {**ANY_GAP, "beta": 0.2, "advantage_scale": "batch", "sft_weight": 1.7},
    "mixed, grpo": {"loss": "grpo", "router_beta": 0.3, "drop_gap": 0.3},
    "mixed, dapo": {"loss": "dapo", "drop_above": 3.0},
    "mixed, gspo": {**ANY_GAP, "loss": "gspo", "beta": 0.1, "clip_low": 0.03, "clip_high": 0.04},
    "mixed, dr_grpo": {"loss": "dr_grpo", "drop_below": 0.3, "advantage_scale": "none"},
}


AMPLE = Limits(max_positions=4096)


def compute(
    family: str,
    groups: list[Group],
    *,
    adapter: Adapter | None = None,
    limits: Limits = AMPLE,
    lr: float = 1e-3,
    **options: Any,
) -> Computed:
    model = micro_model(family)
    adapter = adapter or random_adapter(model)
    command = train_command(groups, lr=lr, **{**UNCLIPPED, **options})
    plan = plan_step(command, pictures(), model.config, language_of(model))
    return in_one_go(step_in_parts(
        model, adapter, AdamState.fresh(adapter.tensors), plan, features_of(model), command,
        limits=limits,
    ))  # fmt: skip


def gradients_of(computed: Computed) -> dict[str, torch.Tensor]:
    """The gradient behind the first moment of a first update that clipped nothing."""
    assert computed.optimizer is not None
    return {name: mean / (1.0 - BETA_1) for name, mean in computed.optimizer.mean.items()}


def assert_equal_gradients(
    mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float
) -> None:
    assert list(mine) == list(theirs)
    largest = max(float(g.abs().max()) for g in theirs.values())
    assert largest > 0.0
    for name, gradient in theirs.items():
        scale = max(float(gradient.abs().max()), 1e-6 * largest)
        assert float((mine[name] - gradient).abs().max()) <= tolerance * scale, name


def naive(family: str, groups: list[Group], **options: Any) -> NaiveStep:
    model = micro_model(family)
    return naive_step(model, random_adapter(model).tensors, features_of(model), groups, **options)


@pytest.mark.parametrize("family", ["moondream3", "moondream2"])
@pytest.mark.parametrize("case", CASES)
def test_loss_gradients_and_metrics_equal_the_naive_twin(case, family):
    groups = groups_of(case, family)
    computed = compute(family, groups, **CASES[case])
    expected = naive(family, groups, **CASES[case])
    assert computed.tally.loss == pytest.approx(expected.loss, rel=TOLERANCE)
    assert_equal_gradients(gradients_of(computed), expected.gradients, TOLERANCE)
    assert computed.grad_norm == pytest.approx(expected.grad_norm, rel=TOLERANCE)
    for name in ("kl", "router_kl", "sft_loss"):
        mine, theirs = getattr(computed, name), getattr(expected, name)
        assert (mine is None) == (theirs is None)
        if theirs is not None:
            assert mine == pytest.approx(theirs, rel=TOLERANCE), name
    assert (computed.router_kl is None) == (family == "moondream2")
    assert computed.tally.num_clipped == len(expected.clipped_ratios)
    assert computed.tally.num_dropped == expected.num_dropped
    assert computed.tally.entropy.mean == pytest.approx(expected.entropy, rel=TOLERANCE)
    if expected.ratios:
        assert computed.tally.ratio_max == pytest.approx(max(expected.ratios), rel=TOLERANCE)
        mean = sum(expected.ratios) / len(expected.ratios)
        assert computed.tally.ratio.mean == pytest.approx(mean, rel=TOLERANCE)
        gaps = [abs(math.log(ratio)) for ratio in expected.ratios]
        assert computed.tally.gap.mean == pytest.approx(sum(gaps) / len(gaps), rel=TOLERANCE)
        assert computed.tally.gap_max == pytest.approx(max(gaps), rel=TOLERANCE)


def test_the_cases_meet_every_clip():
    """Otherwise the comparison above would not cover it."""
    ratios = naive("moondream3", groups_of("mixed", "moondream3"), **ANY_GAP).clipped_ratios
    assert any(ratio > 3.0 for ratio in ratios)
    assert any(1.28 < ratio < 3.0 for ratio in ratios)
    assert any(ratio < 0.8 for ratio in ratios)
    for case in ("mixed, grpo", "mixed, dapo", "mixed, dr_grpo"):
        expected = naive("moondream3", groups_of(case, "moondream3"), **CASES[case])
        assert 0 < expected.num_dropped < len(expected.ratios)
    one_ratio = naive("moondream3", groups_of("mixed", "moondream3"), **CASES["mixed, gspo"])
    assert one_ratio.clipped_ratios


def test_without_logprobs_the_ratio_is_one_and_nothing_is_clipped():
    computed = compute("moondream3", groups_of("rl fresh", "moondream3"))
    assert computed.tally.num_clipped == 0
    assert computed.tally.gap.count == 0


def test_one_rollout_without_logprobs_makes_its_whole_group_fresh_and_no_other():
    with_logprobs = groups_of("rl query", "moondream3")[0]
    assert isinstance(with_logprobs, RLGroup)
    edited = replace(with_logprobs.rollouts[2], logprobs=None)
    mixed = replace(
        with_logprobs,
        rollouts=(*with_logprobs.rollouts[:2], edited, *with_logprobs.rollouts[3:]),
    )
    without = replace(
        with_logprobs, rollouts=tuple(replace(r, logprobs=None) for r in with_logprobs.rollouts)
    )
    other = groups_of("rl point", "moondream3")
    found = compute("moondream3", [mixed, *other], **ANY_GAP)
    wanted = compute("moondream3", [without, *other], **ANY_GAP)
    assert_equal_gradients(gradients_of(found), gradients_of(wanted), SPLIT_TOLERANCE)
    assert found.tally.gap.count == wanted.tally.gap.count > 0


def test_rollouts_of_the_trained_weights_have_no_gap():
    model = micro_model()
    rollouts = sample_rollouts(model, DETECT, adapter=random_adapter(model))
    computed = compute("moondream3", [rl_group(DETECT, rollouts, [0.0, 1.0, 0.5, 0.2])])
    assert computed.tally.gap.count == sum(
        len(r.answer_tokens) + (r.finish_reason == "stop") for r in rollouts
    )
    assert computed.tally.gap_max < 1e-10


def test_at_equal_logprobs_the_gradient_is_minus_the_advantage():
    logprobs = torch.tensor([-1.0, -2.0, -0.5], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([0.7, -1.3, 0.0], dtype=torch.float64)
    command = train_command([])
    log_ratio = log_ratios(logprobs, logprobs.detach())
    loss, is_clipped = policy_loss(log_ratio, advantages, command.options)
    loss.sum().backward()
    assert logprobs.grad is not None
    assert torch.equal(logprobs.grad, -advantages)
    assert not is_clipped.any()


@pytest.mark.parametrize("kept_bytes", [None, 0])
@pytest.mark.parametrize("max_positions", [1, 100, 700])
def test_neither_the_split_into_packs_nor_computing_layers_again_changes_anything(
    max_positions, kept_bytes
):
    groups, options = groups_of("mixed", "moondream3"), CASES["mixed"]
    limits = Limits(max_positions=max_positions, kept_bytes=kept_bytes)
    whole = compute("moondream3", groups, limits=Limits(max_positions=10**6), **options)
    split = compute("moondream3", groups, limits=limits, **options)
    assert_equal_gradients(gradients_of(split), gradients_of(whole), SPLIT_TOLERANCE)
    for name in ("kl", "router_kl", "sft_loss", "grad_norm"):
        assert getattr(split, name) == pytest.approx(getattr(whole, name), rel=SPLIT_TOLERANCE)


def bytes_kept(groups: list[Group], kept_bytes: int | None) -> int:
    """Of everything that a step keeps for its gradient beside the weights."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        compute("moondream3", groups, limits=replace(AMPLE, kept_bytes=kept_bytes))
    weights = {w.untyped_storage().data_ptr() for w in micro_model().parameters()}
    return sum(size for at, size in kept.items() if at not in weights)


def test_layers_are_computed_again_where_what_they_keep_is_beyond_the_limit():
    groups = groups_of("rl image", "moondream3")
    everything, least = bytes_kept(groups, None), bytes_kept(groups, 0)
    assert least < 0.8 * everything
    # the limit is held against an estimate, which is above what is kept
    assert bytes_kept(groups, (everything - least) // 2) < 0.8 * everything
    assert bytes_kept(groups, 10 * everything) > 0.95 * everything


def test_the_order_of_groups_and_of_rollouts_changes_nothing():
    groups, options = groups_of("mixed", "moondream3"), CASES["mixed"]
    turned = [
        replace(g, rollouts=g.rollouts[::-1], rewards=g.rewards[::-1])
        if isinstance(g, RLGroup)
        else g
        for g in reversed(groups)
    ]
    first = compute("moondream3", groups, **options)
    second = compute("moondream3", turned, **options)
    assert_equal_gradients(gradients_of(second), gradients_of(first), SPLIT_TOLERANCE)
    assert second.tally.loss == pytest.approx(first.tally.loss, rel=SPLIT_TOLERANCE)


def test_a_group_counts_as_much_whatever_its_length():
    # two copies of a group beside one other: its loss counts two thirds
    short, long = groups_of("rl point", "moondream3"), groups_of("rl query", "moondream3")
    a, b = compute("moondream3", short), compute("moondream3", long)
    both = compute("moondream3", [*short, *long, *short])
    expected = (2 * a.tally.loss + b.tally.loss) / 3
    assert both.tally.loss == pytest.approx(expected, rel=SPLIT_TOLERANCE)


def silent_groups() -> list[Group]:
    return [*groups_of("rl equal", "moondream3"), *groups_of("rl single", "moondream3")]


def test_groups_without_an_advantage_give_no_signal_and_change_nothing():
    computed = compute("moondream3", silent_groups())
    assert computed.skip_reason is SkipReason.NO_SIGNAL
    assert computed.tensors is None
    assert computed.optimizer is None
    assert computed.grad_norm == 0.0
    assert computed.kl is not None
    assert computed.kl > 0.0


def test_a_model_without_routers_has_none_to_pull_at():
    equal = groups_of("rl equal", "moondream2")
    computed = compute("moondream2", equal, router_beta=0.5)
    assert computed.skip_reason is SkipReason.NO_SIGNAL
    assert compute("moondream3", groups_of("rl equal", "moondream3"), router_beta=0.5).tensors


def test_targets_without_a_weight_give_no_signal_and_their_loss_is_told():
    computed = compute("moondream3", [SFT_QUERY], sft_weight=0.0)
    assert computed.skip_reason is SkipReason.NO_SIGNAL
    assert computed.sft_loss == compute("moondream3", [SFT_QUERY]).sft_loss


def test_a_silent_group_takes_part_in_the_mean_over_groups():
    speaking = groups_of("rl query", "moondream3")
    alone = compute("moondream3", speaking)
    beside = compute("moondream3", [*speaking, *silent_groups()])
    assert alone.grad_norm is not None
    assert beside.grad_norm == pytest.approx(alone.grad_norm / 3, rel=SPLIT_TOLERANCE)


def test_a_learning_rate_of_zero_reports_the_numbers_and_changes_nothing():
    groups = groups_of("mixed", "moondream3")
    skipped, applied = compute("moondream3", groups, lr=0.0), compute("moondream3", groups)
    assert skipped.skip_reason is SkipReason.ZERO_LR
    assert skipped.tensors is None
    assert skipped.optimizer is None
    for name in ("kl", "router_kl", "sft_loss", "grad_norm"):
        assert getattr(skipped, name) == getattr(applied, name)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_numbers_that_are_not_finite_change_nothing_and_are_not_reported(poison):
    adapter = random_adapter(micro_model())
    tensors = {name: tensor.clone() for name, tensor in adapter.tensors.items()}
    tensors["text_lora.moe.1.down_b"][0, 0, 0] = poison
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    poisoned = Adapter(micro_model().config.text, adapter.rank, tensors)
    computed = compute("moondream3", groups_of("mixed", "moondream3"), adapter=poisoned)
    assert computed.skip_reason is SkipReason.NON_FINITE
    assert computed.tensors is None
    assert computed.optimizer is None
    assert computed.grad_norm is None
    assert computed.sft_loss is None
    for name, tensor in poisoned.tensors.items():
        assert torch.equal(tensor.nan_to_num(), before[name].nan_to_num())


def test_a_step_without_signal_tells_that_its_numbers_are_not_finite():
    adapter = random_adapter(micro_model())
    tensors = {name: torch.full_like(t, math.nan) for name, t in adapter.tensors.items()}
    poisoned = Adapter(micro_model().config.text, adapter.rank, tensors)
    computed = compute("moondream3", silent_groups(), adapter=poisoned)
    assert computed.skip_reason is SkipReason.NON_FINITE
    assert computed.kl is None


def test_weights_beyond_any_number_are_not_kept():
    # of finite gradients; the rate of expert factors alone is infinite
    computed = compute("moondream3", [SFT_QUERY], lr=1e300, expert_lr_ratio=1e10)
    assert computed.grad_norm is not None
    assert computed.skip_reason is SkipReason.NON_FINITE
    assert computed.tensors is None
    assert computed.optimizer is None


def test_rewards_beyond_any_scale_are_answered_as_not_finite():
    rollouts = stale_rollouts("moondream3", QUERY)[:2]
    huge = rl_group(QUERY, rollouts, [1.7e308, -1.7e308])
    computed = compute("moondream3", [huge], advantage_scale="none")
    assert computed.skip_reason is SkipReason.NON_FINITE


def test_a_step_leaves_what_it_was_given_untouched():
    adapter = random_adapter(micro_model())
    before = {name: tensor.clone() for name, tensor in adapter.tensors.items()}
    computed = compute("moondream3", groups_of("mixed", "moondream3"), adapter=adapter)
    assert computed.tensors is not None
    for name, tensor in adapter.tensors.items():
        assert torch.equal(tensor, before[name])
        assert tensor.grad is None
        assert not torch.equal(tensor, computed.tensors[name])


def test_say_nothing_is_trained_as_one_end_token():
    nothing = ReturnedRollout(answer_tokens=(), output={"objects": []}, finish_reason=None)
    group = RLGroup(request=DETECT, rollouts=(nothing, nothing), rewards=(1.0, 0.0))
    assert compute("moondream3", [group]).tally.num_actions == 2


def test_rollouts_without_a_single_draw_count_and_teach_nothing():
    empty = ReturnedRollout(answer_tokens=(), finish_reason=FinishReason.LENGTH)
    group = RLGroup(request=DETECT, rollouts=(empty, empty), rewards=(1.0, 0.0))
    computed = compute("moondream3", [group])
    assert computed.skip_reason is SkipReason.NO_SIGNAL
    assert computed.kl == 0.0


def plan(groups: list[Group], max_context: int = 128):
    model = micro_model(max_context=max_context)
    return plan_step(train_command(groups), pictures(), model.config, language_of(model))


def test_one_bad_rollout_refuses_the_step_and_is_named():
    good = groups_of("rl query", "moondream3")[0]
    assert isinstance(good, RLGroup)
    wrong = replace(good.rollouts[3], answer_tokens=(1, 9999))
    bad = replace(good, rollouts=(*good.rollouts[:3], wrong, *good.rollouts[4:]))
    with pytest.raises(RequestRefused) as refused:
        plan([good, SFT_QUERY, bad])
    assert refused.value.loc == ("groups", 2, "rollouts", 3, "answer_tokens", 1)


def test_a_rollout_beyond_the_context_is_named():
    good = groups_of("rl query", "moondream3")[0]
    assert isinstance(good, RLGroup)
    long = replace(good.rollouts[1], answer_tokens=(100,) * 120, coords=(), sizes=())
    bad = replace(good, rollouts=(good.rollouts[0], long), rewards=(0.0, 1.0))
    with pytest.raises(RequestRefused, match="128") as refused:
        plan([good, bad])
    assert refused.value.loc == ("groups", 1, "rollouts", 1)


def test_a_target_beyond_the_context_is_named():
    long = SFTGroup(request=QUERY, targets=(QueryTarget(answer="x" * 500),))
    with pytest.raises(RequestRefused) as refused:
        plan([SFT_QUERY, long])
    assert refused.value.loc == ("groups", 1, "target")


def test_a_sequence_that_just_fits_the_context_is_trained():
    group = groups_of("sft detect", "moondream3")
    num_positions = max(e.row.num_positions(16) for e in plan(group).examples)
    plan(group, max_context=num_positions)
    with pytest.raises(RequestRefused):
        plan(group, max_context=num_positions - 1)


def test_a_warning_of_a_rollout_reaches_the_plan():
    good = groups_of("rl query", "moondream3")[0]
    assert isinstance(good, RLGroup)
    edited = replace(good.rollouts[0], output={"answer": "something else"})
    warned = plan([replace(good, rollouts=(edited, *good.rollouts[1:]))])
    assert warned.warnings == (
        "groups.0.rollouts.0: output differs from the tokens; the tokens were trained.",
    )
