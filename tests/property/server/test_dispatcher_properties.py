"""Nobody starves at the dispatcher, whoever else comes and goes."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from contract.work import WorkClass
from server.services.dispatch import BATCH_DIVISOR, MAX_TRAIN_CALLS, Dispatcher, Place
from tests.fakes import FakeEngine

MAX_CALLS = 2
MAX_BATCH_CALLS = 8
classes, lanes = st.sampled_from(list(WorkClass)), st.sampled_from(["a", "b", "c"])
arrivals = st.tuples(st.just("arrive"), classes, lanes)
ends = st.tuples(st.just("end"), classes, st.integers(0, 5))
histories = st.lists(arrivals | ends, max_size=60)


@dataclass
class Waiter:
    """A call that waits, and who had turns before it while it did."""

    place: Place
    stack: ExitStack
    num_before: int
    task: asyncio.Task[None]
    overtaken_by: Counter[tuple[WorkClass, str]] = field(default_factory=Counter)


async def play(history: list[tuple[str, WorkClass, str | int]]) -> None:
    dispatcher = Dispatcher(FakeEngine(), max_calls=MAX_CALLS, max_batch_calls=MAX_BATCH_CALLS)
    waiting: list[Waiter] = []
    running: list[Waiter] = []

    async def settle() -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        for waiter in [waiter for waiter in waiting if waiter.place.is_running]:
            waiting.remove(waiter)
            running.append(waiter)
            check(waiter)
            if waiter.place.work_class is WorkClass.BATCH:
                check_batch(running, waiting)
            for other in waiting:
                other.overtaken_by[waiter.place.work_class, waiter.place.lane] += 1
        check_turns(running)

    for what, work_class, which in history:
        if what == "arrive":
            waiting.append(arrive(dispatcher, work_class, str(which), waiting))
        else:
            ending = [w for w in running if w.place.work_class is work_class]
            if ending:
                waiter = ending[int(which) % len(ending)]
                running.remove(waiter)
                waiter.stack.close()
        await settle()
    while running:
        running.pop(0).stack.close()
        await settle()
    assert not waiting
    assert dispatcher.num_running == dispatcher.num_waiting == 0


def arrive(
    dispatcher: Dispatcher, work_class: WorkClass, lane: str, waiting: list[Waiter]
) -> Waiter:
    stack = ExitStack()
    place = stack.enter_context(dispatcher.place(work_class, lane))
    task = asyncio.create_task(place.turn(within=1000.0))
    ahead = [w for w in waiting if w.place.work_class is work_class and w.place.lane == lane]
    return Waiter(place=place, stack=stack, num_before=len(ahead), task=task)


def check(waiter: Waiter) -> None:
    """Per call of its own lane in front of it, and once for itself, others had one turn at most."""
    rounds = waiter.num_before + 1
    own = waiter.place.work_class
    for (work_class, lane), count in waiter.overtaken_by.items():
        if work_class is own and lane != waiter.place.lane:
            assert count <= rounds
    rivals = {WorkClass.INFERENCE, WorkClass.ROLLOUTS} - {own}
    if own in (WorkClass.INFERENCE, WorkClass.ROLLOUTS):
        in_class = sum(n for (c, _), n in waiter.overtaken_by.items() if c is own)
        in_rivals = sum(n for (c, _), n in waiter.overtaken_by.items() if c in rivals)
        assert in_rivals <= in_class + 1


def check_turns(running: list[Waiter]) -> None:
    num_steps = sum(w.place.work_class is WorkClass.TRAINING for w in running)
    num_lines = sum(w.place.work_class is WorkClass.BATCH for w in running)
    assert num_steps <= MAX_TRAIN_CALLS
    assert num_lines <= MAX_BATCH_CALLS
    assert len(running) - num_steps - num_lines <= MAX_CALLS


def check_batch(running: list[Waiter], waiting: list[Waiter]) -> None:
    """A line that begins beside other work is one of few."""
    kinds = Counter(waiter.place.work_class for waiter in (*running, *waiting))
    if kinds.keys() - {WorkClass.BATCH}:
        num_lines = sum(w.place.work_class is WorkClass.BATCH for w in running)
        assert num_lines <= MAX_BATCH_CALLS // BATCH_DIVISOR


@given(histories)
def test_others_have_one_turn_at_most_before_it_is_ones_own(
    history: list[tuple[str, WorkClass, str | int]],
) -> None:
    asyncio.run(play(history))
