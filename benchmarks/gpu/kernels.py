"""What a step launches on the device, and how long that keeps it busy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.large_model import NUM_ROLLOUTS, QUERY, LargeModel
from benchmarks.gpu.measuring import synchronize
from benchmarks.gpu.report import Part, Report


class Kernels:
    """How often each kernel ran, and for how long."""

    def __init__(self, counts: dict[str, float], milliseconds: dict[str, float]):
        self._counts = counts
        self._milliseconds = milliseconds

    def less(self, other: Kernels) -> Kernels:
        return Kernels(
            {n: c - other._counts.get(n, 0.0) for n, c in self._counts.items()},
            {n: t - other._milliseconds.get(n, 0.0) for n, t in self._milliseconds.items()},
        )

    def divided(self, number: int) -> Kernels:
        return Kernels(
            {n: c / number for n, c in self._counts.items()},
            {n: t / number for n, t in self._milliseconds.items()},
        )

    @property
    def _busy_ms(self) -> float:
        return sum(self._milliseconds.values())

    def summary(self, whole_ms: float | None) -> dict[str, Any]:
        """Launches, busy time, its share of the time without the profiler, the eight longest."""
        longest = sorted(self._milliseconds, key=lambda n: -self._milliseconds[n])[:8]
        return {
            "num_launches": sum(self._counts.values()),
            "busy_ms": self._busy_ms,
            "busy_share": None if whole_ms is None else self._busy_ms / whole_ms,
            "longest": [
                {"name": n[:160], "count": self._counts[n], "ms": self._milliseconds[n]}
                for n in longest
            ],
        }

    def line(self, whole_ms: float | None) -> str:
        share = "" if whole_ms is None else f", {100 * self._busy_ms / whole_ms:.0f} % of the time"
        return f"{sum(self._counts.values()):.0f} launches, busy {self._busy_ms:.2f} ms{share}"


def kernels_of(work: Callable[[], Any]) -> Kernels:
    """Profile a call; without a GPU the operators of the CPU stand in for kernels."""
    has_gpu = torch.cuda.is_available()
    activity = ProfilerActivity.CUDA if has_gpu else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        work()
        synchronize()
    counts: dict[str, float] = defaultdict(float)
    milliseconds: dict[str, float] = defaultdict(float)
    for event in profiler.events() or ():
        if has_gpu and event.device_type != DeviceType.CUDA:
            continue
        counts[event.name] += 1
        milliseconds[event.name] += event.time_range.elapsed_us() / 1e3
    if not counts:
        raise RuntimeError("the profiler saw no kernel")
    return Kernels(dict(counts), dict(milliseconds))


def profile_decoding(report: Report, large: LargeModel, part: Part) -> None:
    """The difference between answers of nine tokens and of one, by eight."""
    for num in (1, NUM_ROLLOUTS):
        short = kernels_of(lambda n=num: large.roll(QUERY, n, max_tokens=1))
        long = kernels_of(lambda n=num: large.roll(QUERY, n, max_tokens=9))
        step = long.less(short).divided(8)
        whole_ms = report.parts[f"query, {num} rollouts"].get("decode_ms_per_step")
        part[f"{num} rollouts"] = step.summary(whole_ms)
        report.line(f"kernels of a step, {num:2d} rollouts: {step.line(whole_ms)}")


def profile_training(report: Report, large: LargeModel, part: Part) -> None:
    groups, pictures = large.groups(1)
    large.compute(groups, pictures)
    step = kernels_of(lambda: large.compute(groups, pictures))
    seconds = report.parts[f"train step, 1 x {NUM_ROLLOUTS} rollouts"].get("compute_seconds")
    whole_ms = None if seconds is None else 1e3 * seconds
    part |= step.summary(whole_ms)
    report.line(f"kernels of a train step, 1 x {NUM_ROLLOUTS}: {step.line(whole_ms)}")
