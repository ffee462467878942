"""Prompts are run through the model: their keys and values, which all their answers read.

Several prompts, of several adapters, go together. The same picture and prompt come again, with the
next rollouts and with evaluation; under the same weights their prefix is the same.

Letters: B prompts, T positions, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.adapters.lora import Adapter
from trainer.adapters.stack import AdapterStack
from trainer.batching import Row, make_batch
from trainer.model.kv_cache import KVCache
from trainer.model.lora_hook import TextAdapter
from trainer.model.moondream import Moondream
from trainer.model.upload import uploaded


@dataclass(frozen=True, kw_only=True, eq=False)
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


def prefill(
    model: Moondream, adapter: Adapter | None, row: Row, features: Mapping[str, Tensor]
) -> Prefix:
    """Run BOS, image and prompt of one row, without actions, through the text model."""
    return prefill_together(model, [adapter], [row], features)[0]


@torch.no_grad()
def prefill_together(
    model: Moondream,
    adapters: Sequence[Adapter | None],
    rows: Sequence[Row],
    features: Mapping[str, Tensor],
) -> list[Prefix]:
    """Run prompts through the text model in one pass.

    Args:
        adapters: Of each row; None for the base model.
        rows: Without actions; all have an image, or none has. One with further pictures is alone.
        features: [I, D] image tokens by digest.
    """
    batch = make_batch(model, rows, features)
    cache = model.text.new_cache(len(rows), batch.embeds_BTD.shape[1])
    num_image_tokens = model.config.vision.num_image_tokens
    lengths = [row.num_positions(num_image_tokens) for row in rows]
    last_BD = model.text(
        batch.embeds_BTD,
        positions_BT=batch.positions_1T,
        attention_mask_BTS=batch.mask_1TT,
        prefix_len=batch.prefix_len,
        cache=cache,
        adapter=_adapter_of(model, adapters),
        wanted_B=uploaded(lengths, cache.keys_LBHSd.device) - 1,
    )[:, 0]
    if len(rows) == 1:
        return [Prefix(cache=cache, last_hidden_D=last_BD[0])]
    return [
        Prefix(cache=_cut(cache, b, length), last_hidden_D=last_BD[b].clone())
        for b, length in enumerate(lengths)
    ]


def _adapter_of(model: Moondream, adapters: Sequence[Adapter | None]) -> TextAdapter | None:
    if all(adapter is adapters[0] for adapter in adapters):
        return adapters[0]
    wte = model.text.wte
    return AdapterStack(model.config.text, adapters, device=wte.device, dtype=wte.dtype)


def _cut(cache: KVCache, row: int, length: int) -> KVCache:
    """A copy of one row, without the padding behind it."""
    return KVCache(
        cache.keys_LBHSd[:, row : row + 1, :, :length].clone(),
        cache.values_LBHSd[:, row : row + 1, :, :length].clone(),
        length=length,
    )
