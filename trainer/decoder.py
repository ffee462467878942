"""The decoder: answers of any requests, skills and adapters grow together, one position a tick.

    decoder.add(request)             joins at the next tick
    decoder.tick()                   one position for every rollout; returns what has ended

Each rollout is what it would be alone, whatever else shares the ticks: draws depend on (seed,
rollout, position), rows of a prompt read its keys and values in place, and every row has its own
adapter. A request leaves when its last rollout has ended; ended rollouts leave at once.

Letters: N rows, D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from contract.skills import FinishReason, Settings
from trainer.adapters.lora import Adapter
from trainer.adapters.stack import AdapterStack
from trainer.batching import embed_elements
from trainer.drawing import GREEDY_BELOW, Heat, Rollout, draw
from trainer.model.decode_cache import DecodeCache
from trainer.model.lora_hook import TextAdapter
from trainer.model.moondream import Moondream
from trainer.prefill import Prefix
from trainer.sequence import Trace
from trainer.skills.base import Grammar

Ticket = int


@dataclass(frozen=True, kw_only=True)
class DecodeRequest:
    """Answers wanted to one prompt.

    Attributes:
        prefix: The prompt after its prefill, by the same adapter; it is left as it is.
        adapter: None for the base model.
        new_grammar: A fresh grammar for each rollout.
        settings: With temperature below 1e-4 all rollouts are equal and computed once.
        num_rollouts: At least one.
        seed: 64 bits.
    """

    prefix: Prefix
    adapter: Adapter | None
    new_grammar: Callable[[], Grammar]
    settings: Settings
    num_rollouts: int
    seed: int


@dataclass(kw_only=True)
class _Group:
    """The rollouts of one request."""

    ticket: Ticket
    request: DecodeRequest
    rollouts: list[Rollout]
    limit: int


@dataclass(kw_only=True)
class _Row:
    """A rollout that is still growing."""

    group: _Group
    rollout: Rollout


class Decoder:
    """Rows that grow together."""

    def __init__(self, model: Moondream):
        self._model = model
        self._tickets = itertools.count()
        self._rows: list[_Row] = []
        self._cache: DecodeCache | None = None
        self._adapter: TextAdapter | None = None
        self._hidden_ND: Tensor | None = None

    @property
    def num_rows(self) -> int:
        """Rollouts that are still growing."""
        return len(self._rows)

    def add(self, request: DecodeRequest) -> Ticket:
        """Let a request join.

        Raises:
            ValueError: Its prompt leaves no room in the context.
        """
        group = self._group(request)
        rows = [_Row(group=group, rollout=rollout) for rollout in group.rollouts]
        cache = DecodeCache.continuing([(request.prefix.cache, len(rows))], capacity=group.limit)
        hidden_ND = request.prefix.last_hidden_D.expand(len(rows), -1)
        if self._cache is None or self._hidden_ND is None:
            self._cache, self._hidden_ND = cache, hidden_ND
        else:
            self._cache = self._cache.joined(cache)
            self._hidden_ND = torch.cat((self._hidden_ND, hidden_ND))
        self._rows += rows
        self._adapter = self._adapter_of_rows()
        return group.ticket

    @torch.no_grad()
    def tick(self) -> dict[Ticket, tuple[Trace, ...]]:
        """Draw one position for every rollout, and compute what the next is drawn from.

        Returns:
            The traces of requests that have ended with this tick.
        """
        if self._hidden_ND is None:
            return {}
        draw(self._model, [row.rollout for row in self._rows], self._hidden_ND)
        ended = self._judge()
        if self._rows:
            self._step()
        return ended

    def _group(self, request: DecodeRequest) -> _Group:
        max_context = self._model.config.text.max_context
        num_room = max_context - request.prefix.length
        if num_room < 1:
            raise ValueError(f"the prompt takes {request.prefix.length} of {max_context} positions")
        settings = request.settings
        heat = Heat(temperature=settings.temperature, top_p=settings.top_p)
        num = 1 if settings.temperature < GREEDY_BELOW else request.num_rollouts
        rollouts = [
            Rollout(index=i, seed=request.seed, heat=heat, grammar=request.new_grammar())
            for i in range(num)
        ]
        limit = rollouts[0].grammar.most_actions(settings, num_room)
        return _Group(ticket=next(self._tickets), request=request, rollouts=rollouts, limit=limit)

    def _judge(self) -> dict[Ticket, tuple[Trace, ...]]:
        """Take out the rows that have ended; return the requests that have."""
        eos_id = self._model.config.tokenizer.eos_id
        for row in self._rows:
            if row.rollout.actions[-1].token == eos_id:
                row.rollout.finish_reason = FinishReason.STOP
            elif len(row.rollout.actions) >= row.group.limit:
                row.rollout.finish_reason = FinishReason.LENGTH
        groups = {row.group.ticket: row.group for row in self._rows}
        kept = [i for i, row in enumerate(self._rows) if row.rollout.finish_reason is None]
        if len(kept) < len(self._rows):
            self._keep(kept)
        return {
            ticket: _traces(group)
            for ticket, group in groups.items()
            if all(rollout.finish_reason is not None for rollout in group.rollouts)
        }

    def _keep(self, rows: list[int]) -> None:
        assert self._cache is not None, "there were rows"
        self._rows = [self._rows[i] for i in rows]
        if not rows:
            self._cache = self._adapter = self._hidden_ND = None
            return
        self._cache = self._cache.select(rows)
        self._adapter = self._adapter_of_rows()

    def _step(self) -> None:
        """One position more for every row."""
        assert self._cache is not None, "there are rows"
        divisor = self._model.config.region.coord_divisor
        last = [row.rollout.actions[-1] for row in self._rows]
        hidden_N1D = self._model.text(
            embed_elements(self._model, [action.element(coord_divisor=divisor) for action in last]),
            positions_BT=self._cache.positions_B1,
            cache=self._cache,
            adapter=self._adapter,
        )
        self._hidden_ND = hidden_N1D[:, 0]

    def _adapter_of_rows(self) -> TextAdapter | None:
        """What serves the rows: one adapter, or the stack that there is, or a new one."""
        adapters = [row.group.request.adapter for row in self._rows]
        if all(adapter is adapters[0] for adapter in adapters):
            return adapters[0]
        if isinstance(self._adapter, AdapterStack):
            known = self._adapter.of_rows(adapters)
            if known is not None:
                return known
        wte = self._model.text.wte
        return AdapterStack(self._model.config.text, adapters, device=wte.device, dtype=wte.dtype)


def _traces(group: _Group) -> tuple[Trace, ...]:
    traces = []
    for rollout in group.rollouts:
        assert rollout.finish_reason is not None, "the request has ended"
        traces.append(Trace(actions=tuple(rollout.actions), finish_reason=rollout.finish_reason))
    is_shared = len(traces) < group.request.num_rollouts  # greedy: computed once
    return tuple(traces) * (group.request.num_rollouts if is_shared else 1)
