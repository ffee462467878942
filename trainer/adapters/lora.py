"""The adapter of a finetune: low-rank factors on the MLPs of the text model, float32 masters.

    dense layer    y += B A x             A [r, in], B [out, r]
    expert e       y += B_e A_e x         A [E, r / K, in], B [E, out, r / K]

No alpha, no scale, no dropout. A starts uniform in +-1 / sqrt(in), B at zero, so a fresh adapter
answers like the base model. Source: model-facts.md section 8.

Letters: D width, F dense inner width, I expert inner width, E experts, K experts per token, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from contract.engine import RANKS
from trainer.model.config import TextConfig
from trainer.model.lora_hook import AdapterRows

FACTORS = ("up_a", "up_b", "down_a", "down_b")


@dataclass(frozen=True, kw_only=True)
class LoraLayer:
    """The four factors of one layer, the same for all rows; shapes in `adapter_shapes`."""

    up_a: Tensor
    up_b: Tensor
    down_a: Tensor
    down_b: Tensor
    rows: AdapterRows | None = None


class Adapter:
    """Named factors, in the order and with the names of the exchange format."""

    def __init__(self, config: TextConfig, rank: int, tensors: Mapping[str, Tensor]):
        """Hold `tensors` as they are, without a copy.

        Raises:
            ValueError: Names or shapes are not those of an adapter of this rank for this model.
        """
        shapes = adapter_shapes(config, rank)
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if found != shapes:
            wrong = sorted(set(found.items()) ^ set(shapes.items()))
            raise ValueError(f"these tensors do not make an adapter of rank {rank}: {wrong[:6]}")
        self._config = config
        self.rank = rank
        self.tensors = {name: tensors[name] for name in shapes}
        self._layers = [self._layer_of(layer_name(config, i)) for i in range(config.n_layers)]

    @classmethod
    def fresh(
        cls, config: TextConfig, rank: int, *, seed: int, device: torch.device | str = "cpu"
    ) -> Adapter:
        """A new adapter that changes nothing yet; the same seed gives the same factors anywhere."""
        generator = torch.Generator().manual_seed(seed)
        tensors: dict[str, Tensor] = {}
        for name, shape in adapter_shapes(config, rank).items():
            if name.endswith("_a"):
                bound = 1.0 / math.sqrt(shape[-1])
                factor = (torch.rand(shape, generator=generator) * 2.0 - 1.0) * bound
            else:
                factor = torch.zeros(shape)
            tensors[name] = factor.to(device)
        return cls(config, rank, tensors)

    def layer(self, index: int) -> LoraLayer:
        return self._layers[index]

    def _layer_of(self, name: str) -> LoraLayer:
        up_a, up_b, down_a, down_b = (self.tensors[f"{name}.{factor}"] for factor in FACTORS)
        return LoraLayer(up_a=up_a, up_b=up_b, down_a=down_a, down_b=down_b)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Adapter:
        """The same adapter on a device, or this one if it is there already."""
        moved = {name: tensor.to(device, dtype) for name, tensor in self.tensors.items()}
        if all(moved[name] is tensor for name, tensor in self.tensors.items()):
            return self
        return Adapter(self._config, self.rank, moved)

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


def layer_name(config: TextConfig, index: int) -> str:
    """`text_lora.dense.{i}` or `text_lora.moe.{i - start_layer}` of text layer i."""
    if config.moe is not None and config.is_expert_layer(index):
        return f"text_lora.moe.{index - config.moe.start_layer}"
    return f"text_lora.dense.{index}"


def is_expert_factor(name: str) -> bool:
    return name.startswith("text_lora.moe.")


def adapter_bytes_per_rank(config: TextConfig) -> int:
    """Bytes of an adapter's masters, per unit of rank."""
    rank = RANKS[0]
    shapes = adapter_shapes(config, rank).values()
    return sum(map(math.prod, shapes)) * torch.float32.itemsize // rank


def adapter_shapes(config: TextConfig, rank: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of an adapter and its shape, in the order of the layers.

    Raises:
        ValueError: The rank does not divide by the number of active experts.
    """
    moe = config.moe
    if moe is not None and rank % moe.experts_per_token:
        raise ValueError(
            f"rank {rank} does not divide by the {moe.experts_per_token} active experts per token"
        )
    shapes: dict[str, tuple[int, ...]] = {}
    for index in range(config.n_layers):
        if moe is not None and config.is_expert_layer(index):
            lead, r = (moe.num_experts,), rank // moe.experts_per_token
            up_out, inner = 2 * moe.expert_inner_dim, moe.expert_inner_dim
        else:
            lead, r = (), rank
            up_out, inner = config.ff_dim, config.ff_dim
        for factor, shape in zip(
            FACTORS, ((r, config.dim), (up_out, r), (r, inner), (config.dim, r)), strict=True
        ):
            shapes[f"{layer_name(config, index)}.{factor}"] = (*lead, *shape)
    return shapes
