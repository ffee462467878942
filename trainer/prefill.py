"""Prompts that were run through the model: their keys and values, kept for the next call.

The same picture and prompt come again, with the next rollouts and with evaluation; under the same
weights their prefix is the same. A key holds everything that the prefix depends on, the digest of
the weights above all, so nothing computed under one version is ever used under another.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.adapters.lora import Adapter
from trainer.batching import Row, make_batch
from trainer.model.kv_cache import KVCache
from trainer.model.moondream import Moondream

DEFAULT_BUDGET_BYTES = 2 << 30


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """A prompt after its prefill.

    Attributes:
        cache: One row of keys and values, full.
        last_hidden_D: [D] the state that the first token is drawn from.
    """

    cache: KVCache
    last_hidden_D: Tensor

    @property
    def length(self) -> int:
        """Positions: BOS, image and prompt."""
        return self.cache.length

    @property
    def num_bytes(self) -> int:
        return self.cache.keys_LBHSd.nbytes + self.cache.values_LBHSd.nbytes


@torch.no_grad()
def prefill(
    model: Moondream, adapter: Adapter | None, row: Row, features: Mapping[str, Tensor]
) -> Prefix:
    """Run BOS, image and prompt through the text model.

    Args:
        row: Without actions.
        features: [I, D] image tokens by digest.
    """
    batch = make_batch(model, [row], features)
    cache = model.text.new_cache(1, batch.embeds_BTD.shape[1])
    hidden_1TD = model.text(
        batch.embeds_BTD,
        positions_BT=batch.positions_1T,
        attention_mask_BTS=batch.mask_1TT,
        cache=cache,
        adapter=adapter,
    )
    return Prefix(cache=cache, last_hidden_D=hidden_1TD[0, -1].clone())


class PrefixStore:
    """The most recently used prefixes within a budget."""

    def __init__(self, *, budget_bytes: int = DEFAULT_BUDGET_BYTES):
        self._budget_bytes = budget_bytes
        self._num_bytes = 0
        self._kept: OrderedDict[Hashable, Prefix] = OrderedDict()

    def get(self, key: Hashable) -> Prefix | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: Hashable, prefix: Prefix) -> None:
        """Keep a prefix; what is larger than the whole budget is not kept."""
        self._forget(key)
        if prefix.num_bytes > self._budget_bytes:
            return
        self._kept[key] = prefix
        self._num_bytes += prefix.num_bytes
        while self._num_bytes > self._budget_bytes:
            self._forget(next(iter(self._kept)))

    def clear(self) -> None:
        """Give up everything that is kept."""
        self._kept.clear()
        self._num_bytes = 0

    def _forget(self, key: Hashable) -> None:
        dropped = self._kept.pop(key, None)
        if dropped is not None:
            self._num_bytes -= dropped.num_bytes
