"""The numbers of a step that callers see beside the loss (http-api.md 10.5).

Rewards are of any size: `statistics.mean` adds exactly, so no sum overflows.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from contract.engine import TrainStep
from contract.groups import RLGroup
from trainer.step_plan import Plan
from trainer.tally import Tally, finite_or_none


def reward_metrics(groups: Sequence[RLGroup]) -> tuple[float | None, float | None]:
    """Mean of the groups' mean rewards, and the population deviation of all rewards.

    Both are None without groups.
    """
    if not groups:
        return None, None
    everything = [reward for group in groups for reward in group.rewards]
    mean = statistics.mean([statistics.mean(group.rewards) for group in groups])
    return mean, statistics.pstdev(everything)


def step_extras(
    command: TrainStep,
    plan: Plan,
    tally: Tally,
    *,
    num_images: int,
    seconds: float,
    peak_memory_bytes: int,
) -> dict[str, Any]:
    """The optional fields of a step's answer; None where there is nothing to tell."""
    num_tokens = sum(len(example.row.actions) for example in plan.examples)
    has_rl = any(example.is_rl for example in plan.examples)
    # A policy_step ahead of ours was made up, or belongs to another finetune.
    lags = [
        command.adapter.step - example.policy_step
        for example in plan.examples
        if example.policy_step is not None and 0 <= example.policy_step <= command.adapter.step
    ]
    by_skill: dict[str, list[float]] = {}
    for group in command.groups:
        if isinstance(group, RLGroup):
            by_skill.setdefault(group.request.skill, []).append(statistics.mean(group.rewards))
    has_gap = tally.gap.count > 0
    return {
        "lr": command.lr,
        "num_tokens": num_tokens,
        "policy_lag": statistics.mean(lags) if lags else None,
        "clip_fraction": tally.num_clipped / tally.num_actions if tally.num_actions else None,
        "ratio_mean": finite_or_none(tally.ratio.mean) if has_gap else None,
        "ratio_max": finite_or_none(tally.ratio_max) if has_gap else None,
        "rollouts_dropped": tally.num_dropped,
        "logprob_gap_mean": finite_or_none(tally.gap.mean) if has_gap else None,
        "logprob_gap_max": finite_or_none(tally.gap_max) if has_gap else None,
        "entropy": finite_or_none(tally.entropy.mean) if has_rl else None,
        "groups_skipped": plan.num_groups_without_signal,
        "positions_computed": tally.num_positions,
        "positions_saved": tally.num_alone - tally.num_positions,
        "tokens_per_second": num_tokens / seconds,
        "images_per_second": num_images / seconds,
        "peak_memory_bytes": peak_memory_bytes,
        "reward_by_skill": {skill: statistics.mean(means) for skill, means in by_skill.items()},
        "warnings": list(plan.warnings),
    }
