"""Four finetunes trained in turn, against one with four times the steps.

    python -m benchmarks.train_in_turn [--runs 5]

One engine with the model of `benchmarks.train_ours`. A step is the same everywhere: one group about
a picture that is known already, of 8 rollouts of 16 tokens behind 742 positions; its weights and
optimizer are written to files. Finetunes are new in every run, and what the engine keeps of them is
dropped after it. CPU seconds; one torch thread.

Prints one JSON line: `ratio` is the cost of four in turn over that of one.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

import torch

from benchmarks.gpu.local_finetune import LocalFinetune
from benchmarks.rollout_sides import RANK
from benchmarks.side_by_side import alternating, clocked, tell
from benchmarks.train_ours import config_of, group_of, noise_picture, our_model, request_of
from benchmarks.train_task import Task
from trainer.engine import TrainerEngine

NUM_FINETUNES, STEPS_EACH = 4, 2
TASK = Task(num_rollouts=8, num_tokens=16)
MOST = 1.05


class Training:
    """One engine and what its finetunes learn."""

    def __init__(self) -> None:
        loaded = our_model()
        self._engine = TrainerEngine(loaded)
        self._group = group_of(TASK, request_of(TASK, config_of(loaded)))
        self._picture = noise_picture()
        self._seeds = itertools.count()

    def train(self, num_finetunes: int, num_rounds: int) -> None:
        """One step of each finetune, and again."""
        with tempfile.TemporaryDirectory() as folder:
            finetunes = [
                LocalFinetune(self._engine, Path(folder), rank=RANK, seed=next(self._seeds))
                for _ in range(num_finetunes)
            ]
            for _ in range(num_rounds):
                for finetune in finetunes:
                    trained = finetune.train_step([self._group], [self._picture], lr=1e-4)
                    assert trained.applied
            for finetune in finetunes:
                self._engine.drop(finetune.adapter.finetune_id)


def main() -> None:
    arguments = _parse()
    torch.set_num_threads(1)
    training = Training()
    seconds = alternating(
        {
            "in turn": clocked(lambda: training.train(NUM_FINETUNES, STEPS_EACH)),
            "one": clocked(lambda: training.train(1, NUM_FINETUNES * STEPS_EACH)),
        },
        arguments.runs,
    )
    tell(
        "train.four_finetunes_in_turn",
        seconds["in turn"],
        seconds["one"],
        sides={"theirs": "four finetunes in turn", "ours": "one, as many steps"},
        most=MOST,
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
