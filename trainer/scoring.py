"""Log-probabilities of given actions, with gradients where they are wanted.

The same masks and heads as in sampling, at temperature 1, without top-p, in float32 or better.

Letters: A actions, D width, V vocabulary, K bins, E experts, L expert layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from trainer.adapters.lora import Adapter
from trainer.model.moondream import Moondream
from trainer.model.upload import uploaded
from trainer.packing import Pack
from trainer.sequence import Action, Mask


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a model says of the actions of a pack.

    Attributes:
        token_A: [A] log-probability of the token under its mask; exactly 0 where it is forced.
        bins_A2: [A, 2] log-probabilities of the bins: (coordinate, 0), (width, height), or zeros.
        is_draw_A3: [A, 3] which of (token, first bin, second bin) were drawn.
        entropy_A: [A] of the distributions that token and bins were drawn from, added up, without
            gradient; 0 where it was not asked for.
        router_LAE: Router logits at the positions of the actions, or None without experts.
    """

    token_A: Tensor
    bins_A2: Tensor
    is_draw_A3: Tensor
    entropy_A: Tensor
    router_LAE: Tensor | None

    @property
    def action_A(self) -> Tensor:  # noqa: N802 (shape suffix)
        """[A] log-probability of the whole action."""
        return self.token_A + self.bins_A2.sum(-1)

    @property
    def terms_A3(self) -> Tensor:  # noqa: N802 (shape suffix)
        """[A, 3] the token's and the bins' log-probabilities beside one another."""
        return torch.cat((self.token_A[:, None], self.bins_A2), dim=-1)


def score(
    model: Moondream,
    pack: Pack,
    adapter: Adapter | None,
    *,
    recompute: bool = False,
    with_entropy: bool = False,
) -> Scores:
    """Run the text model over a pack and read the log-probabilities of its actions.

    Args:
        recompute: Keep only each layer's input for the gradient.
    """
    router_logits: list[Tensor] = []
    hidden_1ED = model.text(
        pack.embeds_1TD,
        positions_BT=pack.tree.positions_1T,
        tree=pack.tree,
        adapter=adapter,
        router_logits=router_logits,
        recompute=recompute,
    )
    hidden_AD = hidden_1ED[0].index_select(0, pack.end_A)
    router_LAE = None
    if router_logits:
        router_LAE = torch.stack(
            [logits[0].index_select(0, pack.end_A) for logits in router_logits]
        )
    entropy_A = widen(hidden_AD.new_zeros(len(pack.actions)))
    entropies = entropy_A if with_entropy else None
    return Scores(
        token_A=_token_logprobs(model, hidden_AD, pack.actions, entropies),
        bins_A2=_bin_logprobs(model, hidden_AD, pack.actions, entropies),
        entropy_A=entropy_A,
        is_draw_A3=_drawn(pack.actions, hidden_AD.device),
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


def _token_logprobs(
    model: Moondream, hidden_AD: Tensor, actions: Sequence[Action], entropies: Tensor | None
) -> Tensor:
    """[A] log-probability of each action's token under its mask; entropies are added up."""
    by_mask: dict[Mask, list[int]] = {}
    for index, action in enumerate(actions):
        if not action.mask.is_forced:
            by_mask.setdefault(action.mask, []).append(index)
    result_A = widen(hidden_AD.new_zeros(len(actions)))
    for mask, indexes in by_mask.items():
        at = uploaded(indexes, hidden_AD.device)
        tokens = [actions[i].token for i in indexes]
        if mask.allowed is not None:
            tokens = [mask.allowed.index(token) for token in tokens]
        chosen = uploaded(tokens, hidden_AD.device)
        logprobs = torch.log_softmax(token_logits(model, hidden_AD[at], mask), dim=-1)
        result_A = result_A.index_copy(0, at, logprobs.gather(-1, chosen[:, None]).squeeze(-1))
        if entropies is not None:
            entropies.index_add_(0, at, _entropy(logprobs))
    return result_A


def _bin_logprobs(
    model: Moondream, hidden_AD: Tensor, actions: Sequence[Action], entropies: Tensor | None
) -> Tensor:
    """[A, 2] log-probabilities of each action's bins; zero where there is none."""
    result_A2 = widen(hidden_AD.new_zeros(len(actions), 2))
    for num_bins in (1, 2):
        indexes = [i for i, action in enumerate(actions) if len(action.bins) == num_bins]
        if not indexes:
            continue
        at = uploaded(indexes, hidden_AD.device)
        chosen = uploaded([actions[i].bins for i in indexes], hidden_AD.device)
        if num_bins == 1:
            logits = model.region.coord_logits(hidden_AD[at])[:, None]
        else:
            logits = model.region.size_logits(hidden_AD[at])
        logprobs = torch.log_softmax(widen(logits), dim=-1)
        values = logprobs.gather(-1, chosen[..., None]).squeeze(-1)
        result_A2 = result_A2.index_copy(0, at, functional.pad(values, (0, 2 - num_bins)))
        if entropies is not None:
            entropies.index_add_(0, at, _entropy(logprobs).sum(-1))
    return result_A2


def _entropy(logprobs: Tensor) -> Tensor:
    """-sum p log p over the last axis, where p may be 0; without gradient."""
    return torch.special.entr(logprobs.detach().exp()).sum(-1)


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
    return uploaded(flags, device, torch.bool).view(-1, 3)


def widen(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
