"""Random weights of the sizes of Moondream 3: load, answer, train, then time every verb."""

from __future__ import annotations

import shutil
import subprocess
from functools import partial
from pathlib import Path

from benchmarks.gpu.checkpoint_writer import wait_for_checkpoint
from benchmarks.gpu.kernels import profile_decoding, profile_training
from benchmarks.gpu.large_model import DETECT, NUM_ROLLOUTS, QUERY, LargeModel, noise_picture
from benchmarks.gpu.machine import measure_hardware
from benchmarks.gpu.measuring import GIGA, peak_memory, seconds_of, timed
from benchmarks.gpu.report import Part, Report
from benchmarks.gpu.timings import (
    time_answer,
    time_decoding,
    time_encoding,
    time_first_step,
    time_training,
)
from trainer.engine import warm_up
from trainer.loading import load


def measure_full_geometry(
    report: Report, device: str, directory: Path, writer: subprocess.Popen[str]
) -> None:
    """Wait for the checkpoint in `directory`, which is removed as soon as it is loaded."""
    report.run("hardware", partial(measure_hardware, device=device))
    checkpoint = directory / "checkpoint"
    report.run("write", partial(wait_for_checkpoint, writer, checkpoint), is_verdict=True)
    large = report.run("load", partial(timed_load, report, device, directory), is_verdict=True)
    shutil.rmtree(checkpoint, ignore_errors=True)
    if large is None:
        return
    # What has to work comes first: time may run out for the rest.
    report.run("answer", partial(time_answer, report, large), is_verdict=True)
    report.run("first train step", partial(time_first_step, report, large), is_verdict=True)
    for width, height in ((378, 378), (1200, 900)):
        picture = noise_picture(width, height, 0)
        report.run(f"encode {width} x {height}", partial(time_encoding, report, large, picture))
    one_token, many_tokens = {"max_tokens": 1}, {"max_tokens": 64}
    for num in (1, NUM_ROLLOUTS):
        work = partial(time_decoding, report, large, QUERY, num, one_token, many_tokens)
        report.run(f"query, {num} rollouts", work)
    one_box, many_boxes = {"max_objects": 1}, {"max_objects": 8}
    work = partial(time_decoding, report, large, DETECT, NUM_ROLLOUTS, one_box, many_boxes)
    report.run(f"detect, {NUM_ROLLOUTS} rollouts", work)
    for num in (1, 4):
        work = partial(time_training, report, large, num)
        report.run(f"train step, {num} x {NUM_ROLLOUTS} rollouts", work)
    report.run("kernels of a decoding step", partial(profile_decoding, report, large))
    report.run("kernels of a train step", partial(profile_training, report, large))


def timed_load(report: Report, device: str, directory: Path, part: Part) -> LargeModel:
    """Through the real loader; the files were written a moment ago, so they come from memory."""
    checkpoint = directory / "checkpoint"
    with peak_memory(part):
        loaded, seconds = timed(
            lambda: load(checkpoint, name="random", device=device, dtype="bfloat16")
        )
    part["load_seconds"] = seconds
    part["num_parameters"] = loaded.info.num_parameters
    large = LargeModel(loaded, directory, report.parts["hardware"])
    part["first_answer_seconds"] = seconds_of(lambda: warm_up(large.engine))
    report.line(
        f"load {loaded.info.num_parameters / GIGA:.2f} B: {seconds:.1f} s (SHA-256 alone "
        f"{report.parts['write']['digest_seconds']:.1f} s), peak {part['peak_gb']:.1f} GB"
    )
    return large
