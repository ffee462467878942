"""The policy loss of one action: importance ratio, clips, and the pull to the base.

An action is one position: its token under the skill's mask and the bins drawn with it
(model-facts.md section 6). How actions are averaged is in `trainer.rl.weights`.

Letters: A actions, B rollouts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from contract.groups import TrainOptions

MAX_LOG_RATIO = 20.0


def log_ratios(policy_logprobs: Tensor, sampling_logprobs: Tensor) -> Tensor:
    """clamp(log pi - log mu, -20, 20), the logarithm of the importance ratio rho.

    Args:
        policy_logprobs: log pi, from the weights being trained; carries the gradient.
        sampling_logprobs: log mu, from the policy when it sampled.
    """
    return (policy_logprobs - sampling_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def row_means(values_A: Tensor, row_A: Tensor, num_rows: int) -> Tensor:
    """[B] the mean over the actions of each rollout; 0 for one without any."""
    sums_B = values_A.new_zeros(num_rows).index_add(0, row_A, values_A)
    counts_B = values_A.new_zeros(num_rows).index_add(0, row_A, torch.ones_like(values_A))
    return sums_B / counts_B.clamp(min=1)


def policy_loss(
    log_ratios: Tensor, advantages: Tensor, options: TrainOptions
) -> tuple[Tensor, Tensor]:
    """The loss of every action (or of every rollout, for `gspo`), and whether a clip cut it.

        l   = -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A)
        l   = min(l, -dual_clip A)                                   where A < 0

    Source: PPO, arXiv:1707.06347; separate bounds, arXiv:2503.14476; dual clip, arXiv:1912.09729.
    """
    ratios = log_ratios.exp()
    clipped = ratios.clamp(1.0 - options.clip_low, 1.0 + options.clip_high)
    plain_loss = -ratios * advantages
    loss = torch.maximum(plain_loss, -clipped * advantages)
    bounded = torch.where(
        advantages < 0, torch.minimum(loss, -options.dual_clip * advantages), loss
    )
    is_clipped = (loss > plain_loss) | (bounded < loss)
    return bounded, is_clipped.detach()


def is_kept(log_ratio_A: Tensor, row_A: Tensor, num_rows: int, options: TrainOptions) -> Tensor:
    """[B] whether a rollout is close enough to the policy that is trained, else it is left out.

        keep = every rho in (drop_below, drop_above)  and  |mean of log rho| < drop_gap

    Such gaps come from rollouts that are many steps old, or from a sampler that rounds otherwise.
    Source: sequence masks as in arXiv:2510.11370 and SkyRL; bounds from performance.md 4.2.
    """
    ratio_A = log_ratio_A.detach().exp()
    is_off_A = (ratio_A <= options.drop_below) | (ratio_A >= options.drop_above)
    num_off_B = row_means(is_off_A.to(ratio_A.dtype), row_A, num_rows)
    gap_B = row_means(log_ratio_A.detach(), row_A, num_rows).abs()
    return (num_off_B == 0) & ~(gap_B >= options.drop_gap)  # what is no number is kept, and seen


def k3_divergence(policy_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Estimate of KL(policy || reference) from single draws of the policy.

        exp(d) - d - 1,  d = log ref - log pi

    Never negative, zero where both agree. Source: J. Schulman, "Approximating KL divergence", 2020.
    """
    difference = (reference_logprobs - policy_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.expm1(difference) - difference


def corrected_divergence(divergence_A: Tensor, log_ratio_A: Tensor, ratio_max: float) -> Tensor:
    """The divergence as it enters the loss: min(rho, ratio_max) k3, gradient through both.

    The gradient of k3 alone is biased where draws are not of the policy, and even where they are;
    the ratio mends that. Source: arXiv:2512.02556, 2512.21852.
    """
    return log_ratio_A.exp().clamp(max=ratio_max) * divergence_A
