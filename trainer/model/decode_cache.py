"""Keys and values while answers grow: prompts that several rows share, and what each row added.

A prompt's keys and values stay where the prefill wrote them; nothing is copied per row. Each step
all rows of a prompt attend to it in one product, each row attends to its own suffix, and the two
are merged by their log-sum-exp, which is exact:

    out = (out_1 exp(l_1) + out_2 exp(l_2)) / (exp(l_1) + exp(l_2))

Suffixes lie in blocks of a pool. Rows may be filled up with padding, which computes something that
nobody reads, so that the shapes of a step are few.

Source: arXiv 2402.05099 (the split), 2205.14135 (the merge), 2309.06180 (blocks).

Letters: L layers, B rows, R rows of one prompt, H heads, P positions of a prompt, S slots of a
suffix, N blocks of the pool, d head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer.model.kv_blocks import BLOCK, SCRATCH, ZEROS, BlockPool, num_blocks_for
from trainer.model.kv_cache import KVCache
from trainer.model.upload import uploaded

FEW_ROWS = 8
"""Up to so many rows of a prompt the keys stand on the left of the product: on CPUs that is faster
(4 rows, 742 positions: 80 instead of 145 us)."""


@dataclass(eq=False)
class Suffix:
    """What one row added to its prompt: `length` positions in `blocks`, of `capacity`."""

    pool: BlockPool
    capacity: int
    length: int = 0
    blocks: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pool.promise(num_blocks_for(self.capacity))

    @property
    def slot(self) -> int:
        """Where the next position goes, counted over all blocks of the pool."""
        return self.blocks[self.length // BLOCK] * BLOCK + self.length % BLOCK

    @property
    def is_between_blocks(self) -> bool:
        """Whether the next position needs a new block."""
        return self.length == len(self.blocks) * BLOCK

    def end(self) -> None:
        """Return all blocks; nothing of the row is read again."""
        self.pool.give_back(self.blocks, promised=num_blocks_for(self.capacity))
        self.blocks = []


@dataclass(frozen=True, kw_only=True)
class _Places:
    """Where the rows of one step write and read.

    Attributes:
        slot_B: [B] where each row's new position goes.
        table_F: [B * blocks of the longest row], the blocks of each row, filled up with zeros.
        is_filled_BS: [B, S] which slots hold something, the new position included.
    """

    slot_B: Tensor
    table_F: Tensor
    is_filled_BS: Tensor


class DecodeCache:
    """Rows that continue prompts, one position at a time; rows of a prompt stand together."""

    def __init__(
        self,
        pool: BlockPool,
        prompts: Sequence[tuple[KVCache, int]],
        suffixes: Sequence[Suffix],
        *,
        num_padding: int = 0,
    ) -> None:
        """Lay rows out.

        Args:
            prompts: Caches of one row each, and how many rows continue each.
            suffixes: Of all rows, in the order of their prompts.
            num_padding: Rows behind them that belong to nobody.

        Raises:
            ValueError: A cache has several rows, or the counts do not add up.
        """
        for cache, _ in prompts:
            if cache.num_rows != 1:
                raise ValueError(f"a prompt has one row, this cache has {cache.num_rows}")
        num_rows = sum(count for _, count in prompts)
        if num_rows != len(suffixes):
            raise ValueError(f"the prompts have {num_rows} rows, suffixes are {len(suffixes)}")
        self._pool = pool
        self._prompts = tuple(prompts)
        self._suffixes = tuple(suffixes)
        self._num_padding = num_padding
        self._prompt_lengths = [cache.length for cache, count in prompts for _ in range(count)]
        self._places: _Places | None = None
        self._table_F: Tensor | None = None

    @property
    def num_rows(self) -> int:
        """All rows, padding included."""
        return len(self._suffixes) + self._num_padding

    @property
    def length(self) -> int:
        """Positions before the next one, of the longest row."""
        return max(self._positions())

    @property
    def positions_B1(self) -> Tensor:  # noqa: N802 (shape suffix)
        """[B, 1] the position that each row fills next."""
        positions = self._positions() + [0] * self._num_padding
        return uploaded(positions, self._pool.keys_LHNSd.device)[:, None]

    def _positions(self) -> list[int]:
        """Known to the host, so that asking does not wait for the device."""
        return [
            length + suffix.length
            for length, suffix in zip(self._prompt_lengths, self._suffixes, strict=True)
        ]

    def attend(
        self,
        layer: int,
        q_BHTd: Tensor,
        k_BHTd: Tensor,
        v_BHTd: Tensor,
        *,
        mask_B1TS: Tensor | None,
        is_causal: bool,
    ) -> Tensor:
        """Append one position per row and attend to everything before it.

        Returns:
            [B, H, 1, d].

        Raises:
            ValueError: There is more than one new position, a mask, or no slot left.
        """
        num_rows, num_heads, num_new, width = q_BHTd.shape
        if num_new != 1 or mask_B1TS is not None or is_causal:
            raise ValueError("rows grow by one position, which sees everything before it")
        if num_rows != self.num_rows:
            raise ValueError(f"cache has {self.num_rows} rows, the input has {num_rows}")
        if self._places is None:
            self._places = self._placed()
        places = self._places
        keys_HNSd, values_HNSd = self._pool.keys_LHNSd[layer], self._pool.values_LHNSd[layer]
        for kept, new_BHTd in ((keys_HNSd, k_BHTd), (values_HNSd, v_BHTd)):
            new_HBd = new_BHTd[:, :, 0].transpose(0, 1)
            kept.view(num_heads, -1, width).index_copy_(1, places.slot_B, new_HBd)
        q_HBd = q_BHTd[:, :, 0].transpose(0, 1)
        of_rows = (num_heads, num_rows, places.is_filled_BS.shape[1], width)
        own_HB1d, own_weight_HB1 = _attention(
            q_HBd[:, :, None],
            keys_HNSd.index_select(1, places.table_F).view(of_rows),
            values_HNSd.index_select(1, places.table_F).view(of_rows),
            places.is_filled_BS[None, :, None],
        )
        shared_HBd, shared_weight_HB = self._attend_to_prompts(layer, q_HBd)
        own_share_HB = torch.sigmoid(own_weight_HB1[..., 0] - shared_weight_HB)
        merged_HBd = torch.lerp(shared_HBd, own_HB1d[:, :, 0], own_share_HB[..., None])
        return merged_HBd.transpose(0, 1)[:, :, None].to(q_BHTd.dtype)

    def advance(self, num_new: int) -> None:
        """Count a position more for every row."""
        for suffix in self._suffixes:
            suffix.length += num_new
        self._places = None

    def _attend_to_prompts(self, layer: int, q_HBd: Tensor) -> tuple[Tensor, Tensor]:
        """Each prompt with all of its rows at once: [H, B, d] and [H, B]."""
        outs, weights, first = [], [], 0
        for cache, num_rows in self._prompts:
            filled = slice(0, cache.length)
            out_HRd, weight_HR = _attention(
                q_HBd[:, first : first + num_rows],
                cache.keys_LBHSd[layer, 0, :, filled],
                cache.values_LBHSd[layer, 0, :, filled],
            )
            outs.append(out_HRd)
            weights.append(weight_HR)
            first += num_rows
        if self._num_padding:
            shape = (len(q_HBd), self._num_padding)
            outs.append(outs[0].new_zeros(*shape, q_HBd.shape[-1]))
            weights.append(weights[0].new_full(shape, -torch.inf))
        return torch.cat(outs, dim=1), torch.cat(weights, dim=1)

    def _placed(self) -> _Places:
        """Give every row a slot for its next position, and lay out what it reads."""
        suffixes, device = self._suffixes, self._pool.keys_LHNSd.device
        for suffix in suffixes:
            if suffix.length >= suffix.capacity:
                raise ValueError(f"all {suffix.capacity} positions of a row are filled")
        growing = [suffix for suffix in suffixes if suffix.is_between_blocks]
        for suffix, block in zip(growing, self._pool.take(len(growing)), strict=True):
            suffix.blocks.append(block)
        if growing or self._table_F is None:
            most = max(len(suffix.blocks) for suffix in suffixes)
            tables = [s.blocks + [ZEROS] * (most - len(s.blocks)) for s in suffixes]
            tables += [[SCRATCH] + [ZEROS] * (most - 1)] * self._num_padding
            self._table_F = uploaded(tables, device).flatten()
        lengths = [suffix.length for suffix in suffixes] + [0] * self._num_padding
        slots = [suffix.slot for suffix in suffixes] + [SCRATCH * BLOCK] * self._num_padding
        length_B, slot_B = uploaded([lengths, slots], device)
        num_slots = len(self._table_F) // len(lengths) * BLOCK
        is_filled_BS = torch.arange(num_slots, device=device) <= length_B[:, None]
        return _Places(slot_B=slot_B, table_F=self._table_F, is_filled_BS=is_filled_BS)


def _attention(
    q_XTd: Tensor, k_XSd: Tensor, v_XSd: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention with the logarithm of its normaliser, scores in float32 or better.

    Returns:
        [..., T, d] and [..., T].
    """
    dtype = torch.promote_types(q_XTd.dtype, torch.float32)
    q_XTd, k_XSd = q_XTd.to(dtype) / math.sqrt(q_XTd.shape[-1]), k_XSd.to(dtype)
    if 1 < q_XTd.shape[-2] <= FEW_ROWS:
        scores_XTS = (k_XSd @ q_XTd.transpose(-1, -2)).transpose(-1, -2).contiguous()
    else:
        scores_XTS = q_XTd @ k_XSd.transpose(-1, -2)
    if mask is not None:
        scores_XTS = scores_XTS.masked_fill(~mask, -torch.inf)
    probability_XTS = scores_XTS.softmax(-1)
    # log p = score - weight, read where p is largest; cheaper than a log-sum-exp of its own
    weight_XT = scores_XTS.amax(-1) - probability_XTS.amax(-1).log()
    return probability_XTS @ v_XSd.to(dtype), weight_XT
