"""Attention of growing rows to the prompts that they share and to what each of them added.

Prompts of like length stand side by side in one table of scores, their rows' own suffixes behind
them, so that a layer takes one softmax for all. Keys and values of a prompt are read where they
are, once for all of its rows. One softmax over both parts is the merge of two by their log-sum-exp:

    (exp(l_1) out_1 + exp(l_2) out_2) / (exp(l_1) + exp(l_2)) = softmax([s_1, s_2]) [v_1, v_2]

Source: arXiv 2402.05099 (the split).

Letters: H heads, R rows of the run, N rows of one prompt, P positions of its longest prompt, S
slots of the longest suffix, X = P + S, d head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.model.kv_cache import KVCache

FEW_ROWS = 8
"""From two up to so many rows of a prompt the keys stand on the left of the product: on CPUs that
is faster (4 rows, 742 positions, out of cache: 89 instead of 147 us)."""

LONGEST_TO_SHORTEST = 1.25
"""How much longer than another a prompt of a run may be; the shorter's scores are filled up."""


@dataclass(frozen=True, kw_only=True)
class _Prompt:
    """One prompt of a run; its rows, counted in the run, and keys and values layer by layer."""

    rows: slice
    length: int
    keys_HPd: tuple[Tensor, ...]
    values_HPd: tuple[Tensor, ...]


class PromptRun:
    """Prompts of like length, and the rows that continue them."""

    def __init__(self, prompts: Sequence[tuple[KVCache, int]], *, num_padding: int = 0) -> None:
        """Lay out.

        Args:
            prompts: Caches of one row each, and how many rows continue each.
            num_padding: Rows behind them that have no prompt.
        """
        self.num_rows = sum(count for _, count in prompts) + num_padding
        self._num_padding = num_padding
        self._longest = max(cache.length for cache, _ in prompts)
        self._prompts: list[_Prompt] = []
        first = 0
        for cache, count in prompts:
            filled = slice(0, cache.length)
            self._prompts.append(
                _Prompt(
                    rows=slice(first, first + count),
                    length=cache.length,
                    keys_HPd=cache.keys_LBHSd[:, 0, :, filled].unbind(0),
                    values_HPd=cache.values_LBHSd[:, 0, :, filled].unbind(0),
                )
            )
            first += count
        self._scores_HRX: Tensor | None = None

    def attend(
        self, layer: int, q_HRd: Tensor, own_scores_HRS: Tensor, own_values_HRSd: Tensor
    ) -> Tensor:
        """What each row finds in its prompt and its suffix.

        Args:
            q_HRd: Over the square root of d, in the dtype that scores are computed in.
            own_scores_HRS: -inf where a slot holds nothing.
            own_values_HRSd: Zeros there.

        Returns:
            [H, R, d].
        """
        scores_HRX = self._table(own_scores_HRS)
        scores_HRX[:, :, self._longest :] = own_scores_HRS
        for prompt in self._prompts:
            q_HNd, k_HPd = q_HRd[:, prompt.rows], prompt.keys_HPd[layer].to(q_HRd.dtype)
            scores_HNP = scores_HRX[:, prompt.rows, : prompt.length]
            if 1 < q_HNd.shape[1] <= FEW_ROWS:
                scores_HNP.transpose(1, 2).copy_(torch.bmm(k_HPd, q_HNd.transpose(1, 2)))
            else:
                scores_HNP.copy_(torch.bmm(q_HNd, k_HPd.transpose(1, 2)))
        shares_HRX = scores_HRX.softmax(-1)
        outs_HNd = [
            torch.bmm(
                shares_HRX[:, prompt.rows, : prompt.length],
                prompt.values_HPd[layer].to(q_HRd.dtype),
            )
            for prompt in self._prompts
        ]
        if self._num_padding:
            outs_HNd.append(q_HRd.new_zeros(len(q_HRd), self._num_padding, q_HRd.shape[-1]))
        own_HR1d = shares_HRX[:, :, None, self._longest :] @ own_values_HRSd
        return torch.cat(outs_HNd, dim=1) + own_HR1d[:, :, 0]

    def _table(self, own_scores_HRS: Tensor) -> Tensor:
        """[H, R, X] of every layer and step in turn; -inf behind shorter prompts stays."""
        num_heads, num_rows, num_slots = own_scores_HRS.shape
        shape = (num_heads, num_rows, self._longest + num_slots)
        if self._scores_HRX is None or self._scores_HRX.shape != shape:
            self._scores_HRX = own_scores_HRS.new_full(shape, -torch.inf)
        return self._scores_HRX


def prompt_runs(
    prompts: Sequence[tuple[KVCache, int]], *, num_padding: int = 0
) -> tuple[PromptRun, ...]:
    """Neighbours of like length together; the padding goes with the last ones."""
    runs: list[list[tuple[KVCache, int]]] = []
    for prompt in prompts:
        if runs and _are_alike([*runs[-1], prompt]):
            runs[-1].append(prompt)
        else:
            runs.append([prompt])
    paddings = [0] * (len(runs) - 1) + [num_padding]
    return tuple(
        PromptRun(run, num_padding=padding) for run, padding in zip(runs, paddings, strict=True)
    )


def _are_alike(prompts: Sequence[tuple[KVCache, int]]) -> bool:
    lengths = [cache.length for cache, _ in prompts]
    return max(lengths) <= LONGEST_TO_SHORTEST * min(lengths)
