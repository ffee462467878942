"""What the text model asks of an adapter. The adapters themselves live in `trainer.adapters`.

Letters: D width, F dense inner width, I expert inner width, E experts, R rank, P rank per expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from trainer.model.upload import uploaded


@dataclass(frozen=True, kw_only=True)
class AdapterRows:
    """Which of N adapters each row of a batch uses, and how rows are laid out by adapter.

    Attributes:
        adapter_B: [B] int64.
        padded_NG: [N, G] int64, the rows of each adapter; any row where one has fewer than G.
        place_B: [B] int64, where each row stands in `padded_NG`, flattened.
        is_even: Every adapter has G rows and they stand in its order, so that rows need no moving.
        is_foreign_BP: [B, P] boolean, True where a rank of an expert's factors is not of the row's
            adapter.
    """

    adapter_B: torch.Tensor
    padded_NG: torch.Tensor
    place_B: torch.Tensor
    is_even: bool
    is_foreign_BP: torch.Tensor

    @classmethod
    def of(
        cls, adapters: Sequence[int], num_adapters: int, *, owner_P: torch.Tensor
    ) -> AdapterRows:
        """The layout of rows that use these of N adapters.

        Args:
            owner_P: [P] int64, the adapter of each rank of an expert's factors.
        """
        rows_of: list[list[int]] = [[] for _ in range(num_adapters)]
        for row, adapter in enumerate(adapters):
            rows_of[adapter].append(row)
        width = max(len(rows) for rows in rows_of)
        padded = [rows + [0] * (width - len(rows)) for rows in rows_of]
        place = [0] * len(adapters)
        for adapter, rows in enumerate(rows_of):
            for column, row in enumerate(rows):
                place[row] = adapter * width + column
        adapter_B = uploaded(adapters, owner_P.device)
        return cls(
            adapter_B=adapter_B,
            padded_NG=uploaded(padded, owner_P.device),
            place_B=uploaded(place, owner_P.device),
            is_even=place == list(range(num_adapters * width)),
            is_foreign_BP=adapter_B[:, None] != owner_P,
        )


class LayerAdapter(Protocol):
    """The four low-rank factors of one text layer's MLP; y += B (A x), no scale.

    Shapes: dense layer up_a [R, D], up_b [F, R], down_a [R, F], down_b [D, R];
    expert layer up_a [E, P, D], up_b [E, 2I, P], down_a [E, P, I], down_b [E, D, P].

    Where rows have different adapters, `rows` says which one a row uses; else it is None. In dense
    layers an axis of N adapters then stands in front of each; in expert layers P holds the ranks of
    all adapters side by side.
    """

    @property
    def up_a(self) -> torch.Tensor: ...
    @property
    def up_b(self) -> torch.Tensor: ...
    @property
    def down_a(self) -> torch.Tensor: ...
    @property
    def down_b(self) -> torch.Tensor: ...
    @property
    def rows(self) -> AdapterRows | None: ...


class TextAdapter(Protocol):
    """The adapter of a whole text model."""

    def layer(self, index: int) -> LayerAdapter | None:
        """The factors of text layer `index`, or None where the layer is left as it is."""
        ...
