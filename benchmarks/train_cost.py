"""What the loss and gradient of a group cost us, beside the formula.

    python -m benchmarks.train_cost [--runs 5] [--picture benchmarks/results/train-cost.png]

For G rollouts of A tokens behind a prompt of P positions, which is computed once (performance
notes, section 3, without vision):

    seconds = (P + G A) c + a (P^2 + G A (P + A / 2)) + fixed

c is the cost of a position outside attention, a that of a pair that attends, and `fixed` what a
step costs besides. They are fitted by least squares of relative errors on four points: little of
everything, a long prompt, many answers, and both. Eight others are then predicted. All fit into one
pack as it is served. Text only, one torch thread, float32; runs go round over the points, and
medians of CPU seconds count.

Prints one JSON line: `ratio` is measured over predicted of the point where they differ most.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.log_plot import Curve, draw_plot, nice_ticks
from benchmarks.side_by_side import Clocked, alternating
from benchmarks.train_ours import Ours, our_model
from benchmarks.train_task import Task
from trainer.engine import DEFAULT_MICRO_BATCH_TOKENS

MOST_DEVIATION = 0.25
LEAST_POSITIONS = 1024
"""In one run of a point; smaller packs are repeated."""


@dataclass(frozen=True, kw_only=True, order=True)
class Point:
    """Positions of the prompt, rollouts, and tokens of each."""

    prefix: int
    num_rollouts: int
    num_tokens: int

    def __str__(self) -> str:
        return f"{self.prefix}, {self.num_rollouts}, {self.num_tokens}"

    @property
    def num_positions(self) -> int:
        """In the pack; the last token of an answer is not fed back."""
        return self.prefix + self.num_rollouts * (self.num_tokens - 1)

    @property
    def amounts(self) -> tuple[float, float, float]:
        """What the constants are multiplied with: positions, pairs, steps."""
        answers = self.num_rollouts * self.num_tokens
        pairs = self.prefix**2 + answers * (self.prefix + self.num_tokens / 2)
        return self.prefix + answers, pairs, 1.0


def _points(*sizes: tuple[int, int, int]) -> tuple[Point, ...]:
    return tuple(Point(prefix=p, num_rollouts=g, num_tokens=a) for p, g, a in sizes)


FITTED = _points((32, 1, 8), (742, 1, 8), (64, 32, 32), (742, 10, 128))
PREDICTED = _points(
    (96, 4, 16), (128, 16, 16), (32, 16, 96), (256, 2, 128),
    (384, 8, 24), (512, 32, 8), (742, 16, 24), (742, 32, 32),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Constants:
    """Seconds per position, per pair that attends, and per step."""

    position: float
    pair: float
    fixed: float

    @classmethod
    def fitted(cls, seconds: Mapping[Point, float]) -> Constants:
        """Least squares of predicted / measured - 1."""
        rows = [[amount / s for amount in point.amounts] for point, s in seconds.items()]
        matrix = torch.tensor(rows, dtype=torch.float64)
        wanted = torch.ones(len(rows), 1, dtype=torch.float64)
        position, pair, fixed = torch.linalg.lstsq(matrix, wanted).solution[:, 0].tolist()
        return cls(position=position, pair=pair, fixed=fixed)

    def seconds(self, point: Point) -> float:
        num_positions, num_pairs, num_steps = point.amounts
        return num_positions * self.position + num_pairs * self.pair + num_steps * self.fixed


def main() -> None:
    arguments = _parse()
    torch.set_num_threads(1)
    rounds = measured((*FITTED, *PREDICTED), arguments.runs)
    seconds = {point: statistics.median(values) for point, values in rounds.items()}
    constants = Constants.fitted({point: seconds[point] for point in FITTED})
    ratios = {point: seconds[point] / constants.seconds(point) for point in seconds}
    worst = max(PREDICTED, key=lambda point: deviation(ratios[point]))
    found: dict[str, Any] = {
        "name": "train.own_cost_vs_formula",
        "ratio": ratios[worst],
        "runs": arguments.runs,
        "spread": [value / constants.seconds(worst) for value in _ends(rounds[worst])],
        "worst_deviation": deviation(ratios[worst]),
        "worst_deviation_where_fitted": max(deviation(ratios[point]) for point in FITTED),
        "constants": vars(constants),
        "points": "prefix, rollouts, tokens",
        "cpu_seconds": {str(point): value for point, value in seconds.items()},
        "measured_over_predicted": {str(point): ratios[point] for point in PREDICTED},
    }
    print(json.dumps(found), flush=True)
    if arguments.picture is not None:
        draw(seconds, constants).save(arguments.picture)
    assert deviation(ratios[worst]) <= MOST_DEVIATION, f"{worst}: {ratios[worst]}"


def deviation(ratio: float) -> float:
    """How far the prediction is off, as a part of what was measured."""
    return abs(1.0 / ratio - 1.0)


def measured(points: Sequence[Point], num_runs: int) -> dict[Point, list[float]]:
    """CPU seconds of loss and gradient."""
    loaded = our_model()
    sides: dict[str, Clocked] = {}
    for point in points:
        assert point.num_positions <= DEFAULT_MICRO_BATCH_TOKENS, point
        ours = Ours(Task(**vars(point), has_picture=False), loaded)
        # One rollout alone has no advantage, and nothing would be computed.
        examples = tuple(replace(example, advantage=1.0) for example in ours.plan.examples)
        ours.plan = replace(ours.plan, examples=examples)
        sides[str(point)] = _repeated(ours, max(1, LEAST_POSITIONS // point.num_positions))
    seconds = alternating(sides, num_runs)
    return {point: seconds[str(point)] for point in points}


def _repeated(ours: Ours, num: int) -> Clocked:
    """The mean of some, where one is over so soon that it is measured badly."""

    def run() -> float:
        return sum(ours.loss_and_gradient() for _ in range(num)) / num

    return run


def draw(seconds: Mapping[Point, float], constants: Constants) -> Image.Image:
    """Measured against predicted, in milliseconds."""

    def marks(label: str, points: Sequence[Point], *, is_hollow: bool) -> Curve:
        places = [(1e3 * constants.seconds(point), 1e3 * seconds[point]) for point in points]
        return Curve(label=label, points=places, is_dashed=is_hollow, has_line=False)

    def line(label: str, factor: float) -> Curve:
        points = [(x, factor * x) for x in (ticks[0], ticks[-1])]
        return Curve(label=label, points=points, is_dashed=factor != 1, has_marks=False)

    times = [1e3 * constants.seconds(point) for point in seconds]
    ticks = nice_ticks(min(times), max(times))
    curves = [
        marks("fitted", FITTED, is_hollow=True),
        marks("predicted", PREDICTED, is_hollow=False),
        line("as predicted", 1.0),
        line("25 percent too low", 1.0 / (1.0 - MOST_DEVIATION)),
        line("25 percent too high", 1.0 / (1.0 + MOST_DEVIATION)),
    ]
    return draw_plot(
        curves,
        title="Loss and gradient of a group: what the formula says, and what it takes",
        x_label="CPU milliseconds by the formula",
        y_label="CPU milliseconds measured",
        x_ticks=ticks,
        is_rising=True,
    )


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--picture", type=Path, help="PNG to write; absent: none")
    return parser.parse_args()


if __name__ == "__main__":
    main()
