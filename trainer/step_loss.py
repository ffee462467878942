"""The loss of one pack: policy, divergences and targets, weighted; its numbers go into the tally.

Formulas: docs/algorithms.md.

Letters: A actions of a pack, B examples of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from contract import faults
from contract.groups import TrainOptions
from trainer.model.upload import uploaded
from trainer.rl.loss import (
    corrected_divergence,
    is_kept,
    k3_divergence,
    log_ratios,
    policy_loss,
    row_means,
)
from trainer.scoring import Scores, router_divergence
from trainer.step_plan import Example
from trainer.tally import Tally


def pack_loss(
    examples: Sequence[Example],
    scores: Scores,
    reference: Scores | None,
    row_A: Tensor,
    options: TrainOptions,
    tally: Tally,
) -> Tensor:
    """The weighted loss of one pack.

    Args:
        scores: By the weights that are trained; carries the gradient.
        reference: By the base model; None where no divergence is asked for.
        row_A: [A] the example of each action.
    """
    policy_A, device = scores.action_A, row_A.device
    is_rl_A = uploaded([e.is_rl for e in examples], device)[row_A]
    weight_B = uploaded([e.weight for e in examples], device, policy_A.dtype)
    advantage_B = uploaded([e.advantage for e in examples], device, policy_A.dtype)
    known_A, sampled_A = _sampling_logprobs(examples, policy_A.detach())
    log_ratio_A = log_ratios(policy_A, sampled_A)  # 0 for targets, which nobody sampled

    rl_loss_A, is_clipped_A = _policy_losses(log_ratio_A, advantage_B, row_A, options)
    if reference is not None:
        rl_loss_A = rl_loss_A + _pulls(scores, reference, log_ratio_A, is_rl_A, options, tally)
    is_kept_B = is_kept(log_ratio_A, row_A, len(examples), options)
    loss_A = torch.where(is_rl_A, rl_loss_A, -policy_A)
    loss_A = torch.where(is_kept_B[row_A], loss_A, 0.0)
    if faults.spoiled("train.loss"):
        loss_A = loss_A * torch.nan
    loss_A = weight_B[row_A] * loss_A
    loss = loss_A.sum()

    value = float(loss.detach())
    tally.loss += value
    if not math.isfinite(value):
        tally.non_finite_groups |= _non_finite_groups(examples, loss_A.detach(), row_A)
    tally.count_ratios(
        log_ratio_A.detach()[is_rl_A], is_clipped_A[is_rl_A], is_known_A=known_A[is_rl_A]
    )
    tally.count_entropy(scores.entropy_A[is_rl_A], scores.is_draw_A3[is_rl_A])
    kept = is_kept_B.tolist()
    tally.num_dropped += kept.count(False)
    tally.has_signal |= any(
        keep and has_signal(example, options) for keep, example in zip(kept, examples, strict=True)
    )
    _count_targets(examples, policy_A.detach(), row_A, tally)
    return loss


def _non_finite_groups(examples: Sequence[Example], loss_A: Tensor, row_A: Tensor) -> set[int]:
    """The groups whose part of a loss is not finite; all, if only their sum is none."""
    loss_B = loss_A.new_zeros(len(examples)).index_add(0, row_A, loss_A)
    found = {
        example.group
        for example, is_finite in zip(examples, torch.isfinite(loss_B).tolist(), strict=True)
        if not is_finite
    }
    return found or {example.group for example in examples}


def has_signal(example: Example, options: TrainOptions) -> bool:
    """Whether an example can move the weights."""
    if example.weight == 0.0:
        return False
    pulls = options.beta > 0.0 or options.router_beta > 0.0
    return not example.is_rl or example.advantage != 0.0 or pulls


def _policy_losses(
    log_ratio_A: Tensor, advantage_B: Tensor, row_A: Tensor, options: TrainOptions
) -> tuple[Tensor, Tensor]:
    """[A] the loss of each action, or of its rollout, and whether a clip cut it."""
    if options.loss != "gspo":
        return policy_loss(log_ratio_A, advantage_B[row_A], options)
    log_ratio_B = row_means(log_ratio_A, row_A, len(advantage_B))
    loss_B, is_clipped_B = policy_loss(log_ratio_B, advantage_B, options)
    return loss_B[row_A], is_clipped_B[row_A]


def _pulls(
    scores: Scores,
    reference: Scores,
    log_ratio_A: Tensor,
    is_rl_A: Tensor,
    options: TrainOptions,
    tally: Tally,
) -> Tensor:
    """[A] the pull of each action to the base model: of what was drawn, and of the routers."""
    divergence_A3 = torch.where(
        scores.is_draw_A3, k3_divergence(scores.terms_A3, reference.terms_A3), 0.0
    )
    tally.count_divergence(divergence_A3.detach()[is_rl_A], scores.is_draw_A3[is_rl_A])
    pull_A = torch.zeros_like(log_ratio_A)
    if options.beta > 0.0:
        pull_A = options.beta * corrected_divergence(
            divergence_A3.sum(-1), log_ratio_A, options.kl_ratio_max
        )
    if scores.router_LAE is not None and reference.router_LAE is not None:
        router_A = router_divergence(scores.router_LAE, reference.router_LAE)
        tally.router_kl.add(router_A)
        if options.router_beta > 0.0:
            pull_A = pull_A + options.router_beta * router_A
    return pull_A


def _sampling_logprobs(examples: Sequence[Example], policy_A: Tensor) -> tuple[Tensor, Tensor]:
    """Where the sampler's log-probabilities are known, and they, or else the current policy's."""
    known: list[bool] = []
    values: list[float] = []
    for example in examples:
        for action in example.row.actions:
            known.append(example.has_logprobs)
            values.append(action.logprob or 0.0)
    known_A = uploaded(known, policy_A.device)
    given_A = uploaded(values, policy_A.device, policy_A.dtype)
    return known_A, torch.where(known_A, given_A, policy_A)


def _count_targets(
    examples: Sequence[Example], policy_A: Tensor, row_A: Tensor, tally: Tally
) -> None:
    if all(example.is_rl for example in examples):
        return
    nll_B = policy_A.new_zeros(len(examples)).index_add(0, row_A, -policy_A).tolist()
    for example, nll in zip(examples, nll_B, strict=True):
        if not example.is_rl:
            tally.count_target(example.group, nll / example.num_draws)
