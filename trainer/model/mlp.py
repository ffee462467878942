"""The dense two-layer MLP of text, vision and region, with an optional low-rank correction.

Letters: D width, F inner width, R adapter rank.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from trainer.model.lora_hook import LayerAdapter


def low_rank(
    x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, adapter_B: torch.Tensor | None = None
) -> torch.Tensor:
    """B (A x), with the adapter's masters cast to the dtype of the activations.

    Args:
        x: [..., in]; with `adapter_B` [B, T, in].
        a: [R, in], or [N, R, in] with `adapter_B`.
        b: [out, R], or [N, out, R].
        adapter_B: [B] which of N adapters each row uses.

    Returns:
        [..., out].
    """
    a, b = a.to(x.dtype), b.to(x.dtype)
    if adapter_B is None:
        return functional.linear(functional.linear(x, a), b)
    inner_BTR = torch.bmm(x, a[adapter_B].transpose(1, 2))
    return torch.bmm(inner_BTR, b[adapter_B].transpose(1, 2))


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
            inner = inner + low_rank(x, adapter.up_a, adapter.up_b, adapter.adapter_B)
        activated = functional.gelu(inner, approximate=self.gelu)
        out = self.fc2(activated)
        if adapter is not None:
            out = out + low_rank(activated, adapter.down_a, adapter.down_b, adapter.adapter_B)
        return out
