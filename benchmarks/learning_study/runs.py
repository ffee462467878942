"""Which runs the study has: every task by itself, then one change at a time, then winner and start.

The comparisons are on query and detect. Each changes one thing of `START`; only `expert_lr_ratio`
goes with several learning rates, because it makes the steps of the experts longer as well. The
losses are compared on rollouts up to three steps old: on fresh ones every importance ratio is 1, so
that no clip cuts, and `gspo` is `grpo`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.learning_study.plan import START, Phases, Plan

SEEDS = (1, 2, 3)
FEWER_SEEDS = (1, 2)
NEW_SEEDS = (4, 5, 6, 7)
"""For the last comparison, so that the winner was not chosen by them."""

COMPARED = ("query", "detect")

REFERENCE_RATE = (1.0, 5e-3)
LAST_RATES = {
    REFERENCE_RATE: ("query", "detect", "point"),
    (2.0, 5e-3): ("query", "detect", "point"),
    (1.0, 7e-3): COMPARED,
}
"""Of the last comparison: `expert_lr_ratio` with a learning rate, and on which tasks. The third has
the experts' rate between those of the others, so that a longer step is told from a better ratio."""

_QUERY = Plan(
    task="query",
    variant="start",
    seed=1,
    phases=(("rl", 16),),
    num_groups=4,
    num_rollouts=4,
    lr=2e-3,
    num_held_out=64,
    every=4,
)
_DETECT = replace(_QUERY, task="detect", phases=(("rl", 24),), num_rollouts=8, lr=5e-3, every=6)
_POINT = replace(_DETECT, task="point")
_WORD = replace(
    _QUERY,
    task="word",
    phases=(("sft", 40),),
    num_groups=8,
    lr=5e-3,
    num_held_out=32,
    every=8,
)

BY_TASK = {plan.task: plan for plan in (_QUERY, _POINT, _DETECT, _WORD)}

LR_GRID = {
    1: (2e-3, 5e-3, 1e-2),
    2: (2e-3, 5e-3),
    4: (2e-3, 5e-3),
    8: (2e-3, 5e-3),
    16: (1e-3, 2e-3),
}
"""`expert_lr_ratio` and the learning rates it goes with."""

SCALES: tuple[dict[str, Any], ...] = ({"advantage_scale": "none"}, {"advantage_scale": "batch"})
ONE_CHANGE: tuple[dict[str, Any], ...] = ({"std_floor": 0.05}, {"beta": 0.05})
STEPS_PER_SAMPLING = 4
LOSSES: tuple[dict[str, Any], ...] = (
    {},
    {"loss": "grpo"},
    {"loss": "dr_grpo", "advantage_scale": "none"},
    {"loss": "dapo"},
    {"loss": "gspo"},
    {"loss": "gspo", "clip_low": 0.02, "clip_high": 0.02},
)


def all_runs() -> list[Plan]:
    """In the order in which they are made; none twice."""
    runs = [*task_runs(), *option_runs(), *rate_runs(), *loss_runs(), *last_runs()]
    return once(runs)


def quick_runs() -> list[Plan]:
    """Of every task one short run: shows that it works, and nothing more."""
    runs = [replace(plan, num_held_out=16) for plan in task_runs() if plan.seed == SEEDS[0]]
    return once(runs)


def once(runs: list[Plan]) -> list[Plan]:
    return [plan for index, plan in enumerate(runs) if plan not in runs[:index]]


def task_runs() -> list[Plan]:
    """The curve of every task at the start, and what supervised steps in front of RL are worth."""
    phases = [
        *((plan, plan.phases) for plan in BY_TASK.values()),
        *in_phases(_DETECT, num_steps=24, num_sft=6),
        *in_phases(_WORD, num_steps=40, num_sft=24),
    ]
    return [replace(plan, seed=seed, phases=chosen) for plan, chosen in phases for seed in SEEDS]


def in_phases(plan: Plan, *, num_steps: int, num_sft: int) -> list[tuple[Plan, Phases]]:
    """RL alone, supervised steps alone, and some of these and then RL: steps in all are equal."""
    return [
        (plan, (("rl", num_steps),)),
        (plan, (("sft", num_steps),)),
        (plan, (("sft", num_sft), ("rl", num_steps - num_sft))),
    ]


def option_runs() -> list[Plan]:
    scales = [changed(task, s, **change) for change in SCALES for task in COMPARED for s in SEEDS]
    others = [
        changed(task, seed, **change)
        for change in ONE_CHANGE
        for task in COMPARED
        for seed in FEWER_SEEDS
    ]
    return [*scales, *others]


def loss_runs() -> list[Plan]:
    return [
        changed(task, seed, num_steps_per_sampling=STEPS_PER_SAMPLING, **change)
        for change in LOSSES
        for task in COMPARED
        for seed in FEWER_SEEDS
    ]


def rate_runs() -> list[Plan]:
    return [
        changed(task, seed, lr=lr, expert_lr_ratio=float(ratio))
        for ratio, rates in LR_GRID.items()
        for lr in rates
        for task in COMPARED
        for seed in FEWER_SEEDS
    ]


def last_runs() -> list[Plan]:
    """What came closest to the start by both tasks, on seeds that did not choose it."""
    return [
        changed(task, seed, lr=lr, expert_lr_ratio=ratio)
        for (ratio, lr), tasks in LAST_RATES.items()
        for task in tasks
        for seed in NEW_SEEDS
    ]


def changed(
    task: str,
    seed: int,
    *,
    lr: float | None = None,
    num_steps_per_sampling: int = 1,
    **options: Any,
) -> Plan:
    """The run of a task with other options; what is as at the start does not count as a change."""
    plan = BY_TASK[task]
    options = {name: value for name, value in options.items() if START.get(name) != value}
    parts = [f"{name} {value}" for name, value in options.items()]
    if lr is not None and lr != plan.lr:
        parts.append(f"lr {lr:g}")
    if num_steps_per_sampling > 1:
        parts.append(f"{num_steps_per_sampling} steps per sampling")
    return replace(
        plan,
        seed=seed,
        lr=plan.lr if lr is None else lr,
        num_steps_per_sampling=num_steps_per_sampling,
        options=options,
        variant=", ".join(parts) or "start",
    )
