"""Several adapters in one forward pass: their factors side by side, and which one each row uses.

Ranks may differ; smaller ones are filled up with zeros, which add nothing. A row without an adapter
uses zeros all through. For decoding, where rows have one position each: factors are gathered per
row (and per expert), so that one batched product serves all of them.

Letters: N adapters, B rows, D width, F dense inner width, I expert inner width, E experts,
R largest rank, P largest rank per expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from trainer.adapters.lora import FACTORS, Adapter
from trainer.model.config import TextConfig


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
    adapter_B: Tensor


class AdapterStack:
    """The adapters of the rows of a batch."""

    def __init__(
        self, config: TextConfig, adapters: Sequence[Adapter | None], *, device: torch.device
    ):
        """Stack the distinct ones.

        Args:
            adapters: One per row; None for rows of the base model.
        """
        distinct: list[Adapter | None] = []
        index_of: dict[int, int] = {}
        for adapter in adapters:
            if id(adapter) not in index_of:
                index_of[id(adapter)] = len(distinct)
                distinct.append(adapter)
        self._adapter_B = torch.tensor([index_of[id(a)] for a in adapters], device=device)
        largest = max((a for a in distinct if a is not None), key=lambda adapter: adapter.rank)
        self._layers = [
            StackedLayer(
                **{factor: _stacked(distinct, largest, index, factor) for factor in FACTORS},
                adapter_B=self._adapter_B,
            )
            for index in range(config.n_layers)
        ]

    def layer(self, index: int) -> StackedLayer:
        return self._layers[index]

    def select(self, rows: Sequence[int]) -> AdapterStack:
        """The same factors for the given rows only."""
        kept = self._adapter_B[torch.tensor(rows, device=self._adapter_B.device)]
        chosen = object.__new__(AdapterStack)
        chosen._adapter_B = kept
        chosen._layers = [_with_rows(layer, kept) for layer in self._layers]
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


def _with_rows(layer: StackedLayer, adapter_B: Tensor) -> StackedLayer:
    factors = {factor: getattr(layer, factor) for factor in FACTORS}
    return StackedLayer(**factors, adapter_B=adapter_B)
