"""The policy loss of one action: clipped importance ratio, dual clip, pull to the base.

An action is one position: its token under the skill's mask and the bins drawn with it
(model-facts.md section 6). Everything here is elementwise; who is averaged over what is decided in
`trainer.train_step`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from contract.groups import TrainOptions

MAX_LOG_RATIO = 20.0


def policy_loss(
    policy_logprobs_A: Tensor,
    sampling_logprobs_A: Tensor,
    advantages_A: Tensor,
    options: TrainOptions,
) -> tuple[Tensor, Tensor]:
    """The loss of every action, and whether the clip cut its gradient.

        rho = exp(clamp(log pi - log mu, -20, 20))
        l   = -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A)
        l   = min(l, -dual_clip A)                                   where A < 0

    Args:
        policy_logprobs_A: [A] log pi, from the weights being trained; carries the gradient.
        sampling_logprobs_A: [A] log mu, from the policy when it sampled.
        advantages_A: [A] the advantage of each action's rollout.

    Returns:
        [A] losses and [A] booleans.

    Source: PPO, arXiv:1707.06347; separate bounds, arXiv:2503.14476; dual clip, arXiv:1912.09729.
    """
    log_ratio_A = (policy_logprobs_A - sampling_logprobs_A).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio_A = log_ratio_A.exp()
    clipped_A = ratio_A.clamp(1.0 - options.clip_low, 1.0 + options.clip_high)
    plain_loss_A = -ratio_A * advantages_A
    loss_A = torch.maximum(plain_loss_A, -clipped_A * advantages_A)
    is_negative_A = advantages_A < 0
    bound_A = -options.dual_clip * advantages_A
    bounded_A = torch.where(is_negative_A, torch.minimum(loss_A, bound_A), loss_A)
    is_clipped_A = (loss_A > plain_loss_A) | (bounded_A < loss_A)
    return bounded_A, is_clipped_A.detach()


def k3_divergence(policy_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Estimate of KL(policy || reference) from single draws of the policy.

        exp(d) - d - 1,  d = log ref - log pi

    Never negative, zero where both agree. Source: J. Schulman, "Approximating KL divergence", 2020.
    """
    difference = (reference_logprobs - policy_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.expm1(difference) - difference
