"""Draws: tokens and bins from hidden states, for rows of any request.

Order at each position (model-facts.md section 6): float32 logits, the skill's mask, temperature,
top-p, one draw; bins are drawn from the same hidden state, independently. What is drawn for rollout
i at position t depends on (seed, i, t) alone. Log-probabilities are taken at temperature 1, without
top-p.

Letters: N rows, D width, V choices, B bins of a row, K choices of a bin.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from contract.skills import FinishReason
from trainer.model.moondream import Moondream
from trainer.philox import uniforms
from trainer.scoring import token_logits, widen
from trainer.sequence import Action, Mask
from trainer.skills.base import Grammar

GREEDY_BELOW = 1e-4

TOKEN, FIRST_BIN, SECOND_BIN = 0, 1, 2
"""Which of the four uniforms of a position serves which draw."""

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Heat:
    """How sharply to draw: temperature below 1e-4 takes the likeliest; top_p in (0, 1]."""

    temperature: float
    top_p: float


@dataclass(kw_only=True)
class Rollout:
    """One answer while it grows: the `index`-th of its request, which gave `seed`."""

    index: int
    seed: int
    heat: Heat
    grammar: Grammar
    actions: list[Action] = field(default_factory=list)
    finish_reason: FinishReason | None = None


def draw(model: Moondream, rollouts: Sequence[Rollout], hidden_ND: Tensor) -> None:
    """Draw one action for every rollout and tell its grammar."""
    device = hidden_ND.device
    uniform_N4 = uniforms(
        [rollout.seed for rollout in rollouts],
        torch.tensor([rollout.index for rollout in rollouts], device=device),
        torch.tensor([len(rollout.actions) for rollout in rollouts], device=device),
    )
    masks = [rollout.grammar.mask() for rollout in rollouts]
    heats = [rollout.heat for rollout in rollouts]
    tokens, logprobs = _draw_tokens(model, masks, heats, hidden_ND, uniform_N4[:, TOKEN])
    bins, bin_logprobs = _draw_bins(model, tokens, heats, hidden_ND, uniform_N4)
    for i, rollout in enumerate(rollouts):
        action = Action(
            token=tokens[i],
            mask=masks[i],
            bins=bins[i],
            token_logprob=logprobs[i],
            bin_logprobs=bin_logprobs[i],
        )
        rollout.actions.append(action)
        rollout.grammar.push(action.token)


def choose(logits_NV: Tensor, uniform_N: Tensor, *, temperature: float, top_p: float) -> Tensor:
    """Draw one index per row by inversion of the cumulative distribution.

    Args:
        logits_NV: [N, V] float32 or better, -inf where nothing may be drawn.
        uniform_N: [N] float64 in (0, 1).
        temperature: Below 1e-4 the largest logit is taken.
        top_p: By falling probability an entry stays while the sum before it is <= top_p.

    Returns:
        [N] int64.
    """
    if temperature < GREEDY_BELOW:
        return logits_NV.argmax(-1)
    probability_NV = torch.softmax(logits_NV.double() / temperature, dim=-1)
    if top_p < 1.0:
        sorted_NV, order_NV = probability_NV.sort(dim=-1, descending=True, stable=True)
        before_NV = functional.pad(sorted_NV.cumsum(-1)[:, :-1], (1, 0))
        sorted_NV = sorted_NV.masked_fill(before_NV > top_p, 0.0)
        probability_NV = torch.zeros_like(probability_NV).scatter(-1, order_NV, sorted_NV)
    cumulative_NV = probability_NV.cumsum(-1)
    threshold_N1 = (uniform_N * cumulative_NV[:, -1])[:, None]
    index_N = torch.searchsorted(cumulative_NV, threshold_N1, right=True).squeeze(-1)
    return torch.minimum(index_N, _last_possible(probability_NV))


def _last_possible(probability_NV: Tensor) -> Tensor:
    """The last index with any probability: where rounding would carry a draw past the end."""
    slots = torch.arange(probability_NV.shape[-1], device=probability_NV.device)
    return torch.where(probability_NV > 0, slots, 0).amax(-1)


def _draw_tokens(
    model: Moondream,
    masks: Sequence[Mask],
    heats: Sequence[Heat],
    hidden_ND: Tensor,
    uniform_N: Tensor,
) -> tuple[list[int], list[float]]:
    """Tokens and their log-probabilities, rows of equal mask and heat together."""
    tokens = [0] * len(masks)
    logprobs = [0.0] * len(masks)
    for (mask, heat), at in _alike(list(zip(masks, heats, strict=True))):
        if mask.allowed is not None and mask.is_forced:
            for i in at:
                tokens[i] = mask.allowed[0]
            continue
        logits_NV = token_logits(model, hidden_ND[at], mask)
        chosen_N = choose(logits_NV, uniform_N[at], temperature=heat.temperature, top_p=heat.top_p)
        logprob_N = logits_NV.log_softmax(-1).gather(-1, chosen_N[:, None]).squeeze(-1)
        for i, chosen, logprob in zip(at, chosen_N.tolist(), logprob_N.tolist(), strict=True):
            tokens[i] = chosen if mask.allowed is None else mask.allowed[chosen]
            logprobs[i] = logprob
    return tokens, logprobs


def _draw_bins(
    model: Moondream,
    tokens: Sequence[int],
    heats: Sequence[Heat],
    hidden_ND: Tensor,
    uniform_N4: Tensor,
) -> tuple[list[tuple[int, ...]], list[tuple[float, ...]]]:
    """Bins of the rows that drew a coordinate or a size, and their log-probabilities."""
    bins: list[tuple[int, ...]] = [()] * len(tokens)
    logprobs: list[tuple[float, ...]] = [()] * len(tokens)
    ids = model.config.tokenizer
    spatial = (ids.coord_id, ids.size_id)
    kinds = [(t if t in spatial else None, h) for t, h in zip(tokens, heats, strict=True)]
    for (token, heat), at in _alike(kinds):
        if token is None:
            continue
        if token == ids.coord_id:
            logits_NBK = widen(model.region.coord_logits(hidden_ND[at])[:, None])
        else:
            logits_NBK = widen(model.region.size_logits(hidden_ND[at]))
        num_bins = logits_NBK.shape[1]
        uniform_NB = uniform_N4[at][:, FIRST_BIN : FIRST_BIN + num_bins]
        chosen_NB = choose(
            logits_NBK.flatten(0, 1),
            uniform_NB.flatten(),
            temperature=heat.temperature,
            top_p=heat.top_p,
        ).view(-1, num_bins)
        logprob_NB = logits_NBK.log_softmax(-1).gather(-1, chosen_NB[..., None]).squeeze(-1)
        for i, chosen, logprob in zip(at, chosen_NB.tolist(), logprob_NB.tolist(), strict=True):
            bins[i], logprobs[i] = tuple(chosen), tuple(logprob)
    return bins, logprobs


def _alike(kinds: Sequence[T]) -> Iterator[tuple[T, list[int]]]:
    """Each distinct kind with the indexes of its rows."""
    for kind in dict.fromkeys(kinds):
        yield kind, [i for i, other in enumerate(kinds) if other == kind]
