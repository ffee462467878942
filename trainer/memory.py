"""How much memory a model takes, from its config alone. Bytes; no device is asked.

Weights, keys and values, and the adapter are exact. What is computed with (activations) is an
estimate from the widths of the layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from trainer.adapters.lora import adapter_shapes
from trainer.model.moe import ExpertWeights
from trainer.model.moondream import Moondream
from trainer.model.published_config import MoondreamConfig

SERVED_SEQUENCES, SERVED_POSITIONS = 16, 950
"""What serving is reckoned with: 730 positions of a picture, a prompt and an answer."""

BYTES_PER_TRAINED_PARAMETER = 16
"""float32: the value, its gradient, and the two moments of Adam."""

FP8_BYTES, SCALE_BYTES = 1, 4


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How weights are held: their dtype, and whether experts stay in fp8."""

    dtype: torch.dtype
    has_fp8_experts: bool = False

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{dtype} with fp8 experts" if self.has_fp8_experts else dtype


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """Parameters of a model.

    Attributes:
        total: All of them.
        in_experts: Those of expert matrices, which fp8 files hold in one byte each.
        expert_rows: Output rows of all experts; each has one scale in fp8.
    """

    total: int
    in_experts: int
    expert_rows: int


def count_parameters(config: MoondreamConfig) -> ParameterCount:
    """Count them on a model that has shapes and no memory."""
    with torch.device("meta"):
        model = Moondream(config)
    experts = [m.weight for m in model.modules() if isinstance(m, ExpertWeights)]
    return ParameterCount(
        total=sum(parameter.numel() for parameter in model.parameters()),
        in_experts=sum(weight.numel() for weight in experts),
        expert_rows=sum(math.prod(weight.shape[:2]) for weight in experts),
    )


def weight_bytes(count: ParameterCount, storage: Storage) -> int:
    """Of the loaded weights."""
    if not storage.has_fp8_experts:
        return count.total * storage.dtype.itemsize
    rest = (count.total - count.in_experts) * storage.dtype.itemsize
    return rest + count.in_experts * FP8_BYTES + count.expert_rows * SCALE_BYTES


def kv_bytes_per_position(config: MoondreamConfig, dtype: torch.dtype) -> int:
    """Keys and values of one position in all layers: 2 L D."""
    return 2 * config.text.n_layers * config.text.dim * dtype.itemsize


def kv_bytes(config: MoondreamConfig, dtype: torch.dtype, *, num_sequences: int) -> int:
    """Keys and values of sequences of 950 positions, or as many as the model takes."""
    positions = min(SERVED_POSITIONS, config.text.max_context)
    return num_sequences * positions * kv_bytes_per_position(config, dtype)


def picture_bytes(config: MoondreamConfig, dtype: torch.dtype) -> int:
    """An estimate of what encoding a picture of the most crops, and prefilling it, needs at once.

    Per patch eight values of the tower's width and two of its MLP; per position one text layer.
    """
    vision, text = config.vision, config.text
    patches = (vision.max_crops + 1) * vision.num_image_tokens
    tower = patches * (8 * vision.enc_dim + 2 * vision.enc_ff_dim) * dtype.itemsize
    widest = max(layer_bytes_per_position(config, dtype, i) for i in range(text.n_layers))
    return tower + text.prefix_attn * widest


def layer_bytes_per_position(config: MoondreamConfig, dtype: torch.dtype, index: int) -> int:
    """An estimate of what a text layer keeps of one position for its gradient.

    Eleven values of width D (the norm, q, k, v before and after rope, the attention's output);
    then 2 F in a dense MLP, or for each of K experts its input and output, [h | g], gelu(h) and
    the product.
    """
    text = config.text
    mlp = 2 * text.ff_dim
    if text.moe is not None and text.is_expert_layer(index):
        per_expert = 2 * text.dim + 4 * text.moe.expert_inner_dim
        mlp = text.moe.experts_per_token * per_expert
    return (11 * text.dim + mlp) * dtype.itemsize


def serving_bytes(
    config: MoondreamConfig, count: ParameterCount, storage: Storage, *, num_sequences: int = 1
) -> int:
    """Weights, one picture, and the keys and values of some sequences."""
    return (
        weight_bytes(count, storage)
        + picture_bytes(config, storage.dtype)
        + kv_bytes(config, storage.dtype, num_sequences=num_sequences)
    )


def num_adapter_parameters(config: MoondreamConfig, rank: int) -> int:
    """Parameters of an adapter.

    Raises:
        ValueError: The rank does not divide by the number of active experts.
    """
    return sum(math.prod(shape) for shape in adapter_shapes(config.text, rank).values())


def adapter_bytes(config: MoondreamConfig, rank: int) -> int:
    """Of an adapter in training."""
    return num_adapter_parameters(config, rank) * BYTES_PER_TRAINED_PARAMETER


def activation_bytes(config: MoondreamConfig, dtype: torch.dtype, *, num_positions: int) -> int:
    """An estimate of what a train step keeps of so many positions, all layers at once."""
    layers = range(config.text.n_layers)
    return num_positions * sum(layer_bytes_per_position(config, dtype, i) for i in layers)


def recomputed_bytes(config: MoondreamConfig, dtype: torch.dtype, *, num_positions: int) -> int:
    """The same where layers are computed again: what goes into each, and all of one layer."""
    text = config.text
    inputs = text.n_layers * text.dim * dtype.itemsize
    largest = max(layer_bytes_per_position(config, dtype, i) for i in range(text.n_layers))
    return num_positions * (inputs + largest)
