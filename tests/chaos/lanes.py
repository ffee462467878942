"""Bars side by side: most of a bar is waiting, so two of them need little more than one.

Each lane is a process with a forge of its own. A bar that measures how long things take, or how
much memory a whole machine has left, says `IS_ALONE = True` and is run when no other is.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType

from tests.chaos.bars import find_bars
from tests.chaos.bench import SEED, Bench, Verdict
from tests.chaos.forge import Forge
from tests.chaos.undisturbed import Undisturbed


@dataclass(frozen=True, kw_only=True)
class Result:
    """How one bar went."""

    bar_id: str
    seed: int
    seconds: float
    verdict: Verdict


class Lane:
    """Runs one bar after another; a context manager.

    Args:
        folder: Of data and logs; short, since sockets lie in it.
    """

    def __init__(self, folder: Path, tier: str):
        self._tier = tier
        self._forge = Forge(folder)
        self._undisturbed = Undisturbed(self._forge, SEED)

    def run(self, bar_id: str, seed: int) -> Result:
        """Run a bar; whatever it raises is a violation, too."""
        (bar,) = find_bars([bar_id])
        bench = Bench(forge=self._forge, undisturbed=self._undisturbed, tier=self._tier, seed=seed)
        started = time.monotonic()
        try:
            verdict = bar.run(bench)
        except Exception as error:
            traceback.print_exc()
            verdict = Verdict(violations=[f"{type(error).__name__}: {error}"])
        return Result(bar_id=bar_id, seed=seed, seconds=time.monotonic() - started, verdict=verdict)

    def close(self) -> None:
        self._forge.close()


def run_bars(
    bars: Sequence[ModuleType], seeds: dict[str, int], *, folder: Path, tier: str, num_lanes: int
) -> Iterator[Result]:
    """Run bars, each as it gets a lane, those that want to be alone at the end.

    Yields:
        Results, in the order in which the bars end.
    """
    together = [bar for bar in bars if not is_alone(bar)] if num_lanes > 1 else []
    if together:
        pool = ProcessPoolExecutor(
            num_lanes,
            mp_context=get_context("spawn"),
            initializer=_open_lane,
            initargs=(folder, tier),
        )
        with pool:
            results: list[Future[Result]] = [
                pool.submit(_run_in_lane, bar.ID, seeds[bar.ID]) for bar in together
            ]
            for result in as_completed(results):
                yield result.result()
    rest = [bar for bar in bars if bar not in together]
    if rest:
        lane = Lane(folder / "alone", tier)
        try:
            for bar in rest:
                yield lane.run(bar.ID, seeds[bar.ID])
        finally:
            lane.close()


def is_alone(bar: ModuleType) -> bool:
    """Whether nothing may run beside a bar."""
    return getattr(bar, "IS_ALONE", False)


_lane: Lane | None = None
"""Of this process, if it is a lane; its zygotes end when their standard input is closed with it."""


def _open_lane(folder: Path, tier: str) -> None:
    global _lane
    _lane = Lane(folder / str(os.getpid()), tier)


def _run_in_lane(bar_id: str, seed: int) -> Result:
    assert _lane is not None
    return _lane.run(bar_id, seed)
