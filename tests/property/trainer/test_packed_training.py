"""Any mix of groups, computed in packs, has the gradient of rollouts computed one at a time."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from contract.groups import Group, RLGroup, SFTGroup
from contract.skills import (
    Box,
    DetectTarget,
    FinishReason,
    PointTarget,
    QueryTarget,
    ReturnedRollout,
    TunableRequest,
)
from tests.micro import (
    REQUESTS,
    features_of,
    language_of,
    micro_model,
    pictures,
    random_adapter,
    returned,
    sample_rollouts,
    train_command,
)
from tests.reference.trainer.naive import NaiveStep, naive_step
from trainer.adapters.lora import Adapter
from trainer.optim import BETA_1, AdamState
from trainer.step_plan import plan_step
from trainer.train_step import Computed, Limits, in_one_go, step_in_parts

FAMILIES = ("moondream3", "moondream2")
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Relative L2 of the gradient, and of that of each factor."""

NEGLIGIBLE = 1e-3
"""A factor of less than this part of the whole gradient is compared with the whole."""

STALE = 0.2
"""Scale of the adapter that sampled; the trained one has 0.1 and another seed."""

Tensors = Mapping[str, Tensor]


@cache
def answers(family: str, name: str) -> tuple[ReturnedRollout, ...]:
    """Of one request: six of stale weights, one that was cut after a token, one that is empty."""
    model = micro_model(family)
    sampler = random_adapter(model, seed=5, scale=STALE)
    sampled = sample_rollouts(
        model, REQUESTS[name], adapter=sampler, num_rollouts=6, seed=2, max_tokens=9
    )
    short = sample_rollouts(model, REQUESTS[name], adapter=sampler, num_rollouts=1, max_tokens=1)
    nothing = ReturnedRollout(answer_tokens=(), finish_reason=FinishReason.LENGTH)
    return (*map(returned, (*sampled, *short)), nothing)


def rl_group(chosen: random.Random, family: str, name: str) -> RLGroup:
    """Two to five rollouts, some twice, some without log-probabilities."""
    rollouts = chosen.choices(answers(family, name), k=chosen.randint(2, 5))
    return RLGroup(
        request=REQUESTS[name],
        rollouts=tuple(
            replace(rollout, logprobs=None) if chosen.random() < 0.2 else rollout
            for rollout in rollouts
        ),
        rewards=tuple(chosen.choice((0.0, 0.5, 1.0, 3.0)) for _ in rollouts),
    )


def sft_group(chosen: random.Random, request: TunableRequest) -> SFTGroup:
    """One target, or the same one twice beside another."""
    boxes = (Box(x_min=0.1, y_min=0.2, x_max=0.6, y_max=0.3),) * chosen.randint(0, 2)
    first, second = {
        "query": (QueryTarget(answer="two red circles"), QueryTarget(answer="")),
        "point": (PointTarget(boxes=boxes), PointTarget(points=())),
        "detect": (DetectTarget(boxes=boxes), DetectTarget(boxes=())),
    }[request.skill]
    return SFTGroup(request=request, targets=chosen.choice(((first,), (first, second, first))))


def any_groups(chosen: random.Random, family: str) -> list[Group]:
    """Two to four, often of one request."""
    names = chosen.choices(list(REQUESTS), k=2)
    groups: list[Group] = [rl_group(chosen, family, names[0])]
    for _ in range(chosen.randint(1, 3)):
        name = chosen.choice(names)
        if chosen.random() < 0.4 and not getattr(REQUESTS[name], "reasoning", False):
            groups.append(sft_group(chosen, REQUESTS[name]))
        else:
            groups.append(rl_group(chosen, family, name))
    chosen.shuffle(groups)
    return groups


def any_options(chosen: random.Random) -> dict[str, Any]:
    """Of the loss; every other time nothing is left out for being far off."""
    options: dict[str, Any] = {
        "loss": chosen.choice(("group", "grpo", "dr_grpo", "dapo", "gspo")),
        "loss_length": chosen.choice((3.0, 64.0)),
        "advantage_scale": chosen.choice(("group", "batch", "none")),
        "clip_low": chosen.choice((0.0, 0.02, 0.2)),
        "clip_high": chosen.choice((0.0, 0.03, 0.28)),
        "dual_clip": chosen.choice((1.05, 3.0)),
        "beta": chosen.choice((0.0, 0.4)),
        "kl_ratio_max": chosen.choice((0.5, 2.0)),
        "router_beta": chosen.choice((0.0, 0.3)),
        "sft_weight": chosen.choice((0.0, 0.7, 1.0)),
    }
    if chosen.random() < 0.5:
        options |= {"drop_below": 0.0, "drop_above": 1e9, "drop_gap": 100.0}
    return options


def any_limits(chosen: random.Random) -> Limits:
    return Limits(
        max_positions=chosen.choice((1, 60, 4096)), kept_bytes=chosen.choice((None, 0, 10**6))
    )


def packed_step(
    family: str,
    dtype: torch.dtype,
    groups: list[Group],
    limits: Limits,
    options: Mapping[str, Any],
) -> Computed:
    model = micro_model(family, dtype)
    tensors = {name: t.to(dtype) for name, t in random_adapter(micro_model(family)).tensors.items()}
    adapter = Adapter(model.config.text, 8, tensors)
    command = train_command(groups, **options, max_grad_norm=1e12)
    plan = plan_step(command, pictures(), model.config, language_of(model))
    return in_one_go(step_in_parts(
        model, adapter, AdamState.fresh(adapter.tensors), plan, features_of(model), command,
        limits=limits,
    ))  # fmt: skip


def gradient_of(computed: Computed) -> Tensors:
    """Behind the first moment of a first update that clipped nothing; zeros of a skipped step."""
    if computed.optimizer is None:
        assert computed.grad_norm == 0.0
        return {}
    return {name: mean / (1.0 - BETA_1) for name, mean in computed.optimizer.mean.items()}


def assert_equal(mine: Tensors, theirs: Tensors, tolerance: float) -> None:
    """All factors together, and each that is not negligible."""
    whole = math.sqrt(sum(float(g.square().sum()) for g in theirs.values()))
    distances = {
        name: float((mine[name].double() - gradient).norm()) if mine else float(gradient.norm())
        for name, gradient in theirs.items()
    }
    assert math.hypot(*distances.values()) <= tolerance * whole
    for name, distance in distances.items():
        assert distance <= tolerance * max(float(theirs[name].norm()), NEGLIGIBLE * whole), name


def naive(family: str, groups: list[Group], options: Mapping[str, Any]) -> NaiveStep:
    model = micro_model(family)
    return naive_step(model, random_adapter(model).tensors, features_of(model), groups, **options)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(10))
def test_any_mix_has_the_gradient_of_the_naive_twin(seed, family):
    chosen = random.Random(seed)
    groups, options = any_groups(chosen, family), any_options(chosen)
    expected = naive(family, groups, options)
    for dtype, tolerance in TOLERANCE.items():
        computed = packed_step(family, dtype, groups, any_limits(chosen), options)
        assert computed.tally.loss == pytest.approx(expected.loss, rel=tolerance, abs=tolerance)
        assert computed.tally.num_dropped == expected.num_dropped
        assert_equal(gradient_of(computed), expected.gradients, tolerance)
