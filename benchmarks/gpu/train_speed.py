"""How long a train step takes, and how far that is from its arithmetic."""

from __future__ import annotations

from benchmarks.gpu.large_model import QUERY, LargeModel
from benchmarks.gpu.measuring import median_seconds, peak_memory
from benchmarks.gpu.report import Part, Report

GROUP, TOKENS = 8, 64
"""Rollouts of a group and tokens of a rollout, about a picture of nine crops."""

TARGET_MS = 120.0
"""For one group, on the GPU that performance.md reckons with."""


def time_training(num: int, report: Report, large: LargeModel, part: Part) -> None:
    """Steps of so many groups, as a user has them and without their files."""
    groups, pictures = large.groups(num, num_rollouts=GROUP, num_tokens=TOKENS)
    with peak_memory(part):
        step_seconds = median_seconds(lambda: large.finetune.train_step(groups, pictures, lr=1e-5))
        compute_seconds = median_seconds(lambda: large.compute(groups, pictures))
    prompt = large.num_prompt(QUERY)
    floor = large.floors.train(num_groups=num, prompt=prompt, num_rollouts=GROUP, num_tokens=TOKENS)
    part |= {
        "num_groups": num,
        "num_rollouts": GROUP,
        "num_tokens": TOKENS,
        "num_prompt_positions": prompt,
        "step_seconds": step_seconds,
        "compute_seconds": compute_seconds,
        "ms_per_group": 1e3 * compute_seconds / num,
        "roofline_seconds": floor,
        "share_of_peak": floor / compute_seconds,
    }
    report.line(
        f"train step, {num} x {GROUP} rollouts of {TOKENS} tokens: {step_seconds:.2f} s, without "
        f"files {part['ms_per_group']:.0f} ms a group (target {TARGET_MS:.0f}), "
        f"{100 * part['share_of_peak']:.0f} % of peak ({1e3 * floor / num:.0f} ms), "
        f"peak {part['peak_gb']:.1f} GB"
    )
