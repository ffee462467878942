"""The kinds of work that share a device; the API gives turns by them, the trainer time."""

from __future__ import annotations

from enum import StrEnum


class WorkClass(StrEnum):
    """What a call wants of the device."""

    INFERENCE = "inference"
    ROLLOUTS = "rollouts"
    TRAINING = "training"
    BATCH = "batch"
    """Lines of batches, for which nobody waits: what the others leave."""
