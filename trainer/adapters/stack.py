"""The adapters of a batch, prepared once: which one each row uses, and their factors side by side.

In dense layers adapters stand one behind the other, smaller ranks filled up with zeros, and rows
are laid out by adapter. In expert layers the ranks of all adapters stand side by side in every
expert, and a row counts those of its own. A row without an adapter uses zeros, or no rank at all.

Where all rows use one adapter nothing has to be told apart: its factors are only cast and filled up
to what a grouped product takes.

Letters: N adapters, B rows, D width, F dense inner width, I expert inner width, E experts,
R largest rank, P ranks per expert of all adapters.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from trainer.adapters.lora import FACTORS, Adapter
from trainer.model.config import TextConfig
from trainer.model.grouped import whole_strides
from trainer.model.lora_hook import AdapterRows
from trainer.model.upload import uploaded

NOBODY = -1
"""Whose the ranks are that only fill up."""


@dataclass(frozen=True, kw_only=True)
class StackedLayer:
    """The factors of one layer, and each row's adapter; None where all rows use the same.

    Shapes: dense layer up_a [N, R, D], up_b [N, F, R], down_a [N, R, F], down_b [N, D, R], without
    N where `rows` is None; expert layer up_a [E, P, D], up_b [E, 2I, P], down_a [E, P, I],
    down_b [E, D, P].
    """

    up_a: Tensor
    up_b: Tensor
    down_a: Tensor
    down_b: Tensor
    rows: AdapterRows | None


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
        """Prepare for rows; a layer's factors are put together when they are first asked for.

        Args:
            adapters: One per row; None for rows of the base model. Not all are None.
            dtype: What the rows are computed in.
        """
        self._config, self._dtype = config, dtype
        self._distinct = list({id(adapter): adapter for adapter in adapters}.values())
        self._owner_P = uploaded(_owners(config, self._distinct, dtype), device, torch.long)
        self._rows = self._rows_of(adapters)
        self._factors: dict[int, dict[str, Tensor]] = {}

    @property
    def num_adapters(self) -> int:
        """Distinct ones, that of rows without any included."""
        return len(self._distinct)

    def layer(self, index: int) -> StackedLayer:
        if index not in self._factors:
            self._factors[index] = {name: self._factor(index, name) for name in FACTORS}
        return StackedLayer(**self._factors[index], rows=self._rows)

    def of_rows(self, adapters: Sequence[Adapter | None]) -> AdapterStack | None:
        """The same factors for other rows; None if one of their adapters is not among these."""
        known = {id(adapter) for adapter in self._distinct}
        if any(id(adapter) not in known for adapter in adapters):
            return None
        chosen = copy.copy(self)
        chosen._rows = self._rows_of(adapters)
        return chosen

    def _rows_of(self, adapters: Sequence[Adapter | None]) -> AdapterRows | None:
        if len(self._distinct) == 1:
            return None
        index_of = {id(adapter): index for index, adapter in enumerate(self._distinct)}
        indexes = [index_of[id(adapter)] for adapter in adapters]
        return AdapterRows.of(indexes, len(self._distinct), owner_P=self._owner_P)

    def _factor(self, layer: int, name: str) -> Tensor:
        """One factor of all adapters."""
        is_a = name.endswith("_a")
        found = [None if a is None else getattr(a.layer(layer), name) for a in self._distinct]
        if self._config.is_expert_layer(layer):
            return _beside(found, len(self._owner_P), is_a=is_a).to(self._dtype)
        return _behind(found, is_a=is_a).to(self._dtype)


def _owners(
    config: TextConfig, adapters: Sequence[Adapter | None], dtype: torch.dtype
) -> list[int]:
    """The index of the adapter of each rank of an expert, filled up to whole strides."""
    if config.moe is None:
        return []
    owners: list[int] = []
    for index, adapter in enumerate(adapters):
        if adapter is not None:
            owners += [index] * (adapter.rank // config.moe.experts_per_token)
    return owners + [NOBODY] * (-len(owners) % whole_strides(dtype))


def _behind(factors: Sequence[Tensor | None], *, is_a: bool) -> Tensor:
    """[N, R, in] or [N, out, R] of a dense layer; one alone stays as it is."""
    given = [factor for factor in factors if factor is not None]
    if len(factors) == 1:
        return given[0]
    largest = max(factor.shape[_rank_axis(is_a)] for factor in given)
    zeros = torch.zeros_like(_filled_up(given[0], largest, is_a=is_a))
    return torch.stack([zeros if f is None else _filled_up(f, largest, is_a=is_a) for f in factors])


def _beside(factors: Sequence[Tensor | None], num_ranks: int, *, is_a: bool) -> Tensor:
    """[E, P, in] or [E, out, P] of an expert layer."""
    given = [factor for factor in factors if factor is not None]
    return _filled_up(torch.cat(given, dim=_rank_axis(is_a)), num_ranks, is_a=is_a)


def _filled_up(factor: Tensor, num_ranks: int, *, is_a: bool) -> Tensor:
    missing = num_ranks - factor.shape[_rank_axis(is_a)]
    return functional.pad(factor, (0, 0, 0, missing) if is_a else (0, missing))


def _rank_axis(is_a: bool) -> int:
    return -2 if is_a else -1
