"""Rotary position of queries and keys: the first half of each head turns, the second stays.

Letters: B rows, T positions, H heads, P pairs (a quarter of the head width).
"""

from __future__ import annotations

import torch


def rotation(
    positions_BT: torch.Tensor, *, theta: float, rotated_dim: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of pos * theta^(-2i / rotated_dim), for pairs i < rotated_dim / 2.

    Args:
        positions_BT: [B, T] integers, 0 at BOS.
        dtype: float32, or float64 for checks.

    Returns:
        Two tensors [B, T, 1, P] in `dtype`.
    """
    exponent_P = (
        torch.arange(0, rotated_dim, 2, device=positions_BT.device, dtype=dtype) / rotated_dim
    )
    angle_BTP = positions_BT.to(dtype)[..., None] * (1.0 / theta**exponent_P)
    return angle_BTP.cos()[:, :, None], angle_BTP.sin()[:, :, None]


def rotate(x_BTHd: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn the pairs (i, i + P) of every head by their angle, in the dtype of `cos`; cast back.

    Args:
        x_BTHd: [B, T, H, head width], queries or keys.
        cos, sin: [B, T, 1, P] from `rotation`.
    """
    pairs = cos.shape[-1]
    first, second = x_BTHd[..., :pairs].to(cos.dtype), x_BTHd[..., pairs : 2 * pairs].to(cos.dtype)
    turned = (
        (first * cos - second * sin).to(x_BTHd.dtype),
        (first * sin + second * cos).to(x_BTHd.dtype),
    )
    return torch.cat([*turned, x_BTHd[..., 2 * pairs :]], dim=-1)
