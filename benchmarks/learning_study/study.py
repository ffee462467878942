"""Make the runs that are not there yet, then the tables and the picture of all."""

from __future__ import annotations

import platform
import statistics
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.learning_study.finetune import learn
from benchmarks.learning_study.report import draw, tables
from benchmarks.learning_study.runs import all_runs, quick_runs
from benchmarks.learning_study.store import Run, Runs
from trainer.engine import TrainerEngine
from trainer.loading import load

TINY_CHECKPOINT = Path(__file__).parents[2] / "tiny" / "checkpoint"


def study(out: Path, picture: Path | None, *, is_quick: bool) -> None:
    """Make all runs, one after another, on one torch thread in float32; print the tables."""
    torch.set_num_threads(1)
    runs = Runs(
        out,
        {
            "about": "python -m benchmarks.learning --study" + " --quick" * is_quick,
            "date": datetime.now(UTC).date().isoformat(),
            "machine": f"{platform.machine()}, one torch thread, torch {torch.__version__}",
        },
    )
    done = [run.plan for run in runs.read()]
    planned = quick_runs() if is_quick else all_runs()
    engine = TrainerEngine(load(TINY_CHECKPOINT, name="tiny", device="cpu", dtype="float32"))
    for number, plan in enumerate(planned, 1):
        if plan in done:
            continue
        run = Run(plan=plan, learned=learn(engine, plan))
        runs.add(run)
        before, *curve = [value for _, value in run.learned.held_out]
        print(
            f"{number:3d}/{len(planned)}  {plan.task:6s} {plan.variant:44s} seed {plan.seed}  "
            f"{before:.3f} -> {curve[-1]:.3f}, mean {statistics.fmean(curve):.3f}  "
            f"{run.learned.seconds:.0f} s",
            flush=True,
        )
    everything = runs.read()
    print(tables(everything))
    if picture is not None:
        draw(everything).save(picture)
