"""Several adapters in one forward pass: their factors side by side, and which one each row uses.

Ranks may differ; smaller ones are filled up with zeros, which add nothing. A row without an adapter
uses zeros all through. Rows are laid out by adapter and multiplied where the factors are; only in
expert layers factors are gathered, per row and expert, so this is for decoding, where rows have one
position each.

Letters: N adapters, B rows, D width, F dense inner width, I expert inner width, E experts,
R largest rank, P largest rank per expert.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from trainer.adapters.lora import FACTORS, Adapter
from trainer.model.config import TextConfig
from trainer.model.lora_hook import AdapterRows


@dataclass(frozen=True, kw_only=True)
class StackedLayer:
    """The factors of one layer, one adapter behind the other, and each row's adapter.

    Shapes: dense layer up_a [N, R, D], up_b [N, F, R], down_a [N, R, F], down_b [N, D, R];
    expert layer up_a [N, E, P, D], up_b [N, E, 2I, P], down_a [N, E, P, I], down_b [N, E, D, P].
    """

    up_a: Tensor
    up_b: Tensor
    down_a: Tensor
    down_b: Tensor
    rows: AdapterRows


class AdapterStack:
    """The adapters of the rows of a batch."""

    def __init__(
        self,
        config: TextConfig,
        adapters: Sequence[Adapter | None],
        *,
        device: torch.device,
        dtype: torch.dtype,
    ):
        """Stack the distinct ones.

        Args:
            adapters: One per row; None for rows of the base model. Not all are None.
            dtype: What the rows are computed in.
        """
        self._distinct: list[Adapter | None] = []
        index_of: dict[int, int] = {}
        for adapter in adapters:
            if id(adapter) not in index_of:
                index_of[id(adapter)] = len(self._distinct)
                self._distinct.append(adapter)
        indexes = [index_of[id(adapter)] for adapter in adapters]
        rows = AdapterRows.of(indexes, len(self._distinct), device=device)
        largest = max((a for a in self._distinct if a is not None), key=lambda a: a.rank)
        self._layers = [
            StackedLayer(
                **{f: _stacked(self._distinct, largest, index, f).to(dtype) for f in FACTORS},
                rows=rows,
            )
            for index in range(config.n_layers)
        ]

    def layer(self, index: int) -> StackedLayer:
        return self._layers[index]

    def of_rows(self, adapters: Sequence[Adapter | None]) -> AdapterStack | None:
        """The same factors for other rows; None if one of their adapters is not among these."""
        index_of = {id(adapter): index for index, adapter in enumerate(self._distinct)}
        if any(id(adapter) not in index_of for adapter in adapters):
            return None
        device = self._layers[0].rows.adapter_B.device
        indexes = [index_of[id(adapter)] for adapter in adapters]
        rows = AdapterRows.of(indexes, len(self._distinct), device=device)
        chosen = copy.copy(self)
        chosen._layers = [replace(layer, rows=rows) for layer in self._layers]
        return chosen


def _stacked(
    adapters: Sequence[Adapter | None], largest: Adapter, layer: int, factor: str
) -> Tensor:
    """[N, ...] with the rank filled up: the last but one axis of an A, the last of a B."""
    like = getattr(largest.layer(layer), factor)
    is_a = factor.endswith("_a")
    rank_axis = -2 if is_a else -1
    found = []
    for adapter in adapters:
        if adapter is None:
            found.append(torch.zeros_like(like))
            continue
        tensor = getattr(adapter.layer(layer), factor)
        missing = like.shape[rank_axis] - tensor.shape[rank_axis]
        found.append(functional.pad(tensor, (0, 0, 0, missing) if is_a else (0, missing)))
    return torch.stack(found)
