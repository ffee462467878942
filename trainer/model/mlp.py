"""The dense two-layer MLP of text, vision and region, with an optional low-rank correction.

Letters: D width, F inner width, R adapter rank.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from trainer.model.lora_hook import AdapterRows, LayerAdapter


def low_rank(
    x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, rows: AdapterRows | None = None
) -> torch.Tensor:
    """B (A x), with the adapter's masters cast to the dtype of the activations.

    With several adapters the rows are laid out by adapter, so that each is multiplied where its
    factors are; what is copied are activations.

    Args:
        x: [..., in]; with `rows` [B, T, in].
        a: [R, in], or [N, R, in] with `rows`.
        b: [out, R], or [N, out, R].

    Returns:
        [..., out].
    """
    a, b = a.to(x.dtype), b.to(x.dtype)
    if rows is None:
        return functional.linear(functional.linear(x, a), b)
    num_adapters, width = rows.padded_NG.shape
    by_adapter = x[rows.padded_NG].view(num_adapters, width * x.shape[1], x.shape[2])
    out = torch.bmm(torch.bmm(by_adapter, a.transpose(1, 2)), b.transpose(1, 2))
    return out.view(num_adapters * width, x.shape[1], -1)[rows.place_B]


class DenseMlp(nn.Module):
    """fc2(gelu(fc1 x)), GELU in its tanh form unless told otherwise."""

    def __init__(self, dim: int, inner_dim: int, out_dim: int, *, gelu: str = "tanh") -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, inner_dim)
        self.fc2 = nn.Linear(inner_dim, out_dim)
        self.gelu = gelu

    def forward(self, x: torch.Tensor, adapter: LayerAdapter | None = None) -> torch.Tensor:
        """Map [..., D] to [..., out].

        With an adapter: u = fc1(x) + B_up A_up x; a = gelu(u); y = fc2(a) + B_down A_down a.
        """
        inner = self.fc1(x)
        if adapter is not None:
            inner = inner + low_rank(x, adapter.up_a, adapter.up_b, adapter.rows)
        activated = functional.gelu(inner, approximate=self.gelu)
        out = self.fc2(activated)
        if adapter is not None:
            out = out + low_rank(activated, adapter.down_a, adapter.down_b, adapter.rows)
        return out
