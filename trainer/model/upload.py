"""Small values on their way from the host to the device, without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def uploaded(values: object, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of numbers that the host has; the copy takes its place behind what is running.

    From pageable memory a copy would make the host wait until the device has come so far.
    """
    staged = torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda")
    return staged.to(device, non_blocking=True)
