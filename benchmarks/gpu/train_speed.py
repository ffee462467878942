"""How long a train step takes, and how far that is from its arithmetic."""

from __future__ import annotations

from benchmarks.gpu.large_model import NUM_ROLLOUTS, NUM_TOKENS, QUERY, LargeModel
from benchmarks.gpu.measuring import median_seconds, peak_memory
from benchmarks.gpu.report import Part, Report


def time_training(num: int, report: Report, large: LargeModel, part: Part) -> None:
    groups, pictures = large.groups(num)
    with peak_memory(part):
        step_seconds = median_seconds(lambda: large.finetune.train_step(groups, pictures, lr=1e-5))
        compute_seconds = median_seconds(lambda: large.compute(groups, pictures))
    length = large.num_prompt(QUERY) + NUM_TOKENS - 1
    num_rows = num * NUM_ROLLOUTS
    floor = large.floors.train(num_rows=num_rows, length=length, num_actions=NUM_TOKENS)
    part |= {
        "num_rows": num_rows,
        "num_positions_per_row": length,
        "step_seconds": step_seconds,
        "compute_seconds": compute_seconds,
        "roofline_seconds": floor,
        "ratio_to_roofline": compute_seconds / floor,
    }
    report.line(
        f"train step, {num} x {NUM_ROLLOUTS} rollouts: {step_seconds:.2f} s, without files "
        f"{compute_seconds:.2f} s, {part['ratio_to_roofline']:.1f} x its arithmetic "
        f"({1e3 * floor:.0f} ms), peak {part['peak_gb']:.1f} GB"
    )
