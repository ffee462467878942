"""What the finished runs say: curves over seeds, and how far a variant is from the start."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.learning_study.store import Run


@dataclass(frozen=True, kw_only=True)
class Band:
    """A curve over seeds: at each step the mean, the lowest and the highest."""

    steps: tuple[int, ...]
    means: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]


def band(runs: Sequence[Run]) -> Band:
    """Of the held-out curves of runs that differ in their seed alone."""
    curves = [run.learned.held_out for run in runs]
    at = list(zip(*curves, strict=True))
    values = [[value for _, value in points] for points in at]
    return Band(
        steps=tuple(points[0][0] for points in at),
        means=tuple(statistics.fmean(v) for v in values),
        lows=tuple(min(v) for v in values),
        highs=tuple(max(v) for v in values),
    )


def score(run: Run) -> float:
    """The mean of the held-out curve behind step 0: high for what learns early and stays."""
    return statistics.fmean(value for step, value in run.learned.held_out if step > 0)


def last(run: Run) -> float:
    return run.learned.held_out[-1][1]


def by_variant(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ in their seed alone, by seed; in the order in which they came first."""
    found: list[list[Run]] = []
    for run in runs:
        for some in found:
            if replace(some[0].plan, seed=run.plan.seed) == run.plan:
                some.append(run)
                break
        else:
            found.append([run])
    return [sorted(some, key=lambda run: run.plan.seed) for some in found]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A variant against another on the same seeds, by the score.

    Attributes:
        is_clear: Every seed has the same sign, and the mean is above the seeds' standard deviation
            of either side.
    """

    mean: float
    lowest: float
    highest: float
    is_clear: bool


def difference(variant: Sequence[Run], other: Sequence[Run]) -> Difference | None:
    """None where they have less than two seeds in common."""
    theirs = {run.plan.seed: score(run) for run in other}
    ours = {run.plan.seed: score(run) for run in variant if run.plan.seed in theirs}
    if len(ours) < 2:
        return None
    changes = [value - theirs[seed] for seed, value in ours.items()]
    mean = statistics.fmean(changes)
    spread = max(statistics.stdev(ours.values()), statistics.stdev(theirs[s] for s in ours))
    return Difference(
        mean=mean,
        lowest=min(changes),
        highest=max(changes),
        is_clear=(min(changes) > 0 or max(changes) < 0) and abs(mean) > spread,
    )


def spread_text(runs: Sequence[Run], value: Callable[[Run], float] = score) -> str:
    """Such as `0.81 (0.78-0.84)`: mean, lowest and highest over seeds."""
    values = [value(run) for run in runs]
    return f"{statistics.fmean(values):.3f} ({min(values):.3f}-{max(values):.3f})"
