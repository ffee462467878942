"""Answers from the model: all rollouts of a request grow from one prefix, step by step.

Order at each position (model-facts.md section 6): float32 logits, the skill's mask, temperature,
top-p, one draw; bins are drawn from the same hidden state, independently. What is drawn for rollout
i at position t depends on (seed, i, t) alone. Log-probabilities are taken at temperature 1, without
top-p.

Letters: N rows still running, D width, V choices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from contract.skills import FinishReason, Settings
from trainer.adapters.lora import Adapter
from trainer.batching import embed_elements
from trainer.model.decode_cache import DecodeCache
from trainer.model.moondream import Moondream
from trainer.philox import uniforms
from trainer.prefill import Prefix
from trainer.scoring import token_logits, widen
from trainer.sequence import Action, Mask, Trace
from trainer.skills.base import Grammar

GREEDY_BELOW = 1e-4

TOKEN, FIRST_BIN, SECOND_BIN = 0, 1, 2
"""Which of the four uniforms of a position serves which draw."""


@dataclass
class _Running:
    """One rollout while it grows."""

    index: int
    grammar: Grammar
    actions: list[Action] = field(default_factory=list)
    finish_reason: FinishReason | None = None


@torch.no_grad()
def sample(
    model: Moondream,
    adapter: Adapter | None,
    prefix: Prefix,
    new_grammar: Callable[[], Grammar],
    settings: Settings,
    *,
    num_rollouts: int,
    seed: int,
) -> tuple[Trace, ...]:
    """Sample answers to one prompt.

    Args:
        prefix: Of the same model and adapter; it is shared by the rollouts and left as it is.
        new_grammar: A fresh grammar for each rollout.
        settings: With temperature below 1e-4 all rollouts are equal and computed once.

    Raises:
        ValueError: The prompt leaves no room in the context.
    """
    num_room = model.config.text.max_context - prefix.length
    if num_room < 1:
        raise ValueError(
            f"the prompt takes {prefix.length} of {model.config.text.max_context} positions"
        )
    is_greedy = settings.temperature < GREEDY_BELOW
    running = [_Running(i, new_grammar()) for i in range(1 if is_greedy else num_rollouts)]
    everyone = list(running)
    limit = running[0].grammar.most_actions(settings, num_room)
    hidden_ND = prefix.last_hidden_D.expand(len(running), -1)
    cache = DecodeCache.continuing([(prefix.cache, len(running))], capacity=limit)
    divisor = model.config.region.coord_divisor
    while True:
        _draw(model, running, hidden_ND, settings, seed)
        for rollout in running:
            _judge(rollout, model.config.tokenizer.eos_id, limit)
        kept = [i for i, rollout in enumerate(running) if rollout.finish_reason is None]
        if not kept:
            break
        if len(kept) < len(running):
            running = [running[i] for i in kept]
            cache = cache.select(kept)
        elements = [rollout.actions[-1].element(coord_divisor=divisor) for rollout in running]
        hidden_N1D = model.text(
            embed_elements(model, elements),
            positions_BT=cache.positions_B1,
            cache=cache,
            adapter=adapter,
        )
        hidden_ND = hidden_N1D[:, 0]
    traces = tuple(_finished(rollout) for rollout in everyone)
    return traces * num_rollouts if is_greedy else traces


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


def _draw(
    model: Moondream,
    running: Sequence[_Running],
    hidden_ND: Tensor,
    settings: Settings,
    seed: int,
) -> None:
    """Draw one action for every running rollout and tell its grammar."""
    device = hidden_ND.device
    uniform_N4 = uniforms(
        seed,
        torch.tensor([rollout.index for rollout in running], device=device),
        torch.tensor([len(rollout.actions) for rollout in running], device=device),
    )
    masks = [rollout.grammar.mask() for rollout in running]
    tokens, token_logprobs = _draw_tokens(model, masks, hidden_ND, uniform_N4[:, TOKEN], settings)
    ids = model.config.tokenizer
    bins, bin_logprobs = [()] * len(running), [()] * len(running)
    for token_id, logits_of in (
        (ids.coord_id, lambda h: model.region.coord_logits(h)[:, None]),
        (ids.size_id, model.region.size_logits),
    ):
        at = [i for i, token in enumerate(tokens) if token == token_id]
        if not at:
            continue
        logits_NBK = widen(logits_of(hidden_ND[at]))
        num_bins = logits_NBK.shape[1]
        uniform_NB = uniform_N4[at][:, FIRST_BIN : FIRST_BIN + num_bins]
        chosen_NB = choose(
            logits_NBK.flatten(0, 1),
            uniform_NB.flatten(),
            temperature=settings.temperature,
            top_p=settings.top_p,
        ).view(-1, num_bins)
        logprob_NB = logits_NBK.log_softmax(-1).gather(-1, chosen_NB[..., None]).squeeze(-1)
        for i, chosen, logprob in zip(at, chosen_NB.tolist(), logprob_NB.tolist(), strict=True):
            bins[i], bin_logprobs[i] = tuple(chosen), tuple(logprob)
    for i, rollout in enumerate(running):
        action = Action(
            token=tokens[i],
            mask=masks[i],
            bins=bins[i],
            token_logprob=token_logprobs[i],
            bin_logprobs=bin_logprobs[i],
        )
        rollout.actions.append(action)
        rollout.grammar.push(action.token)


def _draw_tokens(
    model: Moondream,
    masks: Sequence[Mask],
    hidden_ND: Tensor,
    uniform_N: Tensor,
    settings: Settings,
) -> tuple[list[int], list[float]]:
    """Tokens and their log-probabilities, rows of equal mask together."""
    tokens = [0] * len(masks)
    logprobs = [0.0] * len(masks)
    for mask in dict.fromkeys(masks):
        at = [i for i, other in enumerate(masks) if other == mask]
        if mask.allowed is not None and mask.is_forced:
            for i in at:
                tokens[i] = mask.allowed[0]
            continue
        logits_NV = token_logits(model, hidden_ND[at], mask)
        chosen_N = choose(
            logits_NV, uniform_N[at], temperature=settings.temperature, top_p=settings.top_p
        )
        logprob_N = logits_NV.log_softmax(-1).gather(-1, chosen_N[:, None]).squeeze(-1)
        for i, chosen, logprob in zip(at, chosen_N.tolist(), logprob_N.tolist(), strict=True):
            tokens[i] = chosen if mask.allowed is None else mask.allowed[chosen]
            logprobs[i] = logprob
    return tokens, logprobs


def _judge(rollout: _Running, eos_id: int, limit: int) -> None:
    """Set the finish reason of a rollout that has ended."""
    if rollout.actions[-1].token == eos_id:
        rollout.finish_reason = FinishReason.STOP
    elif len(rollout.actions) >= limit:
        rollout.finish_reason = FinishReason.LENGTH


def _finished(rollout: _Running) -> Trace:
    assert rollout.finish_reason is not None
    return Trace(actions=tuple(rollout.actions), finish_reason=rollout.finish_reason)
