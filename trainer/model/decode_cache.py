"""Keys and values while answers grow: prompts that several rows share, and what each row added.

A prompt's keys and values stay where the prefill wrote them; nothing is copied per row. Each step
all rows of a prompt attend to it in one product, each row attends to its own suffix, and the two
are merged by their log-sum-exp, which is exact:

    out = (out_1 exp(l_1) + out_2 exp(l_2)) / (exp(l_1) + exp(l_2))

Source: arXiv 2402.05099 (the split), 2205.14135 (the merge).

Letters: L layers, B rows, R rows of one prompt, H heads, P positions of a prompt, S slots of a
suffix, d head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from trainer.model.kv_cache import KVCache


@dataclass(frozen=True, kw_only=True)
class SharedPrompt:
    """One prompt's keys and values [L, H, P, d], and how many rows continue it."""

    keys_LHPd: torch.Tensor
    values_LHPd: torch.Tensor
    num_rows: int

    @property
    def length(self) -> int:
        return self.keys_LHPd.shape[2]


class DecodeCache:
    """Rows that continue prompts, one position at a time; rows of a prompt stand together.

    Attributes:
        prompts: In the order of their rows.
        lengths: How many suffix slots each row has filled.
    """

    def __init__(
        self,
        prompts: Sequence[SharedPrompt],
        keys_LBHSd: torch.Tensor,
        values_LBHSd: torch.Tensor,
        lengths: Sequence[int],
    ) -> None:
        self.prompts = tuple(prompts)
        self.lengths = tuple(lengths)
        self._keys_LBHSd = keys_LBHSd
        self._values_LBHSd = values_LBHSd
        self._lengths_B = torch.tensor(lengths, dtype=torch.long, device=keys_LBHSd.device)

    @classmethod
    def continuing(cls, prompts: Sequence[tuple[KVCache, int]], *, capacity: int) -> DecodeCache:
        """Rows without a suffix yet.

        Args:
            prompts: Caches of one row, each with the number of rows that continue it.
            capacity: Suffix slots of each row.

        Raises:
            ValueError: A cache has several rows.
        """
        shared = []
        for cache, num_rows in prompts:
            if cache.num_rows != 1:
                raise ValueError(f"a prompt has one row, this cache has {cache.num_rows}")
            shared.append(
                SharedPrompt(
                    keys_LHPd=cache.keys_LBHSd[:, 0, :, : cache.length],
                    values_LHPd=cache.values_LBHSd[:, 0, :, : cache.length],
                    num_rows=num_rows,
                )
            )
        layers, heads, _, width = shared[0].keys_LHPd.shape
        num_rows = sum(prompt.num_rows for prompt in shared)
        like = shared[0].keys_LHPd
        return cls(
            shared,
            like.new_zeros(layers, num_rows, heads, capacity, width),
            like.new_zeros(layers, num_rows, heads, capacity, width),
            [0] * num_rows,
        )

    @property
    def length(self) -> int:
        """Positions before the next one, of the longest row."""
        return max(self._positions())

    @property
    def positions_B1(self) -> torch.Tensor:  # noqa: N802 (shape suffix)
        """[B, 1] the position that each row fills next."""
        return torch.tensor(self._positions(), device=self._lengths_B.device)[:, None]

    def _positions(self) -> list[int]:
        """Known to the host, so that asking does not wait for the device."""
        prompts = [p.length for p in self.prompts for _ in range(p.num_rows)]
        return [prompt + own for prompt, own in zip(prompts, self.lengths, strict=True)]

    def attend(
        self,
        layer: int,
        q_BHTd: torch.Tensor,
        k_BHTd: torch.Tensor,
        v_BHTd: torch.Tensor,
        *,
        mask_B1TS: torch.Tensor | None,
        is_causal: bool,
    ) -> torch.Tensor:
        """Append one position per row and attend to everything before it.

        Returns:
            [B, H, 1, d].

        Raises:
            ValueError: There is more than one new position, a mask, or no slot left.
        """
        num_rows, _, num_new, _ = q_BHTd.shape
        if num_new != 1 or mask_B1TS is not None or is_causal:
            raise ValueError("rows grow by one position, which sees everything before it")
        if num_rows != len(self.lengths):
            raise ValueError(f"cache has {len(self.lengths)} rows, the input has {num_rows}")
        end = max(self.lengths) + 1
        if end > self._keys_LBHSd.shape[3]:
            raise ValueError(f"all {end - 1} suffix slots are filled")
        rows = torch.arange(num_rows, device=q_BHTd.device)
        self._keys_LBHSd[layer, rows, :, self._lengths_B] = k_BHTd[:, :, 0]
        self._values_LBHSd[layer, rows, :, self._lengths_B] = v_BHTd[:, :, 0]
        is_filled_BS = torch.arange(end, device=rows.device) <= self._lengths_B[:, None]
        own_BH1d, own_weight_BH1 = _attention(
            q_BHTd,
            self._keys_LBHSd[layer, :, :, :end],
            self._values_LBHSd[layer, :, :, :end],
            is_filled_BS[:, None, None],
        )
        shared, shared_weight, first = [], [], 0
        for prompt in self.prompts:
            q_1HRd = q_BHTd[first : first + prompt.num_rows, :, 0].transpose(0, 1)[None]
            out_1HRd, weight_1HR = _attention(
                q_1HRd, prompt.keys_LHPd[layer][None], prompt.values_LHPd[layer][None], None
            )
            shared.append(out_1HRd[0].transpose(0, 1))
            shared_weight.append(weight_1HR[0].transpose(0, 1))
            first += prompt.num_rows
        shared_BH1d = torch.cat(shared)[:, :, None]
        share_BH1 = torch.sigmoid(own_weight_BH1 - torch.cat(shared_weight)[:, :, None])
        merged_BH1d = torch.lerp(shared_BH1d, own_BH1d, share_BH1[..., None])
        return merged_BH1d.to(q_BHTd.dtype)

    def advance(self, num_new: int) -> None:
        """Count a position more for every row."""
        self.lengths = tuple(length + num_new for length in self.lengths)
        self._lengths_B = self._lengths_B + num_new

    def joined(self, other: DecodeCache) -> DecodeCache:
        """A cache with the rows of another behind these; each row goes on where it is."""
        capacity = max(self._keys_LBHSd.shape[3], other._keys_LBHSd.shape[3])
        grown = [
            torch.cat([_with_capacity(part, capacity) for part in parts], dim=1)
            for parts in (
                (self._keys_LBHSd, other._keys_LBHSd),
                (self._values_LBHSd, other._values_LBHSd),
            )
        ]
        return DecodeCache(
            (*self.prompts, *other.prompts),
            grown[0],
            grown[1],
            (*self.lengths, *other.lengths),
        )

    def select(self, rows: Sequence[int]) -> DecodeCache:
        """A cache of the given rows only, in ascending order."""
        prompts, first = [], 0
        for prompt in self.prompts:
            end = first + prompt.num_rows
            num_kept = sum(first <= row < end for row in rows)
            if num_kept:
                prompts.append(
                    SharedPrompt(
                        keys_LHPd=prompt.keys_LHPd,
                        values_LHPd=prompt.values_LHPd,
                        num_rows=num_kept,
                    )
                )
            first = end
        kept = torch.tensor(rows, device=self._lengths_B.device)
        return DecodeCache(
            prompts,
            self._keys_LBHSd.index_select(1, kept),
            self._values_LBHSd.index_select(1, kept),
            [self.lengths[row] for row in rows],
        )


def _with_capacity(suffix_LBHSd: torch.Tensor, capacity: int) -> torch.Tensor:
    missing = capacity - suffix_LBHSd.shape[3]
    return functional.pad(suffix_LBHSd, (0, 0, 0, missing)) if missing else suffix_LBHSd


def _attention(
    q_BHTd: torch.Tensor,
    k_BHSd: torch.Tensor,
    v_BHSd: torch.Tensor,
    mask: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention with the logarithm of its normaliser, scores in float32 or better.

    Returns:
        [B, H, T, d] and [B, H, T].
    """
    dtype = torch.promote_types(q_BHTd.dtype, torch.float32)
    q_BHTd = q_BHTd.to(dtype) / math.sqrt(q_BHTd.shape[-1])
    scores_BHTS = q_BHTd @ k_BHSd.to(dtype).transpose(-1, -2)
    if mask is not None:
        scores_BHTS = scores_BHTS.masked_fill(~mask, -torch.inf)
    weight_BHT = scores_BHTS.logsumexp(-1)
    probability_BHTS = torch.exp(scores_BHTS - weight_BHT[..., None])
    return probability_BHTS @ v_BHSd.to(dtype), weight_BHT
