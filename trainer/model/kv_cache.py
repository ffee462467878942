"""Keys and values of tokens already seen. For sampling only: training runs whole sequences.

`KVCache` takes prompts; answers that grow from them are in `decode_cache`.

Letters: L layers, B rows, H heads, S slots, d head width.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch.nn import functional

from trainer.model.config import TextConfig


class AttentionCache(Protocol):
    """What the text model asks of a cache."""

    @property
    def length(self) -> int:
        """Filled positions, of the longest row."""
        ...

    def attend(
        self,
        layer: int,
        q_BHTd: torch.Tensor,
        k_BHTd: torch.Tensor,
        v_BHTd: torch.Tensor,
        *,
        mask_B1TS: torch.Tensor | None,
        is_causal: bool,
    ) -> torch.Tensor:
        """Append T positions to every row and attend; [B, H, T, d]."""
        ...

    def advance(self, num_new: int) -> None:
        """Count `num_new` more positions as filled, after the last layer."""
        ...


class KVCache:
    """Preallocated keys and values; every row fills its slots in step with the others.

    Rows of different length are padded by the caller, who masks the padding and gives positions of
    its own.

    Attributes:
        length: Filled slots, the same for every row.
        capacity: Slots there are.
    """

    def __init__(
        self, keys_LBHSd: torch.Tensor, values_LBHSd: torch.Tensor, length: int = 0
    ) -> None:
        self.keys_LBHSd = keys_LBHSd
        self.values_LBHSd = values_LBHSd
        self.length = length

    @classmethod
    def empty(
        cls,
        config: TextConfig,
        num_rows: int,
        capacity: int,
        *,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> KVCache:
        """A cache without content: 4 * L * B * S * D bytes in bf16."""
        shape = (config.n_layers, num_rows, config.n_heads, capacity, config.head_dim)
        return cls(
            torch.zeros(shape, device=device, dtype=dtype),
            torch.zeros(shape, device=device, dtype=dtype),
        )

    @property
    def capacity(self) -> int:
        return self.keys_LBHSd.shape[3]

    @property
    def num_rows(self) -> int:
        return self.keys_LBHSd.shape[1]

    def write(
        self, layer: int, k_BHTd: torch.Tensor, v_BHTd: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append one layer's new keys and values; return all of them, [B, H, S, d] each.

        `length` moves only when the text model calls `advance` after its last layer.

        Raises:
            ValueError: The rows differ, the capacity does not suffice, or gradients are wanted.
        """
        num_rows, _, num_new, _ = k_BHTd.shape
        if num_rows != self.num_rows:
            raise ValueError(f"cache has {self.num_rows} rows, the input has {num_rows}")
        end = self.length + num_new
        if end > self.capacity:
            raise ValueError(f"cache holds {self.capacity} positions, {end} were wanted")
        if torch.is_grad_enabled() and k_BHTd.requires_grad:
            raise ValueError("the KV cache is for sampling: run it under torch.no_grad()")
        self.keys_LBHSd[layer, :, :, self.length : end] = k_BHTd
        self.values_LBHSd[layer, :, :, self.length : end] = v_BHTd
        return self.keys_LBHSd[layer, :, :, :end], self.values_LBHSd[layer, :, :, :end]

    def attend(
        self,
        layer: int,
        q_BHTd: torch.Tensor,
        k_BHTd: torch.Tensor,
        v_BHTd: torch.Tensor,
        *,
        mask_B1TS: torch.Tensor | None,
        is_causal: bool,
    ) -> torch.Tensor:
        """Append new keys and values, and attend to all of them; [B, H, T, d]."""
        k_BHSd, v_BHSd = self.write(layer, k_BHTd, v_BHTd)
        return functional.scaled_dot_product_attention(
            q_BHTd, k_BHSd, v_BHSd, attn_mask=mask_B1TS, is_causal=is_causal
        )

    def advance(self, num_new: int) -> None:
        """Count `num_new` more slots as filled."""
        self.length += num_new
