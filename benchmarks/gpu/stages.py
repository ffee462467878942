"""What can be run, in the order in which it is: what is right first, then how fast it is."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu.correctness import check_correctness
from benchmarks.gpu.decode_speed import (
    ROWS_AND_GROUPS,
    ticks_name,
    time_boxes,
    time_finetunes,
    time_ticks,
)
from benchmarks.gpu.decoder_correctness import check_decoder
from benchmarks.gpu.from_disk import check_from_disk
from benchmarks.gpu.kernels import profile_ticks, profile_training
from benchmarks.gpu.large_model import LargeModel, built_model
from benchmarks.gpu.machine import measure_hardware
from benchmarks.gpu.measuring import GIGA, peak_memory, timed
from benchmarks.gpu.memory_use import measure_memory
from benchmarks.gpu.report import Part, Report
from benchmarks.gpu.request_speed import time_first_token, time_group, time_groups
from benchmarks.gpu.rounding import compare_with_alone, compare_with_scores
from benchmarks.gpu.sharing import measure_sharing
from benchmarks.gpu.train_speed import GROUP, time_training
from benchmarks.gpu.word_task import learn_word

Measure = Callable[[Report, LargeModel, Part], None]


class Bench:
    """One machine, and the large model once it is wanted.

    Args:
        directory: For files that nobody needs afterwards.
    """

    def __init__(self, report: Report, *, device: str, scale: str, directory: Path):
        self.report = report
        self.device = device
        self.scale = scale
        self.directory = directory
        self._large: LargeModel | None = None
        self._is_broken = False

    def measure(self, name: str, work: Measure) -> None:
        """A part about the large model; none where that could not be built."""
        if self._large is None and not self._is_broken:
            self.measure_hardware()
            self._large = self.report.run("build", self._build, is_verdict=True)
            self._is_broken = self._large is None
        if self._large is not None:
            self.report.run(name, partial(work, self.report, self._large))

    def measure_hardware(self) -> None:
        self.report.run("hardware", partial(measure_hardware, device=self.device))

    def forget(self) -> None:
        """Give the device back what the large model took."""
        self._large = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _build(self, part: Part) -> LargeModel:
        with peak_memory(part):
            loaded, seconds = timed(lambda: built_model(self.scale, self.device))
        part |= {"seconds": seconds, "num_parameters": loaded.info.num_parameters}
        self.forget()
        hardware = self.report.parts["hardware"]
        self.report.line(
            f"{loaded.info.num_parameters / GIGA:.2f} B parameters in {seconds:.1f} s; a copy moves"
            f" {hardware['bandwidth_gb_per_second']:.0f} GB/s, bfloat16 products "
            f"{hardware['bfloat16_tflops']:.0f} TFLOP/s"
        )
        return LargeModel(loaded, self.directory, hardware)


def _decoder(bench: Bench) -> None:
    work = partial(check_decoder, bench.report, bench.device)
    bench.report.run("decoder", work, is_verdict=True)


def _tiny(bench: Bench) -> None:
    check_correctness(bench.report, bench.device, bench.directory)


def _rounding(bench: Bench) -> None:
    bench.measure("sampler against trainer", compare_with_scores)
    bench.measure("alone against many rows", compare_with_alone)


def _decode(bench: Bench) -> None:
    for shape in ROWS_AND_GROUPS:
        bench.measure(ticks_name(*shape), partial(time_ticks, *shape))
    bench.measure("decode boxes", time_boxes)


def _training(bench: Bench) -> None:
    for num in (1, 4):
        bench.measure(f"train step, {num} x {GROUP} rollouts", partial(time_training, num))
    bench.measure("kernels of a train step", profile_training)


def _learning(bench: Bench) -> None:
    work = partial(learn_word, bench.device, bench.directory, bench.report)
    bench.report.run("learning", work, is_verdict=True)


def _from_disk(bench: Bench) -> None:
    bench.forget()
    bench.measure_hardware()
    check_from_disk(bench.report, scale=bench.scale, device=bench.device, directory=bench.directory)


def _one(name: str, work: Measure) -> Callable[[Bench], None]:
    return lambda bench: bench.measure(name, work)


STAGES: dict[str, Callable[[Bench], None]] = {
    "decoder": _decoder,
    "tiny": _tiny,
    "rounding": _rounding,
    "decode": _decode,
    "group": _one("group", time_group),
    "groups": _one("groups at once", time_groups),
    "finetunes": _one("finetunes", time_finetunes),
    "first-token": _one("first token", time_first_token),
    "profile": _one("profile of ticks", profile_ticks),
    "memory": _one("memory", measure_memory),
    "sharing": _one("sharing", measure_sharing),
    "training": _training,
    "learning": _learning,
    "from-disk": _from_disk,
}
"""By the names that --only takes."""
