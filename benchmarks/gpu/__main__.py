"""Whether a GPU computes what the CPU computes, and how far the trainer is from what a GPU can do.

    python -m benchmarks.gpu --out DIR

    correctness     the bundled tiny model: CPU float32, CUDA float32, CUDA bfloat16
    learning        the word task of `benchmarks.learning`, in bfloat16, through the engine
    full geometry   random weights of the sizes of Moondream 3 preview: load, answer, train at rank
                    32; then every verb with its time, its memory and its distance from the floor
    kernels         what a decoding step and a train step launch, and how busy the GPU is

No server, no network. DIR/gpu.json, with the machine and the date, is written again after every
part, so that a run that is cut off has lost nothing but the part it was in. Exit status 1: a
correctness check failed, or the large model did not load, answer or train. Without a GPU the CPU
stands in for it, which tests these scripts and nothing else (`--scale small`).

Random weights route more evenly than trained ones, so a decoding step touches about as many experts
as it ever could; speeds at full geometry are those of the code, not of a particular checkpoint.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu.checkpoint_writer import start_writer
from benchmarks.gpu.correctness import check_correctness
from benchmarks.gpu.full_geometry import measure_full_geometry
from benchmarks.gpu.machine import machine_facts
from benchmarks.gpu.oracle import start_oracle
from benchmarks.gpu.report import RESULTS_FILE, Report
from benchmarks.gpu.word_task import learn_word
from trainer.loading import choose_device


def main() -> int:
    arguments = _parse()
    torch.set_num_threads(1)
    device = choose_device(arguments.device).type
    facts = {"machine": machine_facts(device), "scale": arguments.scale}
    report = Report(arguments.out, facts, arguments.seconds)
    with tempfile.TemporaryDirectory(prefix="moontune-gpu-") as name:
        directory = Path(name)
        children = [start_oracle(device)]
        try:
            if not arguments.skip_full:
                checkpoint = directory / "checkpoint"
                children.append(start_writer(checkpoint, scale=arguments.scale, device=device))
            check_correctness(report, device, directory, children[0])
            work = partial(learn_word, device, directory, report)
            report.run("learning", work, is_verdict=True)
            if not arguments.skip_full:
                measure_full_geometry(report, device, directory, children[1])
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                    child.wait()
            report.print_table()
    return 0 if all(check["passed"] for check in report.checks) else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=Path(), help=f"where {RESULTS_FILE} goes")
    parser.add_argument("--scale", choices=("full", "small"), default="full")
    parser.add_argument("--skip-full", action="store_true", help="correctness and learning only")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--seconds", type=float, default=330.0, help="no part starts later than this"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
