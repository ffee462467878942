"""Keys and values while answers grow: prompts that several rows share, and what each row added.

A prompt's keys and values stay where the prefill wrote them; nothing is copied per row. Each step
all rows of a prompt attend to it in one product and each row to its own suffix (`prompt_run`).
Suffixes lie in blocks of a pool. Rows may be filled up with padding, which computes something that
nobody reads, so that the shapes of a step are few.

Source: arXiv 2402.05099 (the split), 2309.06180 (blocks).

Letters: L layers, B rows, H heads, S slots of a suffix, N blocks of the pool, d head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer.model.kv_blocks import BLOCK, SCRATCH, ZEROS, BlockPool, num_blocks_for
from trainer.model.kv_cache import KVCache
from trainer.model.prompt_run import prompt_runs
from trainer.model.upload import uploaded


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
        filled_BS: [B, S] 0 in slots that hold something, the new position included; else -inf.
    """

    slot_B: Tensor
    table_F: Tensor
    filled_BS: Tensor


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
        self._runs = prompt_runs(prompts, num_padding=num_padding)
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
        dtype = torch.promote_types(q_BHTd.dtype, torch.float32)
        q_HBd = q_BHTd[:, :, 0].transpose(0, 1).to(dtype) / math.sqrt(width)
        of_rows = (num_heads, num_rows, places.filled_BS.shape[1], width)
        own_k_HBSd, own_v_HBSd = (
            kept.index_select(1, places.table_F).view(of_rows).to(dtype)
            for kept in (keys_HNSd, values_HNSd)
        )
        own_scores_HB1S = q_HBd[:, :, None] @ own_k_HBSd.transpose(2, 3)
        own_scores_HBS = own_scores_HB1S[:, :, 0] + places.filled_BS
        outs_HRd, first = [], 0
        for run in self._runs:
            rows = slice(first, first + run.num_rows)
            outs_HRd.append(
                run.attend(layer, q_HBd[:, rows], own_scores_HBS[:, rows], own_v_HBSd[:, rows])
            )
            first += run.num_rows
        out_HBd = torch.cat(outs_HRd, dim=1) if len(outs_HRd) > 1 else outs_HRd[0]
        return out_HBd.transpose(0, 1)[:, :, None].to(q_BHTd.dtype)

    def advance(self, num_new: int) -> None:
        """Count a position more for every row."""
        for suffix in self._suffixes:
            suffix.length += num_new
        self._places = None

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
        dtype = torch.promote_types(self._pool.keys_LHNSd.dtype, torch.float32)
        is_filled_BS = torch.arange(num_slots, device=device) <= length_B[:, None]
        filled_BS = torch.where(is_filled_BS, 0.0, -torch.inf).to(dtype)
        return _Places(slot_B=slot_B, table_F=self._table_F, filled_BS=filled_BS)
