"""Keys and values of tokens already seen. For sampling only: training runs whole sequences.

Letters: L layers, B rows, H heads, S slots, d head width.
"""

from __future__ import annotations

import torch

from trainer.model.config import TextConfig


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

    def advance(self, num_new: int) -> None:
        """Count `num_new` more slots as filled."""
        self.length += num_new

    def expand(self, num_rows: int, capacity: int) -> KVCache:
        """A new cache whose rows all start with this cache's only row.

        Raises:
            ValueError: This cache has more than one row, or `capacity` is below its length.
        """
        if self.num_rows != 1:
            raise ValueError(f"expand wants a cache of one row, this one has {self.num_rows}")
        if capacity < self.length:
            raise ValueError(f"capacity {capacity} is below the {self.length} filled positions")
        grown = []
        for old in (self.keys_LBHSd, self.values_LBHSd):
            layers, _, heads, _, width = old.shape
            new = old.new_zeros(layers, num_rows, heads, capacity, width)
            new[:, :, :, : self.length] = old[:, :, :, : self.length]
            grown.append(new)
        return KVCache(grown[0], grown[1], self.length)

    def select(self, rows: torch.Tensor) -> KVCache:
        """A new cache of the given rows only, in the given order; `rows` is [kept] int64."""
        return KVCache(
            self.keys_LBHSd.index_select(1, rows),
            self.values_LBHSd.index_select(1, rows),
            self.length,
        )
