"""The worker's loop: train steps in parts between tokens, and none starves another."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest
import torch

from contract.engine import Answer, MakeRollouts
from contract.groups import SFTGroup
from contract.skills import QueryTarget, Settings
from contract.work import WorkClass
from tests.micro import QUERY, adapter_ref, loaded_micro, train_command
from trainer import loop as loop_module
from trainer.counters import Counters
from trainer.engine import TrainerEngine
from trainer.loop import DeviceLoop
from trainer.shares import Shares

MAX_TURNS = 2000
SHORT = Settings(temperature=1.0, max_tokens=3)


class Clock:
    """Time that passes only when somebody works."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class FakeSampler:
    """Work of two kinds that never ends; each unit takes one second."""

    def __init__(self, clock: Clock, kinds: set[WorkClass]):
        self.clock, self.kinds, self.units = clock, kinds, []
        self.num_given_up = 0

    def add(self, wanted: Any) -> int:
        return 0

    def work(self) -> set[WorkClass]:
        return set(self.kinds)

    def advance(self, kind: WorkClass) -> dict[WorkClass, float]:
        self.clock.now += 1.0
        self.units.append(kind)
        return {kind: 1.0}

    def take_ended(self) -> list[Any]:
        return []

    def give_up_memory(self) -> None:
        self.num_given_up += 1


class TickingSampler(FakeSampler):
    """Rows of both kinds that grow together, whichever was chosen; each tick takes one second."""

    def __init__(self, clock: Clock, rows: dict[WorkClass, int]):
        super().__init__(clock, set(rows))
        self.rows = rows

    def advance(self, kind: WorkClass) -> dict[WorkClass, float]:
        super().advance(kind)
        return {kind: count / sum(self.rows.values()) for kind, count in self.rows.items()}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(loop_module, "time", clock)
    return clock


def loop_of(clock: Clock, kinds: set[WorkClass], **shares: float) -> tuple[DeviceLoop, FakeSampler]:
    sampler = FakeSampler(clock, kinds)
    return loop_with(sampler, **shares), sampler


def loop_with(sampler: FakeSampler, **shares: float) -> DeviceLoop:
    loop = DeviceLoop(sampler, Shares(**shares), Counters(), torch.device("cpu"))  # pyright: ignore[reportArgumentType]
    loop.sample(None, lambda _: None)  # pyright: ignore[reportArgumentType]
    return loop


def turn_until_done(loop: DeviceLoop, outcome: Future[Any]) -> None:
    for _ in range(MAX_TURNS):
        if outcome.done():
            return
        loop.turn()
    pytest.fail(f"it has not ended after {MAX_TURNS} turns")


def parts(clock: Clock, count: int, seconds: float):
    for _ in range(count):
        clock.now += seconds
        yield None
    return "trained"


def test_a_train_step_gets_its_share_and_answers_theirs(clock):
    loop, sampler = loop_of(clock, {WorkClass.ROLLOUTS}, train_share=0.75)
    outcome = loop.train(lambda: parts(clock, 40, 9.0))
    turn_until_done(loop, outcome)
    # 40 parts of 9 s are 0.75 of the time; rollouts have the rest, a third of it
    assert len(sampler.units) == pytest.approx(120, abs=4)
    assert outcome.result() == "trained"


ROWS = {
    "rollouts": {WorkClass.ROLLOUTS: 64},
    "few-answers": {WorkClass.INFERENCE: 1, WorkClass.ROLLOUTS: 63},
    "halves": {WorkClass.INFERENCE: 32, WorkClass.ROLLOUTS: 32},
    "few-rollouts": {WorkClass.INFERENCE: 63, WorkClass.ROLLOUTS: 1},
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=list(ROWS))
def test_a_train_step_gets_its_share_beside_answers_of_both_kinds_that_grow_together(clock, rows):
    sampler = TickingSampler(clock, rows)
    loop = loop_with(sampler, train_share=0.5)
    turn_until_done(loop, loop.train(lambda: parts(clock, 40, 1.0)))
    # 40 parts of a second are half of the time; ticks have the other half
    assert len(sampler.units) == pytest.approx(40, abs=2)


def test_kinds_that_had_the_device_one_after_another_share_it_at_once_when_they_meet(clock):
    sampler = TickingSampler(clock, {WorkClass.ROLLOUTS: 64})
    loop = loop_with(sampler, train_share=0.5)
    for _ in range(1000):
        loop.turn()
    sampler.kinds = set()
    turn_until_done(loop, loop.train(lambda: parts(clock, 1000, 1.0)))
    sampler.kinds, sampler.rows = set(ROWS["few-answers"]), ROWS["few-answers"]
    sampler.units.clear()
    turn_until_done(loop, loop.train(lambda: parts(clock, 40, 1.0)))
    assert len(sampler.units) == pytest.approx(40, abs=2)


@pytest.mark.parametrize("num_failures", [1, 2])
def test_a_step_that_runs_out_of_memory_is_begun_once_more_and_then_refused(clock, num_failures):
    loop, sampler = loop_of(clock, set())
    begun: list[int] = []

    def training():
        begun.append(len(begun))
        yield None
        if len(begun) <= num_failures:
            raise torch.OutOfMemoryError("big")
        return "trained"

    outcome, later = loop.train(training), loop.train(lambda: parts(clock, 1, 1.0))
    turn_until_done(loop, later)
    assert begun == [0, 1]
    assert sampler.num_given_up == num_failures
    if num_failures == 1:
        assert outcome.result() == "trained"
    else:
        assert isinstance(outcome.exception(), torch.OutOfMemoryError)
    assert later.result() == "trained"


def test_a_device_that_is_lost_in_a_step_leaves_the_loop(clock):
    loop, _ = loop_of(clock, set())

    def training():
        yield None
        raise torch.AcceleratorError("lost")

    loop.train(training)
    loop.turn()
    with pytest.raises(torch.AcceleratorError, match="lost"):
        loop.turn()


def test_a_step_that_waits_for_the_disk_lets_answers_go_on(clock):
    loop, sampler = loop_of(clock, {WorkClass.INFERENCE})
    writing: Future[None] = Future()

    def training():
        yield writing
        return "written"

    outcome = loop.train(training)
    for _ in range(10):
        loop.turn()
    assert len(sampler.units) == 9
    assert not outcome.done()
    writing.set_result(None)
    sampler.kinds = set()
    turn_until_done(loop, outcome)
    assert outcome.result() == "written"


def test_steps_follow_one_another_and_one_that_fails_does_not_stop_the_next(clock):
    loop, _ = loop_of(clock, set())

    def failing():
        yield None
        raise ValueError("odd")

    first, second = loop.train(failing), loop.train(lambda: parts(clock, 2, 1.0))
    assert loop.run(second) == "trained"
    with pytest.raises(ValueError, match="odd"):
        first.result()


def test_answers_come_while_a_step_is_trained(tmp_path):
    engine = TrainerEngine(loaded_micro(), micro_batch_tokens=16)
    target = QueryTarget(answer="four red circles and a blue square")
    step = replace(
        train_command([SFTGroup(request=QUERY, targets=(target,))] * 40),
        weights_path=str(tmp_path / "w"),
        optimizer_path=str(tmp_path / "o"),
    )
    training = engine.begin("train_step", step, ())
    asked = Answer(adapter=None, request=QUERY, settings=SHORT, seed=1)
    made = MakeRollouts(
        adapter=adapter_ref(), request=QUERY, settings=SHORT, num_rollouts=4, seed=3
    )
    answers = [engine.begin("answer", asked, ()), engine.begin("make_rollouts", made, ())]
    order = []
    for name, future in (
        ("training", training),
        *zip(("answer", "rollouts"), answers, strict=True),
    ):
        future.add_done_callback(lambda _, name=name: order.append(name))
    while not all(future.done() for future in (training, *answers)):
        engine.turn()
    assert training.result().applied
    assert order[-1] == "training"  # 80 parts of the step did not have to end first
