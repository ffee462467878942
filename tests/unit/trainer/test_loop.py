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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(loop_module, "time", clock)
    return clock


def loop_of(clock: Clock, kinds: set[WorkClass], **shares: float) -> tuple[DeviceLoop, FakeSampler]:
    sampler = FakeSampler(clock, kinds)
    loop = DeviceLoop(sampler, Shares(**shares), Counters(), torch.device("cpu"))  # pyright: ignore[reportArgumentType]
    loop.sample(None, lambda _: None)  # pyright: ignore[reportArgumentType]
    return loop, sampler


def parts(clock: Clock, count: int, seconds: float):
    for _ in range(count):
        clock.now += seconds
        yield None
    return "trained"


def test_a_train_step_gets_its_share_and_answers_theirs(clock):
    loop, sampler = loop_of(clock, {WorkClass.ROLLOUTS}, train_share=0.75)
    outcome = loop.train(lambda: parts(clock, 40, 9.0))
    while not outcome.done():
        loop.turn()
    # 40 parts of 9 s are 0.75 of the time; rollouts have the rest, a third of it
    assert len(sampler.units) == pytest.approx(120, abs=4)
    assert outcome.result() == "trained"


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
    while not outcome.done():
        loop.turn()
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
