"""Log-probabilities of given actions, with gradients where they are wanted.

The same masks and heads as in sampling, at temperature 1, without top-p, in float32 or better.

Letters: A actions, D width, V vocabulary, K bins, E experts, L expert layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.adapters.lora import Adapter
from trainer.batching import Batch
from trainer.model.moondream import Moondream
from trainer.sequence import Action, Mask


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a model says of the actions of a batch.

    Attributes:
        token_A: [A] log-probability of the token under its mask; exactly 0 where it is forced.
        bins_A2: [A, 2] log-probabilities of the bins: (coordinate, 0), (width, height), or zeros.
        is_draw_A3: [A, 3] which of (token, first bin, second bin) were drawn.
        router_LAE: Router logits at the positions of the actions, or None without experts.
    """

    token_A: Tensor
    bins_A2: Tensor
    is_draw_A3: Tensor
    router_LAE: Tensor | None

    @property
    def action_A(self) -> Tensor:  # noqa: N802 (shape suffix)
        """[A] log-probability of the whole action."""
        return self.token_A + self.bins_A2.sum(-1)

    @property
    def terms_A3(self) -> Tensor:  # noqa: N802 (shape suffix)
        """[A, 3] the token's and the bins' log-probabilities beside one another."""
        return torch.cat((self.token_A[:, None], self.bins_A2), dim=-1)


def score(model: Moondream, batch: Batch, adapter: Adapter | None) -> Scores:
    """Run the text model over a batch and read the log-probabilities of its actions."""
    router_logits: list[Tensor] = []
    hidden_BTD = model.text(
        batch.embeds_BTD,
        positions_BT=batch.positions_1T,
        attention_mask_BTS=batch.mask_1TT,
        adapter=adapter,
        router_logits=router_logits,
    )
    hidden_AD = hidden_BTD[batch.row_A, batch.at_A]
    router_LAE = None
    if router_logits:
        router_LAE = torch.stack([logits[batch.row_A, batch.at_A] for logits in router_logits])
    return Scores(
        token_A=token_logprobs(model, hidden_AD, batch.actions),
        bins_A2=bin_logprobs(model, hidden_AD, batch.actions),
        is_draw_A3=_drawn(batch.actions, hidden_AD.device),
        router_LAE=router_LAE,
    )


def token_logits(model: Moondream, hidden_ND: Tensor, mask: Mask) -> Tensor:
    """Float32 (or better) logits under a mask.

    Returns:
        [N, V] with -inf where nothing may be drawn, or [N, len(allowed)] in the order of `allowed`.
    """
    if mask.allowed is not None:
        rows = torch.tensor(mask.allowed, device=hidden_ND.device)
        return widen(model.text.logits(hidden_ND, rows=rows))
    logits_NV = widen(model.text.logits(hidden_ND))
    if mask.suppressed:
        forbidden = torch.tensor(mask.suppressed, device=hidden_ND.device)
        logits_NV = logits_NV.index_fill(-1, forbidden, -torch.inf)
    return logits_NV


def token_logprobs(model: Moondream, hidden_AD: Tensor, actions: Sequence[Action]) -> Tensor:
    """[A] log-probability of each action's token under its mask."""
    by_mask: dict[Mask, list[int]] = {}
    for index, action in enumerate(actions):
        if not action.mask.is_forced:
            by_mask.setdefault(action.mask, []).append(index)
    result_A = widen(hidden_AD.new_zeros(len(actions)))
    for mask, indexes in by_mask.items():
        at = torch.tensor(indexes, device=hidden_AD.device)
        tokens = [actions[i].token for i in indexes]
        if mask.allowed is not None:
            tokens = [mask.allowed.index(token) for token in tokens]
        chosen = torch.tensor(tokens, device=hidden_AD.device)
        logprobs = torch.log_softmax(token_logits(model, hidden_AD[at], mask), dim=-1)
        result_A = result_A.index_copy(0, at, logprobs.gather(-1, chosen[:, None]).squeeze(-1))
    return result_A


def bin_logprobs(model: Moondream, hidden_AD: Tensor, actions: Sequence[Action]) -> Tensor:
    """[A, 2] log-probabilities of each action's bins; zero where there is none."""
    result_A2 = widen(hidden_AD.new_zeros(len(actions), 2))
    coords = [(i, action.bins) for i, action in enumerate(actions) if len(action.bins) == 1]
    sizes = [(i, action.bins) for i, action in enumerate(actions) if len(action.bins) == 2]
    if coords:
        at = torch.tensor([i for i, _ in coords], device=hidden_AD.device)
        chosen = torch.tensor([bins for _, bins in coords], device=hidden_AD.device)
        logprobs = torch.log_softmax(widen(model.region.coord_logits(hidden_AD[at])), dim=-1)
        values = logprobs.gather(-1, chosen)
        result_A2 = result_A2.index_copy(0, at, torch.cat((values, torch.zeros_like(values)), -1))
    if sizes:
        at = torch.tensor([i for i, _ in sizes], device=hidden_AD.device)
        chosen = torch.tensor([bins for _, bins in sizes], device=hidden_AD.device)
        logprobs = torch.log_softmax(widen(model.region.size_logits(hidden_AD[at])), dim=-1)
        values = logprobs.gather(-1, chosen[..., None]).squeeze(-1)
        result_A2 = result_A2.index_copy(0, at, values)
    return result_A2


def router_divergence(policy_LAE: Tensor, reference_LAE: Tensor) -> Tensor:
    """[A] KL(softmax(policy) || softmax(reference)) of the routers, mean over the expert layers."""
    policy = torch.log_softmax(widen(policy_LAE), dim=-1)
    reference = torch.log_softmax(widen(reference_LAE), dim=-1)
    return (policy.exp() * (policy - reference)).sum(-1).clamp(min=0.0).mean(0)


def _drawn(actions: Sequence[Action], device: torch.device) -> Tensor:
    flags = [
        (not action.mask.is_forced, len(action.bins) > 0, len(action.bins) > 1)
        for action in actions
    ]
    return torch.tensor(flags, dtype=torch.bool, device=device).view(-1, 3)


def widen(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
