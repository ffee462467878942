"""Rollouts and train steps that want the device at the same time, by the share of training."""

from __future__ import annotations

import gc
import shutil
import statistics
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

from benchmarks.gpu.large_model import NUM_ROLLOUTS, QUERY, LargeModel, of_tokens
from benchmarks.gpu.local_finetune import LocalFinetune, without_files
from benchmarks.gpu.report import Part, Report
from contract.engine import MakeRollouts
from contract.groups import Group, TrainOptions
from contract.skills import Pixels
from trainer.engine import TrainerEngine
from trainer.shares import DEFAULT_TRAIN_SHARE

SHARES = (0.25, 0.5, 0.75)
SECONDS, LONGEST_SECONDS = 5.0, 12.0
LEAST_CALLS = 2
NUM_CALLERS = 4
RANK, NUM_GROUPS, PER_GROUP = 8, 2, 8
NUM_BLOCKS = 1024
"""Of each engine's pool: it is built beside another one."""


class Caller:
    """Calls again as soon as it was answered, and notes how long each call took."""

    def __init__(self, begin: Callable[[], Future[Any]]):
        self._begin = begin
        self.outcome = begin()
        self._began = time.perf_counter()
        self.seconds: list[float] = []

    def look(self) -> None:
        if not self.outcome.done():
            return
        self.outcome.result()
        now = time.perf_counter()
        self.seconds.append(now - self._began)
        self.outcome, self._began = self._begin(), now


def measure_sharing(report: Report, large: LargeModel, part: Part) -> None:
    """Four callers of sixteen attempts about new pictures; one of steps of 2 x 8 rollouts."""
    groups, pictures = large.groups(NUM_GROUPS, num_rollouts=PER_GROUP, finetune=_finetune(large))
    large.engine.release_memory()  # room for a second engine
    case = _Case(large, groups, pictures)
    cases = [("rollouts alone", DEFAULT_TRAIN_SHARE, NUM_CALLERS, 0)]
    cases += [("training alone", DEFAULT_TRAIN_SHARE, 0, 1)]
    cases += [(f"train share {share}", share, NUM_CALLERS, 1) for share in SHARES]
    for name, share, num_callers, num_trainers in cases:
        found = case.run(share, num_callers=num_callers, num_trainers=num_trainers)
        gc.collect()  # its engine, before there is the next one
        part[name] = found
        shown = []
        if num_callers:
            shown.append(
                f"rollouts p50 {1e3 * found['rollouts_p50']:.0f} ms, p95 "
                f"{1e3 * found['rollouts_p95']:.0f} ms, {found['attempts_per_second']:.0f}/s"
            )
        if num_trainers:
            shown.append(f"step {found['step_seconds']:.2f} s")
        report.line(f"{name}: {'; '.join(shown)}")


def _finetune(large: LargeModel) -> LocalFinetune:
    return LocalFinetune(large.engine, large.directory, rank=RANK, seed=200)


class _Case:
    """Everybody works on the same adapter: every step starts from it, and its outcome is lost."""

    def __init__(self, large: LargeModel, groups: list[Group], pictures: list[Pixels]):
        self._large = large
        self._pictures = pictures
        self._number = count()
        self._files = large.directory / "steps"
        adapter = _finetune(large).adapter
        self._rollouts = MakeRollouts(
            adapter=adapter,
            request=QUERY,
            settings=of_tokens(),
            num_rollouts=NUM_ROLLOUTS,
            seed=3,
        )
        self._step = without_files(adapter, groups, lr=1e-5, options=TrainOptions())

    def run(self, share: float, *, num_callers: int, num_trainers: int) -> Part:
        large = self._large
        engine = TrainerEngine(
            large.loaded,
            train_share=share,
            budgets=replace(large.budgets, num_blocks=NUM_BLOCKS),
        )
        self._warm_up(engine, has_rollouts=num_callers > 0, has_steps=num_trainers > 0)
        started = time.perf_counter()
        callers = [Caller(partial(self._begin_rollouts, engine)) for _ in range(num_callers)]
        trainers = [Caller(partial(self._begin_step, engine)) for _ in range(num_trainers)]
        while not _is_enough(time.perf_counter() - started, [*callers, *trainers]):
            engine.turn()
            for caller in (*callers, *trainers):
                caller.look()
        spent = time.perf_counter() - started
        for caller in callers:
            engine.cancel(caller.outcome)
        while not all(trainer.outcome.done() for trainer in trainers):
            engine.turn()
        shutil.rmtree(self._files, ignore_errors=True)
        rollouts = [seconds for caller in callers for seconds in caller.seconds]
        steps = [seconds for trainer in trainers for seconds in trainer.seconds]
        return summary(rollouts, steps, spent)

    def _warm_up(self, engine: TrainerEngine, *, has_rollouts: bool, has_steps: bool) -> None:
        outcomes = [self._begin_rollouts(engine)] * has_rollouts
        outcomes += [self._begin_step(engine)] * has_steps
        while not all(outcome.done() for outcome in outcomes):
            engine.turn()

    def _begin_rollouts(self, engine: TrainerEngine) -> Future[Any]:
        return engine.begin("make_rollouts", self._rollouts, [self._large.new_picture()])

    def _begin_step(self, engine: TrainerEngine) -> Future[Any]:
        self._files.mkdir(parents=True, exist_ok=True)
        number = next(self._number)
        command = replace(
            self._step,
            weights_path=str(self._files / f"{number}.weights"),
            optimizer_path=str(self._files / f"{number}.optimizer"),
        )
        return engine.begin("train_step", command, self._pictures)


def _is_enough(spent: float, callers: list[Caller]) -> bool:
    has_few = any(len(caller.seconds) < LEAST_CALLS for caller in callers)
    return spent > (LONGEST_SECONDS if has_few else SECONDS)


def summary(rollouts: list[float], steps: list[float], spent: float) -> Part:
    """Percentiles of calls that ended in time, in seconds."""
    found: Part = {"num_calls": len(rollouts), "num_steps": len(steps), "seconds": spent}
    if rollouts:
        found["rollouts_p50"] = percentile(rollouts, 0.5)
        found["rollouts_p95"] = percentile(rollouts, 0.95)
        found["attempts_per_second"] = NUM_ROLLOUTS * len(rollouts) / spent
    if steps:
        found["step_seconds"] = statistics.median(steps)
    return found


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least this share of all does not exceed."""
    ordered = sorted(values)
    return next(
        value for rank, value in enumerate(ordered, start=1) if rank >= share * len(ordered)
    )
