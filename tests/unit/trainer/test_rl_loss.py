"""The formulas of docs/algorithms.md for one action or rollout, recomputed in Python floats."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from contract.groups import TrainOptions
from trainer.rl.advantages import advantages
from trainer.rl.loss import (
    corrected_divergence,
    is_kept,
    k3_divergence,
    log_ratios,
    policy_loss,
    row_means,
)
from trainer.scoring import router_divergence

FLOAT64_RELATIVE = 1e-12
NEVER: dict[str, Any] = {"drop_below": 0.0, "drop_above": 1e9, "drop_gap": 100.0}
"""Bounds that leave nothing out."""


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def about(*values: float) -> Any:
    return pytest.approx(values, rel=FLOAT64_RELATIVE)


# Advantages


def test_advantages_by_each_scale():
    # group 1: mean 2, deviations -1, 0, 1 (n - 1: sd 1); group 2: mean 5, -4 and 4, sd sqrt(32)
    rewards = [[1.0, 2.0, 3.0], [1.0, 9.0], [7.0], [4.0, 4.0]]
    # all eight: mean 31 / 8; squares 1 + 4 + 9 + 1 + 81 + 49 + 16 + 16 = 177
    of_all = math.sqrt((177 - 31**2 / 8) / 7)
    for scale, (first, second) in {
        "none": (1.0, 1.0),
        "group": (1.0 + 0.5, math.sqrt(32.0) + 0.5),
        "batch": (of_all + 0.5, of_all + 0.5),
    }.items():
        found = advantages(rewards, scale=scale, std_floor=0.5)  # pyright: ignore[reportArgumentType] -- one of three
        assert found[0].tolist() == about(-1.0 / first, 0.0, 1.0 / first)
        assert found[1].tolist() == about(-4.0 / second, 4.0 / second)
        assert found[2].tolist() == [0.0]
        assert found[3].tolist() == [0.0, 0.0]


# The policy loss

CLIPS = TrainOptions(clip_low=0.1, clip_high=0.3, dual_clip=2.0)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        # slope: d loss / d log ratio, which is -ratio * advantage unless a clip cut it
        (0.5, 2.0, -1.0, -1.0),  # a good action that became rarer is pulled back
        (1.2, 2.0, -2.4, -2.4),
        (1.5, 2.0, -2.6, 0.0),  # 1 + clip_high
        (0.5, -2.0, 1.8, 0.0),  # 1 - clip_low
        (0.95, -2.0, 1.9, 1.9),
        (1.5, -2.0, 3.0, 3.0),  # a bad one that became likelier is pushed back
        (2.5, -2.0, 4.0, 0.0),  # but not beyond dual_clip
        (1.0, 0.0, 0.0, 0.0),
        (9.0, 0.0, 0.0, 0.0),
    ],
)
def test_the_loss_and_slope_of_an_action(ratio, advantage, loss, slope):
    log_ratio = vector(math.log(ratio)).requires_grad_()
    found, is_clipped = policy_loss(log_ratio, vector(advantage), CLIPS)
    found.sum().backward()
    assert found.tolist() == about(loss)
    assert log_ratio.grad is not None
    assert log_ratio.grad.tolist() == about(slope)
    assert is_clipped.tolist() == [slope == 0.0 and advantage != 0.0]


@pytest.mark.parametrize(("advantage", "slope"), [(1.5, -1.5), (-1.5, 1.5)])
def test_at_a_ratio_of_one_no_bound_is_too_narrow(advantage, slope):
    log_ratio = vector(0.0).requires_grad_()
    options = TrainOptions(clip_low=0.0, clip_high=0.0)
    found, is_clipped = policy_loss(log_ratio, vector(advantage), options)
    found.sum().backward()
    assert log_ratio.grad is not None
    assert log_ratio.grad.tolist() == [slope]
    assert not is_clipped.any()


def test_the_ratio_is_bounded_on_both_sides():
    found = log_ratios(vector(-1.0, -1.0, -1e5, -1.0), vector(-1.5, -1e300, -1.0, -30.0))
    assert found.tolist() == [0.5, 20.0, -20.0, 20.0]


# Rollouts too far off


@pytest.mark.parametrize(
    ("bounds", "ratios", "is_in"),
    [
        ({"drop_below": 0.5}, (0.50001, 1.0), True),
        ({"drop_below": 0.5}, (0.5, 1.0), False),
        ({"drop_below": 0.5}, (1.0, 0.4), False),
        ({"drop_below": 0.0}, (math.exp(-20.0), 1.0), True),
        ({"drop_above": 2.0}, (1.99999, 0.1), True),
        ({"drop_above": 2.0}, (1.0, 2.0), False),
        ({"drop_above": 2.0}, (3.0, 0.1), False),
        ({"drop_gap": 0.5}, (math.exp(0.98), 1.0), True),  # mean of log ratio: 0.49
        ({"drop_gap": 0.5}, (math.exp(1.02), 1.0), False),
        ({"drop_gap": 0.5}, (math.exp(-1.02), 1.0), False),
        ({"drop_gap": 0.5}, (math.exp(-3.0), math.exp(3.0)), True),  # they cancel
    ],
)
def test_a_rollout_is_kept_within_each_bound(bounds, ratios, is_in):
    options = TrainOptions(**{**NEVER, **bounds})
    found = is_kept(vector(*ratios).log(), torch.tensor([0, 0]), 1, options)
    assert found.tolist() == [is_in]


def test_a_rollout_is_judged_by_its_own_actions_alone():
    log_ratio_A = vector(0.1, 9.0, -0.2, math.nan, -9.0, 0.1)
    row_A = torch.tensor([0, 1, 0, 2, 3, 5])
    # what is no number is kept, so that the step finds it; a row without actions is kept
    found = is_kept(log_ratio_A, row_A, 6, TrainOptions())
    assert found.tolist() == [True, False, True, False, True, True]


def test_the_mean_of_each_row_counts_its_own_actions():
    found = row_means(vector(1.0, 2.0, 6.0, -4.0), torch.tensor([2, 0, 0, 2]), 4)
    assert found.tolist() == [4.0, 0.0, -1.5, 0.0]


# Divergence


def test_k3_and_its_slope():
    policy, reference = vector(-1.0, -2.0, -0.5).requires_grad_(), vector(-1.5, -2.0, -0.1)
    found = k3_divergence(policy, reference)
    found.sum().backward()
    # d = -0.5, 0, 0.4; the slope of exp(d) - d - 1 by log pi is 1 - exp(d)
    wanted = [math.exp(d) - d - 1 for d in (-0.5, 0.0, 0.4)]
    assert found.tolist() == pytest.approx(wanted, rel=1e-12)
    assert policy.grad is not None
    assert policy.grad.tolist() == pytest.approx([1 - math.exp(d) for d in (-0.5, 0.0, 0.4)])


def test_k3_of_any_gap_is_a_number():
    # d is held within -20 and 20
    found = k3_divergence(vector(-1e5, -1.0), vector(-1.0, -1e5))
    assert found.tolist() == about(math.exp(20.0) - 21.0, math.exp(-20.0) + 19.0)


def test_the_ratio_weighs_the_divergence_and_carries_its_share_of_the_gradient():
    log_ratio = vector(math.log(0.5), math.log(3.0)).requires_grad_()
    divergence = vector(0.2, 0.4).requires_grad_()
    found = corrected_divergence(divergence, log_ratio, ratio_max=2.0)
    found.sum().backward()
    assert found.tolist() == about(0.5 * 0.2, 2.0 * 0.4)
    assert log_ratio.grad is not None
    assert divergence.grad is not None
    assert log_ratio.grad.tolist() == about(0.5 * 0.2, 0.0)  # beyond the bound it is a constant
    assert divergence.grad.tolist() == about(0.5, 2.0)


def test_the_weighted_divergence_has_the_gradient_of_the_true_one():
    # over all outcomes, the expected slope of rho k3 at rho = 1 is that of KL(pi || pi_0) itself
    logits, base = vector(0.3, -1.0, 0.7).requires_grad_(), torch.log_softmax(vector(0, 1, -1), 0)
    policy = torch.log_softmax(logits, 0)
    exact = (policy.exp() * (policy - base)).sum()
    (wanted,) = torch.autograd.grad(exact, logits, retain_graph=True)
    chances = policy.detach().exp()
    weighted = corrected_divergence(k3_divergence(policy, base), policy - policy.detach(), 2.0)
    (found,) = torch.autograd.grad((chances * weighted).sum(), logits)
    assert found.tolist() == about(*wanted.tolist())


def test_the_divergence_of_routers_is_that_of_their_softmax_mean_over_layers():
    chosen = random.Random(0)
    policy = [[[chosen.gauss(0, 1) for _ in range(4)] for _ in range(3)] for _ in range(2)]
    reference = [[[chosen.gauss(0, 1) for _ in range(4)] for _ in range(3)] for _ in range(2)]

    def softmax(logits: list[float]) -> list[float]:
        total = sum(map(math.exp, logits))
        return [math.exp(x) / total for x in logits]

    def divergence(mine: list[float], theirs: list[float]) -> float:
        pairs = zip(softmax(mine), softmax(theirs), strict=True)
        return sum(p * math.log(p / q) for p, q in pairs)

    wanted = [
        sum(divergence(policy[layer][a], reference[layer][a]) for layer in range(2)) / 2
        for a in range(3)
    ]
    found = router_divergence(
        torch.tensor(policy, dtype=torch.float64), torch.tensor(reference, dtype=torch.float64)
    )
    assert found.tolist() == about(*wanted)
