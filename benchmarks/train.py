"""What training on a group of 16 rollouts costs, against the usual ways to do it.

    python -m benchmarks.train [--quick] [--runs 5]

One prompt of 742 positions, 729 of them a picture, and 16 rollouts of 24 tokens; adapters of rank
16 on the MLPs of the text model. Ours is the dense family, the others are a stock Qwen2.5-VL of the
same width, depth, heads, patches and number of weights (`benchmarks.stock_model`), on the same
token ids and rewards. Before anything is timed, `benchmarks.train_checks` asserts that all compute
the same loss and gradient. One torch thread, float32, CPU seconds; runs alternate between the
sides, medians count. What each side's cost holds:

    loss and gradient   given answers. Ours: picture, packing, forward, loss, backward; the
                        reference pass of our step is left out, as nobody else makes one here.
                        TRL: `compute_loss` and `backward` at its defaults (`benchmarks.train_trl`);
                        beside it without checkpointing. Rows and `prefix_grouper`: picture once,
                        forward, loss, backward (`benchmarks.train_rows`).
    whole step          Ours: sampling the rollouts, the step with its reference pass, AdamW, and
                        the files of the new state, as the worker does it. TRL: `train()` for one
                        step, its own generation in it; it has no reference pass at its defaults.
    without vision      Ours and `prefix_grouper` know the picture already; TRL's prompt is text of
                        as many tokens.
    peak memory         of loss and gradient, our reference pass included, in a process of its own
                        per side: the most resident anonymous memory less that after loading.
    long answers        text of 32 positions, 16 rollouts of 128 tokens: nothing much to share.

`benchmarks.train_in_turn` and `benchmarks.train_cost` run after these, each with its own line.

Prints JSON lines; `ratio` is the comparator's cost over ours. `--quick` takes three runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.side_by_side import (
    alternating,
    clocked,
    in_a_process,
    most_memory,
    spread,
    tell,
)
from benchmarks.train_checks import check_all
from benchmarks.train_ours import OurFinetune, Ours
from benchmarks.train_rows import PrefixGrouped, Rows
from benchmarks.train_task import Task
from benchmarks.train_trl import Trl

LONG_ANSWERS = Task(prefix=32, num_rollouts=16, num_tokens=128, has_picture=False)
PACKAGES = ("torch", "transformers", "peft", "trl", "prefix_grouper")


def main() -> None:
    arguments = _parse()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    if arguments.memory_of:
        work = Ours(Task()).loss_and_gradient if arguments.memory_of == "ours" else Trl(Task()).step
        print(json.dumps({"mib": most_memory(work)}))
        return
    num_runs = 3 if arguments.quick else arguments.runs
    facts = {"checked": check_all(), "versions": {name: version(name) for name in PACKAGES}}
    trl, text_trl = Trl(Task()), Trl(Task(has_picture=False))
    _tell_loss_and_gradient(trl, text_trl, num_runs, facts)
    _tell_whole_step(trl, text_trl, num_runs)
    _tell_peak_memory()
    _tell_long_answers(num_runs)
    del trl, text_trl
    for module in ("train_in_turn", "train_cost"):  # in processes of their own: less in the way
        command = [sys.executable, "-m", f"benchmarks.{module}", "--runs", str(num_runs)]
        subprocess.run(command, check=True)


def _tell_loss_and_gradient(trl: Trl, text_trl: Trl, num_runs: int, facts: dict[str, Any]) -> None:
    ours, rows, grouped = Ours(Task()), Rows(Task()), PrefixGrouped(Task())
    plain = Trl(Task(), is_checkpointed=False)
    seconds = alternating(
        {
            "ours": ours.loss_and_gradient,
            "trl": clocked(trl.step),
            "rows": clocked(rows.step),
            "prefix_grouper": clocked(grouped.step),
            "trl, not checkpointed": clocked(plain.step),
            "ours, no vision": partial(ours.loss_and_gradient, has_vision=False),
            "trl, no vision": clocked(text_trl.step),
            "prefix_grouper, no vision": clocked(partial(grouped.step, has_vision=False)),
        },
        num_runs,
        warm_up=("ours", "trl", "rows", "prefix_grouper", "prefix_grouper, no vision"),
    )
    _tell(
        "train.loss_and_gradient_vs_trl",
        "trl",
        seconds,
        without_checkpointing=_compared(seconds["trl, not checkpointed"], seconds["ours"]),
        **facts,
    )
    tell("train.loss_and_gradient_vs_rows", seconds["rows"], seconds["ours"])
    _tell("train.loss_and_gradient_vs_prefix_grouper", "prefix_grouper", seconds)


def _tell_whole_step(trl: Trl, text_trl: Trl, num_runs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ours = OurFinetune(Task(), Path(folder))
        seconds = alternating(
            {
                "ours": clocked(ours.step),
                "trl": clocked(trl.train),
                "ours, no vision": clocked(partial(ours.step, is_new_picture=False)),
                "trl, no vision": clocked(text_trl.train),
            },
            num_runs,
            warm_up=("ours", "ours, no vision"),
        )
    _tell("train.whole_step_vs_trl", "trl", seconds)


def _tell_peak_memory() -> None:
    memory = {
        side: in_a_process("benchmarks.train", "--memory-of", side)["mib"]
        for side in ("ours", "theirs")
    }
    found = {
        "name": "train.peak_memory_vs_trl",
        "ratio": memory["theirs"] / memory["ours"],
        "runs": 1,
        "memory_mib": memory,
    }
    print(json.dumps(found), flush=True)


def _tell_long_answers(num_runs: int) -> None:
    ours, rows = Ours(LONG_ANSWERS), Rows(LONG_ANSWERS)
    sides = {"ours": ours.loss_and_gradient, "rows": clocked(rows.step)}
    seconds = alternating(sides, num_runs)
    tell("train.no_loss_long_answers", seconds["rows"], seconds["ours"])


def _tell(name: str, side: str, seconds: Mapping[str, Sequence[float]], **more: Any) -> None:
    """A side against ours, and the same without vision."""
    blind = _compared(seconds[f"{side}, no vision"], seconds["ours, no vision"])
    tell(name, seconds[side], seconds["ours"], without_vision=blind, **more)


def _compared(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, Any]:
    middle = {"ours": statistics.median(ours), "theirs": statistics.median(theirs)}
    return {
        "ratio": middle["theirs"] / middle["ours"],
        "spread": spread(theirs, ours),
        "cpu_seconds": middle,
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three runs")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--memory-of", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
