"""Writes a safetensors file larger than memory: its header first, then one tensor after another.

A file is eight bytes with the length of the header, the header in JSON, and the tensors without
gaps between them (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float8_e4m3fn: "F8_E4M3"}


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor that is made when its turn comes.

    Attributes:
        make: Returns it, in this dtype and shape, on any device.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_file(path: Path, tensors: Sequence[StoredTensor]) -> None:
    """Write one file; it has its name only when it is complete."""
    # The widest first, so that each lies at a multiple of the size of its elements.
    ordered = sorted(tensors, key=lambda tensor: -tensor.dtype.itemsize)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(_header(ordered))
        for tensor in ordered:
            made = tensor.make()
            assert (made.shape, made.dtype) == (tensor.shape, tensor.dtype), tensor.name
            file.write(made.contiguous().cpu().flatten().view(torch.uint8).numpy().data)
    partial.rename(path)


def _header(tensors: Sequence[StoredTensor]) -> bytes:
    content: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for tensor in tensors:
        end = start + tensor.num_bytes
        content[tensor.name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def in_shards(tensors: Sequence[StoredTensor], shard_bytes: int) -> list[list[StoredTensor]]:
    """Cut a list where the next tensor would exceed a shard; a larger tensor stands alone."""
    shards: list[list[StoredTensor]] = [[]]
    num_bytes = 0
    for tensor in tensors:
        if shards[-1] and num_bytes + tensor.num_bytes > shard_bytes:
            shards.append([])
            num_bytes = 0
        shards[-1].append(tensor)
        num_bytes += tensor.num_bytes
    return shards
