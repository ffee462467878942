"""Merged weights: the base model with an adapter added in, in the published layout.

    W' = W + B A            computed in float32, rounded once

What comes out is a checkpoint directory like any other; our own loader reads it back.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from trainer.adapters.lora import Adapter, LoraLayer
from trainer.model.checkpoint import CONFIG_FILE, Checkpoint, made_tensors
from trainer.model.tokenizer import TOKENIZER_FILE
from trainer.model.weight_files import INDEX_FILE, WEIGHTS_FILE

MAX_SHARD_BYTES = 5 * 10**9


def write_merged(
    directory: Path,
    checkpoint: Checkpoint,
    adapter: Adapter,
    *,
    dtype: torch.dtype,
    tokenizer: Path,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write config, tokenizer and weights, in one file or in shards with an index.

    Holds one shard in memory.
    """
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(checkpoint.directory / CONFIG_FILE, directory / CONFIG_FILE)
    shutil.copyfile(tokenizer, directory / TOKENIZER_FILE)
    shard_of = _plan(checkpoint, dtype, max_shard_bytes)
    num_shards = max(shard_of.values()) + 1
    names = [_shard_name(i, num_shards) for i in range(num_shards)]
    shard: dict[str, Tensor] = {}
    current = 0
    for name, tensor in _merged_tensors(checkpoint, adapter):
        if shard_of[name] != current:
            save_file(shard, directory / names[current], metadata={"format": "pt"})
            shard, current = {}, shard_of[name]
        shard[name] = tensor.to(dtype).contiguous()
    save_file(shard, directory / names[current], metadata={"format": "pt"})
    if num_shards > 1:
        index = {
            "metadata": {"total_size": _num_bytes(checkpoint, dtype)},
            "weight_map": {name: names[i] for name, i in shard_of.items()},
        }
        (directory / INDEX_FILE).write_text(json.dumps(index, indent=1) + "\n")


def _merged_tensors(checkpoint: Checkpoint, adapter: Adapter) -> Iterator[tuple[str, Tensor]]:
    deltas = {}
    for index in range(checkpoint.config.text.n_layers):
        layer = adapter.layer(index)
        mlp = f"model.text.blocks.{index}.mlp"
        deltas[f"{mlp}.fc1.weight"] = (layer, "up")
        deltas[f"{mlp}.fc2.weight"] = (layer, "down")
    for name, tensor in made_tensors(checkpoint):
        if name in deltas:
            yield name, tensor.float() + _delta(*deltas[name])
        else:
            yield name, tensor


def _delta(layer: LoraLayer, side: str) -> Tensor:
    """[out, in], or [E, out, in] of experts."""
    a, b = getattr(layer, f"{side}_a"), getattr(layer, f"{side}_b")
    return (b.detach().float() @ a.detach().float()).cpu()


def _plan(checkpoint: Checkpoint, dtype: torch.dtype, max_shard_bytes: int) -> dict[str, int]:
    """Which shard each tensor goes into, in the order in which they are read."""
    shard_of: dict[str, int] = {}
    shard = filled = 0
    for name, recipe in checkpoint.recipes.items():
        num_bytes = math.prod(recipe.shape) * dtype.itemsize
        if filled and filled + num_bytes > max_shard_bytes:
            shard, filled = shard + 1, 0
        shard_of[name] = shard
        filled += num_bytes
    return shard_of


def _num_bytes(checkpoint: Checkpoint, dtype: torch.dtype) -> int:
    return sum(math.prod(r.shape) for r in checkpoint.recipes.values()) * dtype.itemsize


def _shard_name(index: int, num_shards: int) -> str:
    if num_shards == 1:
        return WEIGHTS_FILE
    return f"model-{index + 1:05d}-of-{num_shards:05d}.safetensors"
