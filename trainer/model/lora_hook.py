"""What the text model asks of an adapter. The adapters themselves live in `trainer.adapters`.

Letters: D width, F dense inner width, I expert inner width, E experts, R rank, P rank per expert.
"""

from __future__ import annotations

from typing import Protocol

import torch


class LayerAdapter(Protocol):
    """The four low-rank factors of one text layer's MLP; y += B (A x), no scale.

    Shapes: dense layer up_a [R, D], up_b [F, R], down_a [R, F], down_b [D, R];
    expert layer up_a [E, P, D], up_b [E, 2I, P], down_a [E, P, I], down_b [E, D, P].

    Where rows have different adapters, an axis of N adapters stands in front of each, and
    `adapter_B` [B] int64 says which one a row uses; else it is None.
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
    def adapter_B(self) -> torch.Tensor | None: ...  # noqa: N802 (shape suffix)


class TextAdapter(Protocol):
    """The adapter of a whole text model."""

    def layer(self, index: int) -> LayerAdapter | None:
        """The factors of text layer `index`, or None where the layer is left as it is."""
        ...
