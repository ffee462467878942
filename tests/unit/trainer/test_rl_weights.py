"""What an action counts, against means that are taken one inside the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

import pytest

from contract.groups import TrainOptions
from trainer.rl.weights import action_weights

LOSSES = [[[1.0, -2.0, 4.0], [8.0], []], [[16.0, 3.0]], [[5.0, 7.0], [-9.0]]]
"""Of every action, by group and rollout."""

LENGTH = 10.0

Group = Sequence[Sequence[float]]


def flat(group: Group) -> list[float]:
    return [loss for rollout in group for loss in rollout]


MEANS: dict[str, Callable[[], float]] = {
    "group": lambda: sum(fmean(flat(group)) for group in LOSSES),
    "grpo": lambda: sum(fmean(fmean(r) if r else 0.0 for r in group) for group in LOSSES),
    "gspo": lambda: sum(fmean(fmean(r) if r else 0.0 for r in group) for group in LOSSES),
    "dr_grpo": lambda: sum(fmean(sum(r) / LENGTH for r in group) for group in LOSSES),
    # a step divides by the number of groups, so this is three times the mean over all actions
    "dapo": lambda: 3 * fmean(loss for group in LOSSES for loss in flat(group)),
}


@pytest.mark.parametrize("loss", MEANS)
def test_the_weighted_sum_of_losses_is_the_mean_that_its_name_says(loss):
    options = TrainOptions(loss=loss, loss_length=LENGTH)
    weights = action_weights([[len(r) for r in group] for group in LOSSES], options)
    found = sum(
        weight * sum(rollout)
        for group, group_weights in zip(LOSSES, weights, strict=True)
        for rollout, weight in zip(group, group_weights, strict=True)
    )
    assert found == pytest.approx(MEANS[loss](), rel=1e-12)


@pytest.mark.parametrize("loss", MEANS)
def test_a_step_without_any_action_has_weights_all_the_same(loss):
    assert len(action_weights([[0, 0]], TrainOptions(loss=loss))[0]) == 2
    assert action_weights([], TrainOptions(loss=loss)) == []
