"""What is counted while a step is computed, over all of its packs, in double precision."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer.packing import Pack


@dataclass(kw_only=True)
class Mean:
    """A mean over values that come one tensor after another; 0 of none."""

    total: float = 0.0
    count: int = 0

    def add(self, values: Tensor, count: int | None = None) -> None:
        """Take values in; `count` if each stands for another number than one."""
        self.total += float(values.detach().double().sum())
        self.count += values.numel() if count is None else count

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0


@dataclass(kw_only=True)
class Tally:
    """Sums of a step.

    Attributes:
        has_signal: Something moved the gradient.
        kl: Over the drawn tokens and bins of rollouts; so is the entropy.
        router_kl: Over actions and expert layers.
        ratio: Over the actions of rollouts whose log-probabilities are known; so is the gap,
            |log pi - log mu|.
        num_dropped: Rollouts that were left out.
        non_finite_groups: Those whose loss is infinite or not a number.
        num_positions, num_alone: Positions computed, and those that rows of their own would take.
    """

    loss: float = 0.0
    has_signal: bool = False
    kl: Mean = field(default_factory=Mean)
    router_kl: Mean = field(default_factory=Mean)
    entropy: Mean = field(default_factory=Mean)
    ratio: Mean = field(default_factory=Mean)
    ratio_max: float = 0.0
    gap: Mean = field(default_factory=Mean)
    gap_max: float = 0.0
    num_actions: int = 0
    num_clipped: int = 0
    num_dropped: int = 0
    num_positions: int = 0
    num_alone: int = 0
    sft_nll: dict[int, list[float]] = field(default_factory=dict)
    non_finite_groups: set[int] = field(default_factory=set)

    def count_positions(self, packed: Pack, *, num_alone: int) -> None:
        self.num_positions += packed.tree.num_positions
        self.num_alone += num_alone

    def count_divergence(self, divergence_A3: Tensor, is_draw_A3: Tensor) -> None:
        """k3 of every draw of rollouts, 0 where nothing was drawn."""
        self.kl.add(divergence_A3, int(is_draw_A3.sum()))

    def count_entropy(self, entropy_A: Tensor, is_draw_A3: Tensor) -> None:
        """Entropy of the distributions that the draws of each action came from."""
        self.entropy.add(entropy_A, int(is_draw_A3.sum()))

    def count_ratios(
        self, log_ratio_A: Tensor, is_clipped_A: Tensor, *, is_known_A: Tensor
    ) -> None:
        """Of the actions of rollouts: log rho, and whether a clip cut their loss."""
        self.num_actions += len(log_ratio_A)
        self.num_clipped += int(is_clipped_A.sum())
        known = log_ratio_A[is_known_A]
        if known.numel():
            self.ratio.add(known.exp())
            self.ratio_max = _larger(self.ratio_max, float(known.max().exp()))
            self.gap.add(known.abs())
            self.gap_max = _larger(self.gap_max, float(known.abs().max()))

    def count_target(self, group: int, nll: float) -> None:
        """Mean negative log-likelihood of a draw of one target."""
        self.sft_nll.setdefault(group, []).append(nll)

    @property
    def sft_loss(self) -> float | None:
        """Mean over the groups of the mean over their targets."""
        groups = [sum(values) / len(values) for values in self.sft_nll.values()]
        return sum(groups) / len(groups) if groups else None


def finite_or_none(value: float | None) -> float | None:
    """What JSON can carry of a number."""
    return value if value is not None and math.isfinite(value) else None


def _larger(a: float, b: float) -> float:
    """The larger one; not a number, if one is not."""
    return float(torch.tensor([a, b], dtype=torch.float64).max())
