"""The dense two-layer MLP of text, vision and region, with an optional low-rank correction.

Letters: D width, F inner width, R adapter rank.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from trainer.model.lora_hook import AdapterRows, LayerAdapter


def low_rank(
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    rows: AdapterRows | None = None,
    *,
    onto: torch.Tensor,
) -> torch.Tensor:
    """onto + B (A x), with the adapter's masters cast to the dtype of the activations.

    With several adapters the rows are laid out by adapter, so that each is multiplied where its
    factors are; rows that already stand so stay where they are.

    Args:
        x: [..., in]; with `rows` [B, T, in].
        a: [R, in], or [N, R, in] with `rows`.
        b: [out, R], or [N, out, R].
        onto: [..., out].

    Returns:
        [..., out].
    """
    a, b = a.to(x.dtype), b.to(x.dtype)
    if rows is None:
        inner = functional.linear(x, a)
        out = torch.addmm(onto.flatten(0, -2), inner.flatten(0, -2), b.t())
        return out.view_as(onto)
    num_adapters, width = rows.padded_NG.shape
    laid_out = (num_adapters, width * x.shape[1], -1)
    a, b = a.transpose(1, 2), b.transpose(1, 2)
    if rows.is_even:
        out = torch.baddbmm(onto.view(laid_out), torch.bmm(x.view(laid_out), a), b)
        return out.view_as(onto)
    by_adapter = x.index_select(0, rows.padded_NG.flatten()).view(laid_out)
    out = torch.bmm(torch.bmm(by_adapter, a), b)
    return onto + out.view(-1, *onto.shape[1:]).index_select(0, rows.place_B)


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
            inner = low_rank(x, adapter.up_a, adapter.up_b, adapter.rows, onto=inner)
        activated = functional.gelu(inner, approximate=self.gelu)
        out = self.fc2(activated)
        if adapter is not None:
            out = low_rank(activated, adapter.down_a, adapter.down_b, adapter.rows, onto=out)
        return out
