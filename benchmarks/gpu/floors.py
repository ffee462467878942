"""The least time that the hardware could take for what the model has to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.measuring import GIGA
from trainer.adapters.lora import Adapter, is_expert_factor
from trainer.model.moe import MoeMlp
from trainer.model.moondream import Moondream

LAUNCH_US = 5.0
"""What one launch takes of the host, about: performance.md section 3."""


@dataclass(frozen=True, kw_only=True)
class TickReads:
    """Bytes that a decoding step cannot do without, each read once.

    Attributes:
        weights: Shared ones with the head, and the experts that were chosen.
        adapters: Their factors; of experts, those of the chosen ones.
        cache: The prompt of each group once, and what each row added to it.
    """

    weights: float
    adapters: float
    cache: float

    @property
    def total(self) -> float:
        return self.weights + self.adapters + self.cache


class Floors:
    """From what was measured of the hardware, `measure_hardware`."""

    def __init__(self, model: Moondream, hardware: dict[str, Any]):
        self._config = model.config.text
        self._bytes_per_second = hardware["bandwidth_gb_per_second"] * GIGA
        self._flops = hardware["bfloat16_tflops"] * 1e12
        weights = {n: p for n, p in model.text.named_parameters() if n != "wte"}
        experts = {n: p for n, p in weights.items() if p.ndim == 3}
        self._num_experts = self._config.moe.num_experts if self._config.moe else 1
        self._shared = sum(p.numel() for n, p in weights.items() if n not in experts)
        self._head = model.text.lm_head.weight.numel()
        self._each_expert = sum(p.numel() for p in experts.values()) / self._num_experts
        self._num_bytes = model.text.wte.element_size()

    def tick(
        self,
        *,
        num_experts: float,
        prompts: Sequence[int],
        num_rows: int,
        num_added: float,
        adapters: Sequence[Adapter] = (),
    ) -> TickReads:
        """What one decoding step reads. The region's heads, a thousandth of it, are left out.

        Args:
            num_experts: Different experts that a layer uses in the step, mean over layers.
            prompts: Positions of each group's prompt.
            num_added: Positions that each row added, mean.
        """
        config = self._config
        position = self._num_bytes * 2 * config.n_layers * config.dim
        chosen = num_experts / self._num_experts
        return TickReads(
            weights=self._num_bytes * (self._shared + num_experts * self._each_expert),
            adapters=sum(
                tensor.nbytes * (chosen if is_expert_factor(name) else 1.0)
                for adapter in adapters
                for name, tensor in adapter.tensors.items()
            ),
            cache=position * (sum(prompts) + num_rows * num_added),
        )

    def milliseconds(self, reads: TickReads) -> float:
        """At the bandwidth of a large copy."""
        return 1e3 * reads.total / self._bytes_per_second

    def train(self, *, num_groups: int, prompt: int, num_rollouts: int, num_tokens: int) -> float:
        """Seconds of a step: reference, forward and backward pass, every prompt once.

        The base is frozen, so that backward costs as much as forward, and twice that of attention;
        the head reads actions alone.

        Args:
            prompt: Positions of picture and prompt.
            num_rollouts: Of a group.
            num_tokens: Of a rollout.
        """
        config = self._config
        active = config.moe.experts_per_token if config.moe else 0
        per_position = self._shared - self._head + active * self._each_expert
        num_positions = prompt + num_rollouts * (num_tokens - 1)
        pairs = prompt**2 + num_rollouts * num_tokens * (prompt + num_tokens / 2)
        attention = 4 * config.n_layers * config.dim * pairs
        linear = 2 * per_position * num_positions
        head = 2 * self._head * num_rollouts * num_tokens
        return num_groups * (3 * linear + 4 * attention + 3 * head) / self._flops


def levers(
    *, num_launches: float, tick_ms: float, busy_ms: float, ceiling_ms: float
) -> dict[str, float]:
    """What a tick would gain, were one thing put right after the other.

    Args:
        num_launches: Of a tick.
        tick_ms: Without the profiler.
        busy_ms: Of it, what the device computes.
        ceiling_ms: What it would take to read everything once.
    """
    return {
        "launch_ms": 1e-3 * LAUNCH_US * num_launches,
        "idle_share": 1.0 - busy_ms / tick_ms,
        "times_faster_without_idleness": tick_ms / busy_ms,
        "times_faster_with_kernels_at_the_ceiling": busy_ms / ceiling_ms,
    }


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
