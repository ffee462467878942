"""What a step launches on the device, and how long that keeps it busy."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.decode_speed import JUDGED, count_experts, reads_of, rows_of_groups
from benchmarks.gpu.floors import LAUNCH_US, levers
from benchmarks.gpu.growing import growing, tick, tick_ms
from benchmarks.gpu.large_model import NUM_ROLLOUTS, LargeModel
from benchmarks.gpu.measuring import seconds_of, synchronize
from benchmarks.gpu.report import Part, Report

NUM_TICKS = 10
NUM_LONGEST, NUM_SHOWN = 20, 8


class Kernels:
    """How often each kernel ran, and for how long; copies and fills count as kernels."""

    def __init__(self, counts: dict[str, float], milliseconds: dict[str, float]):
        self._counts = counts
        self._milliseconds = milliseconds

    def divided(self, number: int) -> Kernels:
        return Kernels(
            {n: c / number for n, c in self._counts.items()},
            {n: t / number for n, t in self._milliseconds.items()},
        )

    @property
    def num_launches(self) -> float:
        return sum(self._counts.values())

    @property
    def busy_ms(self) -> float:
        return sum(self._milliseconds.values())

    def longest(self, num: int = NUM_LONGEST) -> list[Part]:
        """Those that take most of the time, all calls of one together."""
        names = sorted(self._milliseconds, key=lambda n: -self._milliseconds[n])[:num]
        return [
            {
                "name": n[:160],
                "count": self._counts[n],
                "ms": self._milliseconds[n],
                "share": self._milliseconds[n] / self.busy_ms,
            }
            for n in names
        ]

    def count_of(self, words: str) -> float:
        """Calls of those whose names begin so."""
        return sum(count for name, count in self._counts.items() if name.startswith(words))

    def summary(self, whole_ms: float) -> dict[str, Any]:
        """Launches, busy time, its share of the time without the profiler, the longest."""
        return {
            "num_launches": self.num_launches,
            "num_copies_to_device": self.count_of("Memcpy HtoD"),
            "num_copies_to_host": self.count_of("Memcpy DtoH"),
            "busy_ms": self.busy_ms,
            "busy_share": self.busy_ms / whole_ms,
            "longest": self.longest(),
        }


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
        if not has_gpu and event.cpu_parent is not None:
            continue  # its parent's time holds it
        counts[event.name] += 1
        milliseconds[event.name] += event.time_range.elapsed_us() / 1e3
    if not counts:
        raise RuntimeError("the profiler saw no kernel")
    return Kernels(dict(counts), dict(milliseconds))


def profile_ticks(report: Report, large: LargeModel, part: Part) -> None:
    """Ten ticks of 64 rows in 4 groups: where the time goes that is not reading of weights.

    The host's part is measured without the profiler: a tick that begins when the device has nothing
    to do returns as soon as everything of it is launched, but for the draws that it waits for.
    """
    num_rows, num_groups = JUDGED
    decoder = growing(large.model, rows_of_groups(large, num_rows, num_groups))
    whole_ms = tick_ms(decoder)
    issued, cpu = [], []
    for _ in range(NUM_TICKS):
        synchronize()
        started, cpu_started = time.perf_counter(), time.process_time()
        decoder.tick()
        issued.append(1e3 * (time.perf_counter() - started))
        cpu.append(1e3 * (time.process_time() - cpu_started))
    found = kernels_of(lambda: tick(decoder, NUM_TICKS)).divided(NUM_TICKS)
    ceiling = reads_of(large, *JUDGED, count_experts(large, decoder))
    part |= {
        "tick_ms": whole_ms,
        "host_ms": statistics.median(issued),
        "cpu_ms": statistics.median(cpu),
        "ceiling_ms": large.floors.milliseconds(ceiling),
        **found.summary(whole_ms),
    }
    report.line(
        f"a tick of {num_rows} rows: {whole_ms:.2f} ms, device busy {found.busy_ms:.2f} ms, idle "
        f"{100 * (1 - found.busy_ms / whole_ms):.0f} %; the host issues it in "
        f"{part['host_ms']:.2f} ms ({part['cpu_ms']:.2f} ms of CPU)"
    )
    gains = levers(
        num_launches=found.num_launches,
        tick_ms=whole_ms,
        busy_ms=found.busy_ms,
        ceiling_ms=part["ceiling_ms"],
    )
    part["levers"] = gains
    report.line(
        f"  {found.num_launches:.0f} launches x {LAUNCH_US:.0f} us = {gains['launch_ms']:.1f} ms; "
        f"{part['num_copies_to_device']:.0f} copies to the device, "
        f"{part['num_copies_to_host']:.0f} to the host"
    )
    report.line(
        f"  without idleness {gains['times_faster_without_idleness']:.1f} x faster; kernels at the "
        f"ceiling {gains['times_faster_with_kernels_at_the_ceiling']:.1f} x more"
    )
    for kernel in part["longest"][:NUM_SHOWN]:
        report.line(
            f"  {100 * kernel['share']:3.0f} %  {kernel['ms']:6.3f} ms  x {kernel['count']:5.0f}  "
            f"{kernel['name'][:60]}"
        )


def profile_training(report: Report, large: LargeModel, part: Part) -> None:
    groups, pictures = large.groups(1)
    large.compute(groups, pictures)
    whole_ms = 1e3 * seconds_of(lambda: large.compute(groups, pictures))
    step = kernels_of(lambda: large.compute(groups, pictures))
    part |= step.summary(whole_ms)
    report.line(
        f"a train step of 1 x {NUM_ROLLOUTS}: {step.num_launches:.0f} launches, device busy "
        f"{step.busy_ms:.1f} ms of {whole_ms:.1f} ms"
    )
