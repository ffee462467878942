"""AdamW on the factors of one adapter: plain functions from a state to the next, nothing in place.

So a step that fails half-way leaves weights and moments as they were.
Source: Loshchilov and Hutter, "Decoupled weight decay regularization", arXiv:1711.05101.
There is no decay here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.adapters.lora import is_expert_factor

BETA_1 = 0.9
BETA_2 = 0.95
EPSILON = 1e-8


@dataclass(frozen=True, kw_only=True)
class AdamState:
    """Moments of every factor (float32) and the number of updates so far."""

    num_updates: int
    mean: Mapping[str, Tensor]
    square: Mapping[str, Tensor]

    @classmethod
    def fresh(cls, tensors: Mapping[str, Tensor]) -> AdamState:
        return cls(
            num_updates=0,
            mean={name: torch.zeros_like(tensor) for name, tensor in tensors.items()},
            square={name: torch.zeros_like(tensor) for name, tensor in tensors.items()},
        )

    def to_tensors(self) -> dict[str, Tensor]:
        """For a file: `mean.{name}` and `square.{name}`."""
        named = {f"mean.{name}": tensor for name, tensor in self.mean.items()}
        named |= {f"square.{name}": tensor for name, tensor in self.square.items()}
        return {**named, "num_updates": torch.tensor(self.num_updates)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> AdamState:
        def part(prefix: str) -> dict[str, Tensor]:
            return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

        num_updates = int(tensors["num_updates"])
        return cls(num_updates=num_updates, mean=part("mean."), square=part("square."))


def global_norm(gradients: Mapping[str, Tensor]) -> float:
    """L2 norm over all factors, accumulated in float64; may be infinite or NaN."""
    # The host waits once: norms of all factors first, their sum then.
    total = float(torch.stack([g.double().square().sum() for g in gradients.values()]).sum())
    return math.sqrt(total) if math.isfinite(total) else math.nan


def adamw_update(
    tensors: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    state: AdamState,
    *,
    lr: float,
    expert_lr_ratio: float = 1.0,
    max_grad_norm: float,
    grad_norm: float,
) -> tuple[dict[str, Tensor], AdamState]:
    """One update.

        g = gradient * min(1, max_grad_norm / grad_norm)
        m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g^2
        w = w - lr * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

    Args:
        tensors: Weights, float32.
        gradients: Of the same names and shapes.
        state: Moments before the update.
        lr: For dense factors; expert factors take `lr * expert_lr_ratio`.
        grad_norm: Global norm of `gradients`, finite.

    Returns:
        New weights and the new state.
    """
    clip = min(1.0, max_grad_norm / grad_norm) if grad_norm > 0.0 else 1.0
    t = state.num_updates + 1
    mean: dict[str, Tensor] = {}
    square: dict[str, Tensor] = {}
    updated: dict[str, Tensor] = {}
    for name, weight in tensors.items():
        gradient = gradients[name] * clip
        mean[name] = BETA_1 * state.mean[name] + (1.0 - BETA_1) * gradient
        square[name] = BETA_2 * state.square[name] + (1.0 - BETA_2) * gradient.square()
        rate = lr * expert_lr_ratio if is_expert_factor(name) else lr
        denominator = (square[name] / (1.0 - BETA_2**t)).sqrt() + EPSILON
        updated[name] = weight - rate * (mean[name] / (1.0 - BETA_1**t)) / denominator
    return updated, AdamState(num_updates=t, mean=mean, square=square)
