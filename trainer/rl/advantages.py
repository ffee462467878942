"""Rewards of a group become advantages: a rollout is judged against its siblings only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor


def advantages(
    rewards: Sequence[Sequence[float]],
    *,
    scale: Literal["group", "batch", "none"],
    std_floor: float,
) -> list[Tensor]:
    """Centre the rewards of each group and divide them by a spread.

        A_i = (r_i - mean of the group) / (s + std_floor)
        s = standard deviation (n - 1) of the group, or of all rewards of the step (`batch`);
        with `none` nothing is divided.

    Args:
        rewards: One sequence per group, finite, any scale, higher is better.

    Returns:
        Per group [G] float64 that sums to zero; exact zeros where G is 1 or all rewards are equal.

    Source: arXiv:2402.03300 (group), arXiv:2503.20783 (none), docs/algorithms.md.
    """
    groups = [torch.tensor(list(group), dtype=torch.float64) for group in rewards]
    everything = torch.cat(groups) if groups else torch.zeros(0, dtype=torch.float64)
    batch_spread = _spread(everything)
    result: list[Tensor] = []
    for group in groups:
        if bool((group == group[0]).all()):
            result.append(torch.zeros_like(group))
            continue
        centred = group - group.mean()
        if scale != "none":
            spread = _spread(group) if scale == "group" else batch_spread
            centred = centred / (spread + std_floor)
        result.append(centred)
    return result


def _spread(values: Tensor) -> Tensor:
    return values.std(unbiased=True) if len(values) > 1 else torch.zeros((), dtype=values.dtype)
