"""The decoder: answers of any requests, skills and adapters grow together, one position a tick.

    decoder.add(request)             its rollouts join as soon as there is room
    decoder.tick()                   one position for every row; returns what has ended

Each rollout is what it would be alone, whatever else shares the ticks: draws depend on (seed,
rollout, position), rows of a prompt read its keys and values in place, and every row has its own
adapter. Ended rollouts leave at once, and others join at any tick. A rollout joins when the pool
can promise it all the blocks that it may fill; none ever has to stop for memory.

Letters: N rows, D width.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from contract import faults
from contract.skills import FinishReason, Settings
from trainer.adapters.lora import Adapter
from trainer.adapters.stack import AdapterStack
from trainer.batching import embed_elements
from trainer.counters import Counters
from trainer.drawing import Heat, Rollout, draw
from trainer.model.decode_cache import DecodeCache, Suffix
from trainer.model.kv_blocks import BlockPool, num_blocks_for
from trainer.model.moondream import Moondream
from trainer.model.upload import uploaded
from trainer.prefill import Prefix
from trainer.sequence import Trace
from trainer.skills.base import Grammar

Ticket = int

DEFAULT_MAX_ROWS = 256


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
        shared_as: Greedy requests that are equal in everything have equal keys; one that comes
            while another runs takes its answer. None: shared with nobody.
        on_draw: Hears of a single rollout after each of its draws.
    """

    prefix: Prefix
    adapter: Adapter | None
    new_grammar: Callable[[], Grammar]
    settings: Settings
    num_rollouts: int
    seed: int
    shared_as: Hashable = None
    on_draw: Callable[[Rollout], None] | None = None


@dataclass(eq=False, kw_only=True)
class _Group:
    """The rollouts of one request, or of equal greedy ones: `tickets` are who takes them."""

    request: DecodeRequest
    rollouts: list[Rollout]
    limit: int
    tickets: dict[Ticket, DecodeRequest] = field(default_factory=dict)
    num_joined: int = 0

    @property
    def has_ended(self) -> bool:
        return all(rollout.finish_reason is not None for rollout in self.rollouts)


@dataclass(eq=False, kw_only=True)
class _Row:
    """A rollout that is still growing."""

    group: _Group
    rollout: Rollout
    suffix: Suffix


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """The rows of a step and what is made for them; never empty.

    Attributes:
        hidden_ND: [N, D] what the next position of each row is drawn from.
    """

    rows: list[_Row]
    cache: DecodeCache
    adapter: AdapterStack | None
    hidden_ND: Tensor


class Decoder:
    """Rows that grow together.

    Args:
        pool: Of the keys and values of answers.
        max_rows: At once.
        row_buckets: Numbers of rows that a step is filled up to, ascending, so that few shapes
            occur; none fills nothing up.
    """

    def __init__(
        self,
        model: Moondream,
        pool: BlockPool,
        *,
        max_rows: int = DEFAULT_MAX_ROWS,
        row_buckets: Sequence[int] = (),
    ):
        self._model = model
        self._pool = pool
        self._max_rows = max_rows
        self._row_buckets = row_buckets
        self._tickets = itertools.count()
        self._joining: deque[_Group] = deque()
        self._groups: dict[Ticket, _Group] = {}
        self._shared: dict[Hashable, _Group] = {}
        self._layout: _Layout | None = None
        self.num_drawn = 0

    @property
    def num_rows(self) -> int:
        """Rollouts that are growing."""
        return len(self._rows)

    @property
    def _rows(self) -> list[_Row]:
        return [] if self._layout is None else self._layout.rows

    @property
    def num_joining(self) -> int:
        """Requests of which rollouts still wait for room."""
        return len(self._joining)

    @property
    def is_idle(self) -> bool:
        """Whether nothing grows or waits."""
        return not self._groups

    def shares(self, key: Hashable) -> bool:
        """Whether a greedy request with this key runs, whose answer another may take."""
        return key is not None and key in self._shared

    def add(self, request: DecodeRequest, *, goes_first: bool = False) -> Ticket:
        """Let a request join, as far as there is room now.

        Args:
            goes_first: Before the rollouts that still wait for room; else behind them.

        Raises:
            ValueError: Its prompt leaves no room in the context, or one of its rollouts may take
                more than the whole pool.
        """
        if self.shares(request.shared_as):
            return self._share(request)
        group, ticket = self._group(request), next(self._tickets)
        group.tickets[ticket] = request
        self._groups[ticket] = group
        (self._joining.appendleft if goes_first else self._joining.append)(group)
        if request.shared_as is not None:
            self._shared[request.shared_as] = group
        try:
            self._join()
        except Exception:
            self._forget(ticket)  # it has no row yet, so nothing has to be laid out
            raise
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Forget a request; its rows leave unless another takes them. Harmless after its end."""
        group = self._forget(ticket)
        if group is not None:
            self._keep([i for i, row in enumerate(self._rows) if row.group is not group])

    def clear(self) -> list[Ticket]:
        """Stop everything, and say which requests that was; asks nothing of the device."""
        tickets = list(self._groups)
        for row in self._rows:
            row.suffix.end()
        self._layout = None
        self._groups.clear()
        self._joining.clear()
        self._shared.clear()
        return tickets

    def rollouts_of(self, ticket: Ticket) -> Sequence[Rollout]:
        """The rollouts of a request that runs, as far as they are."""
        return self._groups[ticket].rollouts

    def report(self, counters: Counters) -> None:
        """Show how much grows now."""
        counters.show("moontune_rows_running", len(self._rows))
        counters.show("moontune_kv_blocks", self._pool.num_used, "used")
        counters.show("moontune_kv_blocks", self._pool.num_promised, "promised")
        counters.show("moontune_kv_blocks", self._pool.num_blocks, "total")

    @torch.no_grad()
    def tick(self) -> dict[Ticket, tuple[Trace, ...]]:
        """Draw one position for every row, and compute what the next is drawn from.

        Returns:
            The traces of requests that have ended with this tick.
        """
        self._join()
        layout = self._layout
        self.num_drawn = 0 if layout is None else len(layout.rows)
        if layout is None:
            return {}
        faults.point("rollouts.tick")
        draw(self._model, [row.rollout for row in layout.rows], layout.hidden_ND)
        ended = self._judge(layout.rows)
        self._step()
        return ended

    def _share(self, request: DecodeRequest) -> Ticket:
        """Let a greedy request take the answer of the equal one that runs."""
        ticket = next(self._tickets)
        group = self._shared[request.shared_as]
        group.tickets[ticket] = request
        self._groups[ticket] = group
        return ticket

    def _group(self, request: DecodeRequest) -> _Group:
        max_context = self._model.config.text.max_context
        num_room = max_context - request.prefix.length
        if num_room < 1:
            raise ValueError(f"the prompt takes {request.prefix.length} of {max_context} positions")
        settings = request.settings
        heat = Heat(temperature=settings.temperature, top_p=settings.top_p)
        rollouts = [
            Rollout(index=i, seed=request.seed, heat=heat, grammar=request.new_grammar())
            for i in range(1 if heat.is_greedy else request.num_rollouts)
        ]
        limit = rollouts[0].grammar.most_actions(settings, num_room)
        num_blocks = num_blocks_for(limit)
        if num_blocks > self._pool.num_blocks:
            raise ValueError(
                f"an answer may take {num_blocks} blocks of keys and values, the pool has "
                f"{self._pool.num_blocks}"
            )
        return _Group(request=request, rollouts=rollouts, limit=limit)

    def _join(self) -> None:
        """Let rollouts in, in order, as long as there is room for the next; all of them or none."""
        coming = self._coming()
        rows: list[_Row] = []
        try:
            for group, num_joining in coming:
                first = group.num_joined
                rows += [
                    _Row(group=group, rollout=r, suffix=Suffix(self._pool, group.limit))
                    for r in group.rollouts[first : first + num_joining]
                ]
            if rows:
                self._layout = self._with(rows)
        except Exception:
            for row in rows:
                row.suffix.end()
            raise
        for group, num_joining in coming:
            group.num_joined += num_joining
            if group.num_joined == len(group.rollouts):
                self._joining.remove(group)

    def _coming(self) -> list[tuple[_Group, int]]:
        """Which requests have room now, and for how many of their rollouts."""
        coming: list[tuple[_Group, int]] = []
        free_rows = self._max_rows - len(self._rows)
        free_blocks = self._pool.num_free
        for group in self._joining:
            blocks_each = num_blocks_for(group.limit)
            num_waiting = len(group.rollouts) - group.num_joined
            num_joining = min(num_waiting, free_rows, free_blocks // blocks_each)
            coming.append((group, num_joining))
            free_rows -= num_joining
            free_blocks -= num_joining * blocks_each
            if num_joining < num_waiting:
                break
        return coming

    def _with(self, joining: Sequence[_Row]) -> _Layout:
        """The layout with more rows."""
        hidden_ND = torch.stack([row.group.request.prefix.last_hidden_D for row in joining])
        if self._layout is not None:
            hidden_ND = torch.cat((self._layout.hidden_ND, hidden_ND))
        rows = [*self._rows, *joining]
        order = _by_adapter_and_prompt(rows)
        if order != sorted(order):
            hidden_ND = hidden_ND[uploaded(order, hidden_ND.device)]
        return self._laid_out([rows[i] for i in order], hidden_ND)

    def _judge(self, rows: Sequence[_Row]) -> dict[Ticket, tuple[Trace, ...]]:
        """Take out the rows that have ended; return the requests that have."""
        eos_id = self._model.config.tokenizer.eos_id
        for row in rows:
            if row.rollout.actions[-1].token == eos_id:
                row.rollout.finish_reason = FinishReason.STOP
            elif len(row.rollout.actions) >= row.group.limit:
                row.rollout.finish_reason = FinishReason.LENGTH
        groups = list(dict.fromkeys(row.group for row in rows))
        for group in groups:
            for request in group.tickets.values():
                if request.on_draw is not None:
                    request.on_draw(group.rollouts[0])
        self._keep([i for i, row in enumerate(rows) if row.rollout.finish_reason is None])
        ended: dict[Ticket, tuple[Trace, ...]] = {}
        for group in groups:
            if group.has_ended:
                for ticket, request in list(group.tickets.items()):
                    ended[ticket] = _traces(group, request.num_rollouts)
                    self._forget(ticket)
        return ended

    def _forget(self, ticket: Ticket) -> _Group | None:
        """Take a request out of the books; its group, if nobody wants that any more."""
        group = self._groups.pop(ticket, None)
        if group is None:
            return None
        del group.tickets[ticket]
        if group.tickets:
            return None
        if group in self._joining:
            self._joining.remove(group)
        self._shared.pop(group.request.shared_as, None)
        return group

    def _keep(self, kept: list[int]) -> None:
        """Let all rows but these go, with what they held."""
        layout = self._layout
        if layout is None or len(kept) == len(layout.rows):
            return
        remaining = None
        if kept:
            at = uploaded(kept, layout.hidden_ND.device)
            remaining = self._laid_out([layout.rows[i] for i in kept], layout.hidden_ND[at])
        staying = set(kept)
        for i, row in enumerate(layout.rows):
            if i not in staying:
                row.suffix.end()
        self._layout = remaining

    def _laid_out(self, rows: list[_Row], hidden_ND: Tensor) -> _Layout:
        """Tables for a step of these rows; rows of a prompt stand together."""
        cache = DecodeCache(
            self._pool,
            [
                (prefix.cache, len(list(alike)))
                for prefix, alike in itertools.groupby(rows, key=_prefix_of)
            ],
            [row.suffix for row in rows],
            num_padding=self._num_padding(len(rows)),
        )
        return _Layout(rows=rows, cache=cache, adapter=self._adapter_of(rows), hidden_ND=hidden_ND)

    def _num_padding(self, num_rows: int) -> int:
        fitting = [bucket for bucket in self._row_buckets if bucket >= num_rows]
        return fitting[0] - num_rows if fitting else 0

    def _step(self) -> None:
        """One position more for every row."""
        layout = self._layout
        if layout is None:
            return
        divisor = self._model.config.region.coord_divisor
        last = [row.rollout.actions[-1].element(coord_divisor=divisor) for row in layout.rows]
        last += last[-1:] * self._num_padding(len(last))
        hidden_N1D = self._model.text(
            embed_elements(self._model, last),
            positions_BT=layout.cache.positions_B1,
            cache=layout.cache,
            adapter=layout.adapter,
        )
        self._layout = replace(layout, hidden_ND=hidden_N1D[: len(layout.rows), 0])

    def _adapter_of(self, rows: Sequence[_Row]) -> AdapterStack | None:
        """What serves the rows: the stack that there is, or a new one; None for the base model."""
        adapters = [row.group.request.adapter for row in rows]
        adapters += adapters[-1:] * self._num_padding(len(rows))
        if all(adapter is None for adapter in adapters):
            return None
        num_used = len({id(adapter) for adapter in adapters})
        last = None if self._layout is None else self._layout.adapter
        if last is not None and 2 * num_used >= last.num_adapters:
            known = last.of_rows(adapters)
            if known is not None:
                return known
        wte = self._model.text.wte
        return AdapterStack(self._model.config.text, adapters, device=wte.device, dtype=wte.dtype)


def _prefix_of(row: _Row) -> Prefix:
    return row.group.request.prefix


def _by_adapter_and_prompt(rows: Sequence[_Row]) -> list[int]:
    """The order in which rows of an adapter stand together, and in them rows of a prompt.

    Otherwise rows stay as they are, so that those of a running step seldom move.
    """
    adapters = _numbered(id(row.group.request.adapter) for row in rows)
    prompts = _numbered(id(_prefix_of(row)) for row in rows)
    return sorted(range(len(rows)), key=lambda i: (adapters[i], prompts[i], i))


def _numbered(things: Iterator[int]) -> list[int]:
    """Each thing as the number of distinct ones before its first occurrence."""
    seen: dict[int, int] = {}
    return [seen.setdefault(thing, len(seen)) for thing in things]


def _traces(group: _Group, num_wanted: int) -> tuple[Trace, ...]:
    traces = []
    for rollout in group.rollouts:
        assert rollout.finish_reason is not None, "the request has ended"
        traces.append(Trace(actions=tuple(rollout.actions), finish_reason=rollout.finish_reason))
    is_shared = group.rollouts[0].heat.is_greedy  # computed once
    return tuple(traces) * (num_wanted if is_shared else 1)
