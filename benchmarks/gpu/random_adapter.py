"""Adapters of which every factor matters; fresh ones have zeros and change nothing."""

from __future__ import annotations

import math

import torch

from trainer.adapters.lora import Adapter, adapter_shapes
from trainer.model.config import TextConfig

STD_B = 0.02


def random_adapter(
    config: TextConfig,
    rank: int,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Adapter:
    """Drawn on the device; another kind of device draws others."""
    generator = torch.Generator(device).manual_seed(seed)
    tensors = {
        name: torch.empty(shape, device=device, dtype=dtype).normal_(
            0.0, STD_B if name.endswith("_b") else 1 / math.sqrt(shape[-1]), generator=generator
        )
        for name, shape in adapter_shapes(config, rank).items()
    }
    return Adapter(config, rank, tensors)
