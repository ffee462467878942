"""A run of the study, as plain values that name it: the same plan gives the same curve."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Mode = Literal["rl", "sft"]

Phases = tuple[tuple[Mode, int], ...]
"""One after another: the mode, and how many train steps."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One finetune from fresh to trained.

    Attributes:
        task: A key of `benchmarks.learning_study.tasks.TASKS`.
        variant: What the run is called in tables and pictures.
        seed: Of the adapter, the training pictures and all draws.
        phases: RL and supervised steps.
        num_groups: Of a step; a supervised group has one target.
        num_rollouts: Of a group.
        num_steps_per_sampling: Train steps whose rollouts one version of the weights makes; above 1
            those of the later steps are old by then, and importance ratios are not 1.
        num_held_out: Pictures that the curve is measured on, greedily.
        every: Steps between two measurements.
        options: Of the train step, where they differ from `START`.
    """

    task: str
    variant: str
    seed: int
    phases: Phases
    num_groups: int
    num_rollouts: int
    lr: float
    num_steps_per_sampling: int = 1
    num_held_out: int
    every: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        return sum(steps for _, steps in self.phases)


START: dict[str, Any] = {
    "advantage_scale": "group",
    "std_floor": 1e-4,
    "loss": "group",
    "beta": 0.0,
    "expert_lr_ratio": 1.0,
}
"""What every comparison changes one value of. Named here, so that a default that changes does not
change what was compared."""
