"""The tiny model on a GPU against itself on the CPU, in float32 and in bfloat16."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.comparison import NUM_SAMPLED, Comparison, worst_forward_errors
from benchmarks.gpu.differences import relative_error, weights
from benchmarks.gpu.oracle import start_oracle, wait_for_oracle
from benchmarks.gpu.places import TINY_CHECKPOINT, Place, adapter_at, start_weights
from benchmarks.gpu.report import Part, Report, short
from benchmarks.gpu.tiny_results import (
    LONG_ANSWER,
    computed_at,
    kept_computed,
    kept_rollouts,
    rollouts_at,
)
from contract.engine import FileRef
from trainer.loading import load
from trainer.model.layouts import FP8
from trainer.model.moe import ExpertWeights, widened

# Relative L2 errors, the largest of all cases, and shares of equal rollouts. Float32 differs from
# float32 by the order of additions alone, about 1e-6 a pass; bfloat16 keeps 8 bits, and a near-tie
# may choose another expert.
FLOAT32_BOUNDS = {
    "features": 1e-5,
    "hidden": 1e-5,
    "logits": 1e-5,
    "coordinates": 1e-5,
    "greedy": 1.0,
    "sampled": 0.98,
    "loss": 1e-5,
    "grad_norm": 1e-4,
    "gradient": 1e-3,
    "weights": 1e-4,
}
BFLOAT16_BOUNDS = {
    "features": 0.02,
    "hidden": 0.2,
    "logits": 0.2,
    "coordinates": 0.2,
    "greedy": 0.1,
    "sampled": 0.3,
    "loss": 0.05,
    "grad_norm": 0.2,
    "gradient": 0.3,
    "weights": 0.03,
}


def check_correctness(report: Report, device: str, directory: Path) -> None:
    """The oracle's tests run in a process of their own, beside all else."""
    oracle_tests = start_oracle(device)
    try:
        _compare(report, device, directory)
        report.run("oracle", partial(wait_for_oracle, report, oracle_tests), is_verdict=True)
    finally:
        oracle_tests.kill()
        oracle_tests.wait()


def _compare(report: Report, device: str, directory: Path) -> None:
    start = start_weights(directory)
    reference, exact, rounded = ("cpu", "float32"), (device, "float32"), (device, "bfloat16")
    Comparison(report, directory, start, exact, reference, FLOAT32_BOUNDS).run()
    Comparison(report, directory, start, rounded, exact, BFLOAT16_BOUNDS).run()
    work = partial(compare_fp8, device, start, report)
    report.run("fp8 experts", work, is_verdict=True)
    for place in (exact, rounded):
        report.run(f"twice on {' '.join(place)}", partial(repeat, report, directory, start, place))


def compare_fp8(device: str, start: FileRef, report: Report, part: Part) -> None:
    """Experts that stay in fp8 on the device, against the same numbers widened on the CPU."""
    places = (device, "float32"), ("cpu", "float32")
    kept, wide = (
        load(TINY_CHECKPOINT, name="tiny", device=place[0], dtype=place[1]) for place in places
    )
    pairs = zip(kept.model.modules(), wide.model.modules(), strict=True)
    for ours, theirs in pairs:
        if isinstance(ours, ExpertWeights) and isinstance(theirs, ExpertWeights):
            weight_EOI = theirs.weight.detach()
            scale_EO = weight_EOI.abs().amax(-1) / torch.finfo(FP8).max
            rounded_EOI = (weight_EOI / scale_EO[..., None]).to(FP8)
            theirs.weight.copy_(widened(rounded_EOI, scale_EO))
            ours.keep_fp8(rounded_EOI.to(device), scale_EO.to(device))
    adapters = (adapter_at(place, start) for place in places)
    part |= worst_forward_errors(kept, wide, *adapters)
    report.check(f"{device} fp8 experts: logits", part["logits"], bound=FLOAT32_BOUNDS["logits"])


def repeat(report: Report, directory: Path, start: FileRef, place: Place, part: Part) -> None:
    """Whether the same call gives the same bits twice; a finding, not a verdict."""
    again = rollouts_at(place, start, directory, LONG_ANSWER, num=NUM_SAMPLED)
    found: dict[str, Any] = {
        "rollouts": again == kept_rollouts(place, start, directory, LONG_ANSWER, num=NUM_SAMPLED)
    }
    for mode in ("rl", "sft"):
        one = weights(kept_computed(place, start, directory, mode))
        two = weights(computed_at(place, start, directory, mode))
        found[f"{mode} step"] = torch.equal(one, two)
        part[f"{mode} step, error"] = relative_error(two, one)
    part["equal"] = found
    part["summary"] = short(found)
    report.line(f"the same bits twice, {' '.join(place)}: {short(found)}")
