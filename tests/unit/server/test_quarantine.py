"""The gate and the quarantine: who may be with the engine beside whom."""

from __future__ import annotations

import asyncio

import pytest

from server.domain.errors import RequestCrashesWorkerError
from server.services.gate import Gate
from server.services.quarantine import SHUT_OUT_SECONDS, Quarantine

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def entering(gate: Gate, *, alone: bool) -> asyncio.Task[None]:
    """Come to the gate; the task is done as soon as one is inside."""
    task = asyncio.create_task(gate.enter(alone=alone))
    await turns()
    return task


async def turns() -> None:
    """Let everybody take the steps that they can take."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_many_are_inside_together_and_one_alone() -> None:
    gate = Gate()
    first, second = await entering(gate, alone=False), await entering(gate, alone=False)
    lonely = await entering(gate, alone=True)
    late = await entering(gate, alone=False)
    assert [task.done() for task in (first, second, lonely, late)] == [True, True, False, False]
    gate.leave()
    await turns()
    assert not lonely.done()
    gate.leave()
    await turns()
    assert (lonely.done(), late.done()) == (True, False)
    gate.leave()
    await turns()
    assert late.done()


async def test_the_lonely_go_one_after_another_in_order_before_all_others() -> None:
    gate = Gate()
    one = await entering(gate, alone=True)
    late = await entering(gate, alone=False)
    two, three = await entering(gate, alone=True), await entering(gate, alone=True)
    for inside, outside in (([one], [two, three, late]), ([two], [three, late]), ([three], [late])):
        assert all(task.done() for task in inside)
        assert not any(task.done() for task in outside)
        gate.leave()
        await turns()
    assert late.done()


async def test_a_lonely_one_who_is_called_away_lets_the_others_in() -> None:
    gate = Gate()
    await entering(gate, alone=False)
    lonely = await entering(gate, alone=True)
    late = await entering(gate, alone=False)
    lonely.cancel()
    await turns()
    assert late.done()


async def test_one_who_is_called_away_in_the_moment_of_being_let_in_leaves() -> None:
    gate = Gate()
    await entering(gate, alone=True)
    lonely = await entering(gate, alone=True)
    late = await entering(gate, alone=False)
    gate.leave()  # lets `lonely` in, which has not taken a step yet
    lonely.cancel()
    await turns()
    assert lonely.cancelled()
    assert late.done()
    gate.leave()
    assert (await entering(gate, alone=True)).done()


async def test_whoever_waits_sociably_may_be_called_away() -> None:
    gate = Gate()
    await entering(gate, alone=True)
    away, late = await entering(gate, alone=False), await entering(gate, alone=False)
    away.cancel()
    gate.leave()
    await turns()
    assert late.done()
    gate.leave()
    assert (await entering(gate, alone=True)).done()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def pass_through(quarantine: Quarantine, fingerprint: bytes) -> None:
    await quarantine.enter(fingerprint)
    quarantine.leave(fingerprint)


async def test_deaths_are_counted_by_workers_and_forgotten_after_an_answer() -> None:
    quarantine = Quarantine(Clock())
    quarantine.suspect(b"a", epoch=1)
    quarantine.suspect(b"a", epoch=1)  # two like it in one worker
    await pass_through(quarantine, b"a")
    quarantine.clear(b"a")
    quarantine.suspect(b"a", epoch=2)
    await pass_through(quarantine, b"a")
    quarantine.suspect(b"a", epoch=3)
    with pytest.raises(RequestCrashesWorkerError, match="died 2 times"):
        await pass_through(quarantine, b"a")
    await pass_through(quarantine, b"b")


async def test_who_is_shut_out_may_come_again_after_some_minutes() -> None:
    clock = Clock()
    quarantine = Quarantine(clock)
    for epoch in (1, 2):
        quarantine.suspect(b"a", epoch=epoch)
    clock.now = SHUT_OUT_SECONDS
    with pytest.raises(RequestCrashesWorkerError):
        await pass_through(quarantine, b"a")
    clock.now += 1.0
    await pass_through(quarantine, b"a")


async def test_one_death_is_forgotten_after_some_minutes_too() -> None:
    clock = Clock()
    quarantine = Quarantine(clock)
    quarantine.suspect(b"a", epoch=1)
    clock.now = SHUT_OUT_SECONDS + 1.0
    await quarantine.enter(b"beside")
    await asyncio.wait_for(quarantine.enter(b"a"), 0.1)
    quarantine.suspect(b"a", epoch=2)  # is the first one again
    for fingerprint in (b"a", b"beside"):
        quarantine.leave(fingerprint)
    await pass_through(quarantine, b"a")


async def test_no_death_is_forgotten_while_the_request_waits_or_runs() -> None:
    clock = Clock()
    quarantine = Quarantine(clock)
    for fingerprint in (b"other", b"a"):
        quarantine.suspect(fingerprint, epoch=1)
    await quarantine.enter(b"other")
    waiting = asyncio.create_task(quarantine.enter(b"a"))
    await turns()
    clock.now = SHUT_OUT_SECONDS + 1.0
    twin = asyncio.create_task(quarantine.enter(b"a"))
    await turns()
    quarantine.leave(b"other")
    await turns()
    assert (waiting.done(), twin.done()) == (True, False)  # alone, as before
    clock.now *= 2
    quarantine.suspect(b"a", epoch=2)
    quarantine.leave(b"a")
    with pytest.raises(RequestCrashesWorkerError):
        await twin


async def test_who_gave_up_waiting_is_present_no_more() -> None:
    clock = Clock()
    quarantine = Quarantine(clock)
    quarantine.suspect(b"a", epoch=1)
    await quarantine.enter(b"beside")
    away = asyncio.create_task(quarantine.enter(b"a"))
    await turns()
    away.cancel()
    await turns()
    clock.now = SHUT_OUT_SECONDS + 1.0
    await asyncio.wait_for(quarantine.enter(b"a"), 0.1)


async def test_a_suspect_that_comes_later_waits_for_those_inside_and_goes_before_newcomers() -> (
    None
):
    quarantine = Quarantine(Clock())
    quarantine.suspect(b"b", epoch=1)
    await quarantine.enter(b"a")
    suspect = asyncio.create_task(quarantine.enter(b"b"))
    await turns()
    newcomer = asyncio.create_task(quarantine.enter(b"c"))
    await turns()
    assert (suspect.done(), newcomer.done()) == (False, False)
    quarantine.leave(b"a")
    await turns()
    assert (suspect.done(), newcomer.done()) == (True, False)
    quarantine.leave(b"b")
    await turns()
    assert newcomer.done()


async def test_one_who_waits_together_is_tried_alone_if_its_like_died_meanwhile() -> None:
    quarantine = Quarantine(Clock())
    quarantine.suspect(b"other", epoch=1)
    await quarantine.enter(b"other")
    waiting = asyncio.create_task(quarantine.enter(b"a"))
    mate = asyncio.create_task(quarantine.enter(b"mate"))
    await turns()
    quarantine.suspect(b"a", epoch=1)
    quarantine.leave(b"other")
    await turns()
    assert (mate.done(), waiting.done()) == (True, False)
    quarantine.leave(b"mate")
    await turns()
    assert waiting.done()


async def test_one_whose_like_was_shut_out_while_it_waited_is_refused_and_holds_nobody_up() -> None:
    quarantine = Quarantine(Clock())
    quarantine.suspect(b"a", epoch=1)
    await quarantine.enter(b"a")
    twin = asyncio.create_task(quarantine.enter(b"a"))
    await turns()
    quarantine.suspect(b"a", epoch=2)
    quarantine.leave(b"a")
    with pytest.raises(RequestCrashesWorkerError):
        await twin
    await pass_through(quarantine, b"b")
    quarantine.suspect(b"c", epoch=3)
    await pass_through(quarantine, b"c")
