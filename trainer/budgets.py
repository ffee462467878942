"""How the memory that a loaded model leaves free is divided between what is kept and what grows.

On a GPU the rest, about a tenth, is for what a pass needs on its way.
On a CPU the parts are upper bounds; nothing is taken before it is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from contract.engine import RANKS
from trainer.device_memory import device_memory
from trainer.memory import BYTES_PER_TRAINED_PARAMETER, adapter_bytes
from trainer.model.kv_blocks import block_bytes, num_blocks_for
from trainer.model.published_config import MoondreamConfig

ANSWERS, PROMPTS, PICTURES, ADAPTERS, TRAINING = 0.25, 0.2, 0.05, 0.15, 0.25
"""Parts of the free memory of a GPU; what a train step keeps for its gradient is the last."""

CPU_ANSWERS_BYTES, CPU_PROMPTS_BYTES, CPU_PICTURES_BYTES = 1 << 30, 2 << 30, 2 << 30
HOST_PART = 0.1
"""Of the free memory of the host, for pictures and as much for adapters that left the device."""

CPU_TRAINING_PART, CPU_TRAINING_BYTES = 0.3, 2 << 30
"""Of the free memory of the host, for train steps on a CPU; where that is unknown, so many."""

MAX_SLOTS = 48
GPU_PREFILL_POSITIONS, CPU_PREFILL_POSITIONS = 4096, 1024
GPU_ROW_BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
MAX_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """What a sampler may take.

    Attributes:
        num_blocks: For growing answers; at least what the longest possible one takes.
        prefix_bytes: Prompts.
        feature_bytes, host_feature_bytes: Pictures on the device and behind it.
        num_slots, host_adapter_bytes: Adapters on the device and behind it.
        train_bytes: What a part of a train step may keep for its gradient.
        max_prefill_positions: Of one pass over prompts.
        max_rows: Answers that grow at the same time.
        row_buckets: Numbers of rows that steps are filled up to.
    """

    num_blocks: int
    prefix_bytes: int
    feature_bytes: int
    host_feature_bytes: int
    num_slots: int
    host_adapter_bytes: int
    train_bytes: int
    max_prefill_positions: int
    max_rows: int = MAX_ROWS
    row_buckets: tuple[int, ...] = ()

    @classmethod
    def of(cls, config: MoondreamConfig, device: torch.device, dtype: torch.dtype) -> Budgets:
        """Divide what is free now, after the model was loaded."""
        host = device_memory(torch.device("cpu"))
        host_bytes = int(HOST_PART * host.free) if host is not None else CPU_PICTURES_BYTES
        free = device_memory(device) if device.type == "cuda" else None
        longest = num_blocks_for(config.text.max_context)
        if free is None:
            answers, prompts, pictures = CPU_ANSWERS_BYTES, CPU_PROMPTS_BYTES, CPU_PICTURES_BYTES
            num_slots = MAX_SLOTS
            training = int(CPU_TRAINING_PART * host.free) if host else CPU_TRAINING_BYTES
        else:
            parts = (ANSWERS, PROMPTS, PICTURES, ADAPTERS, TRAINING)
            answers, prompts, pictures, adapters, training = (int(p * free.free) for p in parts)
            largest = adapter_bytes(config, max(RANKS))
            slot = largest * dtype.itemsize // BYTES_PER_TRAINED_PARAMETER
            num_slots = min(MAX_SLOTS, max(2, adapters // slot))
        return cls(
            num_blocks=max(longest, answers // block_bytes(config.text, dtype)),
            prefix_bytes=prompts,
            feature_bytes=pictures,
            host_feature_bytes=host_bytes,
            num_slots=num_slots,
            host_adapter_bytes=host_bytes,
            train_bytes=training,
            max_prefill_positions=(
                CPU_PREFILL_POSITIONS if free is None else GPU_PREFILL_POSITIONS
            ),
            row_buckets=() if free is None else GPU_ROW_BUCKETS,
        )
