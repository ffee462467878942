"""The least time that the hardware could take for what the model has to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.measuring import GIGA
from trainer.model.moe import MoeMlp
from trainer.model.moondream import Moondream


class Floors:
    """From what was measured of the hardware, `measure_hardware`."""

    def __init__(self, model: Moondream, hardware: dict[str, Any]):
        self._config = model.config.text
        self._bytes_per_second = hardware["bandwidth_gb_per_second"] * GIGA
        self._flops = hardware["bfloat16_tflops"] * 1e12
        weights = {n: p for n, p in model.text.named_parameters() if n != "wte"}
        experts = {n: p for n, p in weights.items() if p.ndim == 3}
        num_experts = self._config.moe.num_experts if self._config.moe else 1
        self._shared = sum(p.numel() for n, p in weights.items() if n not in experts)
        self._head = model.text.lm_head.weight.numel()
        self._each_expert = sum(p.numel() for p in experts.values()) / num_experts
        self._num_bytes = model.text.wte.element_size()

    def decode(self, *, num_experts: float, num_rows: int, context: float) -> dict[str, float]:
        """One decoding step: every weight that is used is read once; and with the cache.

        Args:
            num_experts: Different experts that a layer uses in the step, mean over layers.
        """
        weights = self._num_bytes * (self._shared + num_experts * self._each_expert)
        config = self._config
        cache = self._num_bytes * 2 * config.n_layers * config.dim * context * num_rows
        return {
            "distinct_experts": num_experts,
            "weights_gb": weights / GIGA,
            "cache_gb": cache / GIGA,
            "roofline_ms": 1e3 * weights / self._bytes_per_second,
            "roofline_with_cache_ms": 1e3 * (weights + cache) / self._bytes_per_second,
        }

    def train(self, *, num_rows: int, length: int, num_actions: int) -> float:
        """Seconds of a step as it is computed now: every row whole, reference, forward, backward.

        The base is frozen, so that backward costs as much as forward; the head reads actions alone.
        """
        config = self._config
        active = config.moe.experts_per_token if config.moe else 0
        per_position = self._shared - self._head + active * self._each_expert
        attention = 4 * config.n_layers * length**2 * config.dim
        forward_flops = 2 * per_position * length + attention
        head_flops = 2 * self._head * num_actions
        return num_rows * (3 * forward_flops + attention + 3 * head_flops) / self._flops


@contextmanager
def counted_experts(model: Moondream) -> Iterator[list[int]]:
    """Collect, for every decoding step and expert layer, how many experts were chosen."""
    counts: list[int] = []

    def note(router: torch.nn.Module, _: Any, logits_BTE: Tensor) -> None:
        if logits_BTE.shape[1] == 1:
            chosen = logits_BTE.topk(chosen_per_token, dim=-1).indices
            counts.append(len(chosen.unique()))

    layers = [block.mlp for block in model.text.blocks if isinstance(block.mlp, MoeMlp)]
    chosen_per_token = layers[0].experts_per_token if layers else 0
    hooks = [layer.router.register_forward_hook(note) for layer in layers]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()
