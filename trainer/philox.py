"""Counter-based random numbers: Philox4x32-10, so that a draw depends on its place alone.

No state moves from draw to draw. What is drawn for a rollout at a position is a function of
(seed, rollout, position), whatever else shares the batch or in whatever order it runs.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_MASK = 0xFFFFFFFF


def philox_4x32(counter_N4: Tensor, key_N2: Tensor) -> Tensor:
    """Ten rounds of Philox.

    Args:
        counter_N4: [N, 4] int64, each word in 0..2^32-1.
        key_N2: [N, 2] int64, likewise (or [1, 2]).

    Returns:
        [N, 4] int64, each word in 0..2^32-1.
    """
    c0, c1, c2, c3 = counter_N4.unbind(-1)
    k0, k1 = key_N2.unbind(-1)
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 = (k0 + _KEY_STEPS[0]) & _MASK
        k1 = (k1 + _KEY_STEPS[1]) & _MASK
    return torch.stack((c0, c1, c2, c3), dim=-1)


def uniforms(seeds: Sequence[int], rollouts_N: Tensor, positions_N: Tensor) -> Tensor:
    """Four independent uniforms for each (seed, rollout, position).

    Args:
        seeds: N of 64 bits, or one for all.
        rollouts_N: [N] int64, index of the rollout in its call.
        positions_N: [N] int64, index of the action in its rollout.

    Returns:
        [N, 4] float64 in (0, 1), never 0 or 1.
    """
    zero_N = torch.zeros_like(rollouts_N)
    counter_N4 = torch.stack((positions_N, rollouts_N, zero_N, zero_N), dim=-1)
    key_N2 = torch.tensor(
        [[seed & _MASK, (seed >> 32) & _MASK] for seed in seeds], device=rollouts_N.device
    )
    return (philox_4x32(counter_N4, key_N2).double() + 0.5) / 2.0**32


def _multiply(value_N: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a 32 x 32 bit product, in halves that int64 can hold."""
    low_half = (value_N & 0xFFFF) * multiplier
    high_half = (value_N >> 16) * multiplier
    carried = high_half + (low_half >> 16)
    return carried >> 16, ((carried & 0xFFFF) << 16) | (low_half & 0xFFFF)
