"""The groups of a train step, tagged by mode, and the options of its algorithm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from contract.skills import ReturnedRollout, Target, TunableRequest


@dataclass(frozen=True, kw_only=True)
class RLGroup:
    """Rollouts of one request with their rewards, in the same order and number."""

    request: TunableRequest
    rollouts: tuple[ReturnedRollout, ...]
    rewards: tuple[float, ...]
    mode: Literal["rl"] = "rl"


@dataclass(frozen=True, kw_only=True)
class SFTGroup:
    """One request with one or more right answers, each an example of its own."""

    request: TunableRequest
    targets: tuple[Target, ...]
    mode: Literal["sft"] = "sft"


Group = RLGroup | SFTGroup


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The knobs of one train step; docs/algorithms.md has the formulas, by these names.

    Attributes:
        advantage_scale: What centred rewards are divided by: the spread of their group, of the
            whole step (`batch`), or nothing (`none`).
        std_floor: Added to the spread before dividing, > 0.
        loss: How actions are averaged: over their group (`group`), over their rollout and then over
            those of the group (`grpo`), over all rollouts of the step (`dapo`), or their sum over
            rollouts times `loss_length` (`dr_grpo`); `gspo` is `grpo` with one ratio per rollout.
        loss_length: Actions that `dr_grpo` takes a rollout to have, > 0.
        clip_low: The importance ratio is clipped below at 1 - clip_low, in [0, 1].
        clip_high: ... and above at 1 + clip_high, >= 0.
        dual_clip: For negative advantages the loss is at most this times the advantage, > 1.
        drop_below: A rollout with an importance ratio below this is left out, in [0, 1).
        drop_above: ... or with one above this, > 1.
        drop_gap: ... or whose mean log-ratio lies further from 0 than this, > 0.
        beta: Weight of the divergence from the base model in the loss, >= 0.
        kl_ratio_max: The divergence is weighted by the importance ratio, at most by this, >= 0.
        router_beta: Weight of the divergence of the expert routers in the loss, >= 0.
        sft_weight: Weight of a supervised group beside a group of rollouts, >= 0.
        expert_lr_ratio: Learning rate of expert adapters over that of dense ones, > 0.
        max_grad_norm: The gradient is scaled down to this global L2 norm, > 0.
    """

    advantage_scale: Literal["group", "batch", "none"] = "group"
    std_floor: float = 1e-4
    loss: Literal["group", "grpo", "dr_grpo", "dapo", "gspo"] = "group"
    loss_length: float = 64.0
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float = 3.0
    drop_below: float = 1e-4
    drop_above: float = 100.0
    drop_gap: float = 0.7
    beta: float = 0.0
    kl_ratio_max: float = 2.0
    router_beta: float = 0.0
    sft_weight: float = 1.0
    expert_lr_ratio: float = 1.0
    max_grad_norm: float = 1.0
