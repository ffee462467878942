"""Whose turn it is: round over accounts, then over finetunes; and what a refusal knows of it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import ExitStack
from typing import Any

import pytest

from contract.work import WorkClass
from server.domain.errors import OverloadedError
from server.services.dispatch import Dispatcher, Place
from server.services.lanes import round_robin
from server.services.service_times import retry_after_seconds
from tests.fakes import FakeEngine

pytestmark = pytest.mark.anyio

TRAINING, ROLLOUTS = WorkClass.TRAINING, WorkClass.ROLLOUTS


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Clock:
    """A clock that stands unless it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Queue:
    """A dispatcher, and the calls that wait and run there, by name."""

    def __init__(self, **options: Any):
        self.clock = Clock()
        self.dispatcher = Dispatcher(FakeEngine(), clock=self.clock, **options)
        self.order: list[str] = []
        self._stacks: dict[str, ExitStack] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def come(
        self, name: str, account: str, lane: str, work_class: WorkClass = ROLLOUTS
    ) -> Place:
        stack = self._stacks[name] = ExitStack()
        place = stack.enter_context(self.dispatcher.place(work_class, lane, account_id=account))

        async def run() -> None:
            if work_class is TRAINING:
                await place.front(within=1000.0)
                self.order.append(f"{name} ready")
            await place.turn(within=1000.0)
            self.order.append(name)

        self._tasks.append(asyncio.create_task(run()))
        await settle()
        return place

    async def end(self, name: str, after: float = 0.0) -> None:
        self.clock.now += after
        self._stacks.pop(name).close()
        await settle()

    async def end_all(self) -> list[str]:
        """End one after another, as they had their turns; return that order."""
        index = 0
        while index < len(self.order):
            if self.order[index] in self._stacks:
                await self.end(self.order[index])
            index += 1
        return self.order


async def settle() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


async def test_a_single_call_goes_before_all_but_one_of_another_accounts() -> None:
    queue = Queue()
    for number in range(200):
        await queue.come(f"busy {number}", "busy", f"finetune {number % 50}")
    await queue.come("quiet", "quiet", "its own")
    order = await queue.end_all()
    # The first one runs; `busy` came before `quiet`, so it has the next turn.
    assert order[:3] == ["busy 0", "busy 50", "quiet"]
    assert sorted(order) == sorted(["quiet", *(f"busy {number}" for number in range(200))])


async def test_an_account_with_many_finetunes_has_no_more_turns_than_one_with_one() -> None:
    queue = Queue()
    for number in range(3):
        for lane in "abc":
            await queue.come(f"{lane}{number}", "many", lane)
        await queue.come(f"one{number}", "single", "x")
    order = await queue.end_all()
    # a0 ran at once, when nobody else was there.
    assert order[:6] == ["a0", "a1", "one0", "b0", "one1", "c0"]
    assert order[6] == "one2"


async def test_steps_become_ready_in_the_order_of_their_turns() -> None:
    queue = Queue()
    for name, account, lane in (
        ("a1", "x", "a"), ("a2", "x", "a"), ("b1", "x", "b"), ("c1", "y", "c"), ("c2", "y", "c")
    ):  # fmt: skip
        await queue.come(name, account, lane, TRAINING)
    # a1 runs; while it does, its lane has nobody else, and two more are ready.
    assert queue.order == ["a1 ready", "a1", "b1 ready", "c1 ready"]
    order = await queue.end_all()
    assert [name for name in order if "ready" not in name] == ["a1", "b1", "c1", "a2", "c2"]
    for index, name in enumerate(order):
        if "ready" in name:
            assert name.removesuffix(" ready") in order[index + 1 :]


async def test_a_step_that_does_not_get_ready_keeps_no_other_finetune_waiting() -> None:
    queue = Queue()
    stuck = queue.dispatcher.place(TRAINING, "stuck")
    await stuck.front(within=1000.0)  # and then nothing
    for number in range(3):
        await queue.come(f"step {number}", "", f"lane {number}", TRAINING)
    order = await queue.end_all()
    assert [name for name in order if "ready" not in name] == ["step 0", "step 1", "step 2"]


async def refused(wait: Coroutine[Any, Any, None]) -> OverloadedError:
    with pytest.raises(OverloadedError) as caught:
        await wait
    return caught.value


async def test_one_finetune_never_has_every_turn() -> None:
    queue = Queue(max_calls=4)
    for number in range(6):
        await queue.come(f"busy {number}", "", "busy")
    assert queue.order == ["busy 0", "busy 1", "busy 2"]
    await queue.come("quiet", "", "quiet", WorkClass.INFERENCE)
    assert queue.order[3:] == ["quiet"]  # at once, though the others came before it
    await queue.end("quiet")
    assert len(queue.order) == 4
    await queue.end("busy 0")
    assert queue.order[4:] == ["busy 3"]
    assert len(await queue.end_all()) == 7
    few = Queue(max_calls=2)
    for number in range(2):
        await few.come(f"busy {number}", "", "busy")
    assert len(few.order) == 2  # of so few turns none is kept


async def test_a_refusal_tells_the_place_and_when_to_ask_again() -> None:
    queue = Queue(max_calls=2)
    await queue.come("first", "", "a")
    await queue.end("first", after=6.0)  # a call takes six seconds
    for number in range(2):
        await queue.come(f"running {number}", "", "a")
    for number in range(3):
        await queue.come(f"waiting {number}", "", "a")
    await queue.come("training", "", "b", TRAINING)
    with queue.dispatcher.place(ROLLOUTS, "c") as place:
        refusal = await refused(place.turn(within=0.0))
    # Behind the first one of lane `a`, which came before `c`.
    assert "place 2 of 4 for rollouts; 3 calls run and 4 wait" in refusal.message
    assert refusal.retry_after == 6  # two places, two turns at once, 6 s each
    assert queue.dispatcher.predicted_wait(ROLLOUTS) == 12.0  # place 4
    assert queue.dispatcher.predicted_wait(WorkClass.INFERENCE) == 0.0


async def test_before_any_call_has_ended_a_refusal_says_what_it_can() -> None:
    queue = Queue()
    await queue.come("running", "", "a")
    with queue.dispatcher.place(ROLLOUTS, "b") as place:
        refusal = await refused(place.turn(within=0.0))
    assert "place 1 of 1" in refusal.message
    assert refusal.retry_after == OverloadedError.retry_after


async def test_what_a_call_waited_for_before_its_place_counts() -> None:
    queue = Queue()
    await queue.come("running", "", "a")
    since = queue.clock() - 44.5  # as long as there was no room for its body
    with queue.dispatcher.place(ROLLOUTS, "b", since=since) as place:
        assert place.seconds_left(45.0) == 0.5
        queue.clock.now += 1.0
        assert "waited 45 s" in (await refused(place.turn(within=45.0))).message


async def test_a_turn_that_comes_at_the_last_moment_is_taken() -> None:
    queue = Queue()
    await queue.come("running", "", "a")
    with queue.dispatcher.place(ROLLOUTS, "b") as place:
        waiting = asyncio.create_task(place.turn(within=1000.0))
        await settle()
        waiting.cancel()  # while it is being given
        await queue.end("running")
        await asyncio.wait({waiting})
    assert queue.dispatcher.num_running == 0
    assert queue.dispatcher.num_waiting == 0


@pytest.mark.parametrize(
    ("wait", "header"), [(None, None), (0.0, 1), (0.2, 1), (7.1, 8), (1e9, 600)]
)
def test_the_header_has_whole_seconds_within_reason(wait: float | None, header: int | None) -> None:
    assert retry_after_seconds(wait) == header


@pytest.mark.parametrize(
    ("sources", "order"), [([], ""), (["abc"], "abc"), (["ab", "", "cdef", "g"], "acgbdef")]
)
def test_one_of_each_then_the_next_of_each(sources: list[str], order: str) -> None:
    assert "".join(round_robin(sources)) == order
