"""Whether a GPU computes what the CPU computes, and how far we are from what a GPU can do.

    python -m benchmarks.gpu                            everything, within ten minutes
    python -m benchmarks.gpu --only decode,profile      some of it

    decoder      the tiny model's decoder in float32, CUDA against CPU: adapters, skills, buckets
    tiny         the tiny model in float32 and bfloat16: forward, rollouts, steps, fp8, the oracle
    rounding     what bfloat16 does to rollouts, alone and in a batch, against the trainer's scores
    decode       a tick at 1, 16, 64 and 256 rows, against the reading of what it needs
    group        sixteen attempts about a new picture, end to end and piece by piece
    groups       several such calls at once
    finetunes    1, 4 and 16 finetunes in one batch
    first-token  of a lone question
    profile      what ten ticks launch, how busy the device is, what would help most
    memory       what takes how much
    sharing      rollouts and train steps together, by the share of training
    training     train steps alone
    learning     the word task of `benchmarks.learning`, in bfloat16
    from-disk    a checkpoint as it is published: write, load, answer, train

From `rounding` on it is a Moondream 3 of full geometry in bfloat16 with random weights, drawn on
the device, the end of text so unlikely that every answer has its full length. Such weights route
more evenly than trained ones, so a tick touches about as many experts as it ever could; speeds are
those of the code, not of a particular checkpoint.

No server, no network. OUT/gpu-<device>-<scale>.json, with machine and date, is written again after
every part, and a later run goes on with it. Exit status 1: something that was run is not right;
speeds do not count. Without a GPU the CPU stands in for it, which tests these scripts and nothing
else (`--scale small`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.gpu.machine import machine_facts
from benchmarks.gpu.places import ROOT
from benchmarks.gpu.report import Report
from benchmarks.gpu.stages import STAGES, Bench
from trainer.loading import choose_device


def main() -> int:
    arguments = _parse()
    torch.set_num_threads(1)
    device = choose_device(arguments.device).type
    facts = {
        "machine": machine_facts(device),
        "scale": arguments.scale,
        "is_judged_by_speed": device == "cuda" and arguments.scale == "full",
    }
    report = Report(arguments.out, facts, arguments.seconds)
    with tempfile.TemporaryDirectory(prefix="moontune-gpu-") as name:
        bench = Bench(report, device=device, scale=arguments.scale, directory=Path(name))
        try:
            for stage, run in STAGES.items():
                if stage in arguments.only:
                    run(bench)
        finally:
            report.print_table()
    return 0 if report.is_passed else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results", help="where the numbers go"
    )
    parser.add_argument("--only", type=_stages, default=list(STAGES), metavar="STAGE,STAGE")
    parser.add_argument("--scale", choices=("full", "small"), default="full")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--seconds", type=float, default=500.0, help="no part starts later than this"
    )
    return parser.parse_args()


def _stages(text: str) -> list[str]:
    names = text.split(",")
    if unknown := sorted(set(names) - set(STAGES)):
        raise argparse.ArgumentTypeError(f"{unknown} are not among {', '.join(STAGES)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
