"""Coordinates and sizes as bins: how labels are made, and how a drawn bin reads back.

All in double precision, ties to even. Coordinates and sizes are fractions of the image, 0 to 1. The
model itself sees the decoded values cast to its dtype; only where they are fed back.
"""

from __future__ import annotations

import math

import torch

from trainer.model.config import NUM_BINS

LAST_BIN = NUM_BINS - 1
SMALLEST_SIZE = 2.0**-10  # size bin 0


def coord_bin(value: float) -> int:
    """clamp(round(v * 1023), 0, 1023)."""
    return min(max(round(value * LAST_BIN), 0), LAST_BIN)


def coord_value(bin_index: int, *, divisor: int = LAST_BIN) -> float:
    """bin / 1023; some older code divides by 1024."""
    return bin_index / divisor


def size_bin(value: float) -> int:
    """clamp(round((log2(max(s, 2^-10)) + 10) / 10 * 1023), 0, 1023)."""
    return min(max(round((math.log2(max(value, SMALLEST_SIZE)) + 10) / 10 * LAST_BIN), 0), LAST_BIN)


def size_value(bin_index: int) -> float:
    """2^(10 * bin / 1023 - 10), from 1/1024 to 1."""
    return 2.0 ** (10 * bin_index / LAST_BIN - 10)


def coord_bins(values: torch.Tensor) -> torch.Tensor:
    """`coord_bin` of every value: [...] floats to [...] int64."""
    return torch.round(values.double() * LAST_BIN).clamp(0, LAST_BIN).long()


def coord_values(bins: torch.Tensor, *, divisor: int = LAST_BIN) -> torch.Tensor:
    """`coord_value` of every bin: [...] integers to [...] float64."""
    return bins.double() / divisor


def size_bins(values: torch.Tensor) -> torch.Tensor:
    """`size_bin` of every value: [...] floats to [...] int64."""
    log_size = torch.log2(values.double().clamp(min=SMALLEST_SIZE))
    return torch.round((log_size + 10) / 10 * LAST_BIN).clamp(0, LAST_BIN).long()


def size_values(bins: torch.Tensor) -> torch.Tensor:
    """`size_value` of every bin: [...] integers to [...] float64."""
    return torch.exp2(10 * bins.double() / LAST_BIN - 10)
