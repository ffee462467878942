"""Engines in tests: calls to them, bounded numbers of turns, faults, and what is held when idle."""

from __future__ import annotations

from collections.abc import Callable, Container
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, TypeVar

import pytest

from contract.engine import Answer, MakeRollouts
from contract.skills import Settings
from tests.micro import QUERY_WITH_IMAGE, adapter_ref, pictures
from trainer.budgets import Budgets
from trainer.engine import TrainerEngine

WARM = Settings(temperature=1.0, max_tokens=8, max_objects=3)
GREEDY = Settings(temperature=0.0, max_tokens=12)
LONG = Settings(temperature=1.0, max_tokens=60)
SMALL = Budgets(
    num_blocks=8, prefix_bytes=0, feature_bytes=1 << 20, host_feature_bytes=0, num_slots=2,
    host_adapter_bytes=0, max_prefill_positions=1000,
    train_bytes=1 << 30,
)  # fmt: skip
AMPLE = replace(SMALL, num_blocks=400, prefix_bytes=1 << 26, num_slots=8)

MAX_TURNS = 2000
"""More than any test needs, so that one that never ends fails."""

ALWAYS = range(1, 1 << 30)

T = TypeVar("T")


def rollouts(request=QUERY_WITH_IMAGE, **changed: Any) -> MakeRollouts:
    fields = {
        "adapter": adapter_ref(), "request": request, "settings": WARM, "num_rollouts": 3,
        "seed": 1, **changed,
    }  # fmt: skip
    return MakeRollouts(**fields)


def answer(request=QUERY_WITH_IMAGE, **changed: Any) -> Answer:
    fields = {"adapter": None, "request": request, "settings": GREEDY, "seed": 1, **changed}
    return Answer(**fields)


def begin(engine: TrainerEngine, command: Any, tell=None) -> Future[Any]:
    verb = "make_rollouts" if isinstance(command, MakeRollouts) else "answer"
    return engine.begin(verb, command, pictures(), tell)


def turns(engine: TrainerEngine, count: int) -> None:
    for _ in range(count):
        assert engine.turn()


def settle(
    engine: TrainerEngine, *futures: Future[Any], after_each: Callable[[], None] = lambda: None
) -> None:
    """Turn until all of these have ended; an engine that is idle then holds nothing."""
    for _ in range(MAX_TURNS):
        if all(future.done() for future in futures):
            break
        assert engine.turn(), "it is idle, and a call has not ended"
        after_each()
    else:
        pytest.fail(f"a call has not ended after {MAX_TURNS} turns")
    if engine._loop.is_idle:
        assert_holds_nothing(engine)


def finish(
    engine: TrainerEngine, *futures: Future[Any], after_each: Callable[[], None] = lambda: None
) -> list[Any]:
    settle(engine, *futures, after_each=after_each)
    return [future.result() for future in futures]


def ask(engine: TrainerEngine, command: Any) -> Any:
    """What becomes of one call alone."""
    return finish(engine, begin(engine, command))[0]


def assert_holds_nothing(engine: TrainerEngine) -> None:
    """Neither a slot, a prompt or a block is held by anybody, and there is nothing to do."""
    assert not engine.turn()
    assert not engine._sampler.work()
    assert not engine._sampler._prefixes._leases
    assert not engine._bank._slots._leases
    found = counted(engine)
    assert found["moontune_kv_blocks", "promised"] == 0
    assert found["moontune_kv_blocks", "used"] == 0
    assert found["moontune_rows_running",] == 0
    decoder = engine._sampler._decoder
    assert decoder.is_idle
    assert not decoder.num_joining
    assert not decoder._shared


def counted(engine: TrainerEngine) -> dict[tuple[str, ...], float]:
    """Counters and gauges by name and labels; of a distribution how many values it has."""
    stats = engine.stats()
    found = {(s.name, *s.labels): s.value for s in stats.samples}
    return found | {(d.name, *d.labels): sum(d.counts) for d in stats.distributions}


@dataclass
class Fault:
    """Calls of one function of a module by number, and which of them fail."""

    error: Exception
    calls: Container[int]
    num_calls: int = 0
    num_failed: int = 0

    def put_into(self, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str) -> None:
        real = getattr(module, name)

        def call(*args, **kwargs):
            self.num_calls += 1
            if self.num_calls in self.calls:
                self.num_failed += 1
                raise self.error
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, call)


@dataclass
class Units:
    """What engines did: the lengths of prompts of each pass, and the seeds of each tick's rows."""

    prompts: list[list[int]] = field(default_factory=list)
    ticks: list[list[int]] = field(default_factory=list)
    order: list[str] = field(default_factory=list)

    def add_prompts(self, lengths: list[int]) -> None:
        self.prompts.append(lengths)
        self.order.append("prompts")

    def add_tick(self, seeds: list[int]) -> None:
        self.ticks.append(seeds)
        self.order.append("tick")

    @property
    def rows_of_ticks(self) -> list[int]:
        return [len(seeds) for seeds in self.ticks]
