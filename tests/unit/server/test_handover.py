"""Handing a call over: until when it may begin, and how long it counts as the engine's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from contract.errors import EngineError, EngineFailed, RequestRefused, StorageFull
from server.domain.engine_status import NotHandedOverError, WorkerDiedError
from server.domain.errors import (
    OverloadedError,
    RequestCrashesWorkerError,
    ServiceError,
    WorkerUnavailableError,
)
from server.services.dispatch import Dispatcher
from server.services.handover import Handover
from tests.fakes import FakeEngine

pytestmark = pytest.mark.anyio

Verb = Callable[[], Awaitable[str]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def handover(clock: Clock) -> Handover:
    return Handover(Dispatcher(FakeEngine(), clock=clock))


def died(epoch: int) -> WorkerDiedError:
    return WorkerDiedError("The worker died.", epoch=epoch)


def unseen() -> NotHandedOverError:
    return NotHandedOverError("No worker is ready.")


def meeting(*ends: Exception | str) -> Verb:
    """A verb whose attempts end so, one after another."""
    remaining = list(ends)

    async def verb() -> str:
        end = remaining.pop(0)
        if isinstance(end, Exception):
            raise end
        return end

    return verb


class Held:
    """A verb that a worker has until it is let go, whether its caller stays or not."""

    def __init__(self) -> None:
        self.runs = 0
        self.end = asyncio.get_running_loop().create_future()

    async def __call__(self) -> str:
        self.runs += 1
        try:
            return await asyncio.shield(self.end)
        except asyncio.CancelledError as cancelled:
            await asyncio.wait({self.end})
            raise cancelled from self.end.exception()


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


# --- deadlines


async def test_a_call_does_not_begin_late_although_nobody_is_in_its_way(
    handover: Handover, clock: Clock
) -> None:
    clock.now = 54.0
    with pytest.raises(OverloadedError, match="place 1 of 1"):
        await handover.call(meeting("x"), fingerprint=b"a", begin_before=45.0, redo_before=55.0)
    clock.now = 44.0
    assert await handover.call(meeting("x"), fingerprint=b"a", begin_before=45.0) == "x"


@pytest.mark.parametrize(("redo_before", "ends_well"), [(55.0, True), (50.0, False), (None, False)])
async def test_a_redo_has_a_deadline_of_its_own_or_that_of_the_first_attempt(
    handover: Handover, clock: Clock, redo_before: float | None, ends_well: bool
) -> None:
    async def die_at_54() -> str:
        if clock.now == 54.0:
            return "again"
        clock.now = 54.0
        raise died(1)

    call = handover.call(die_at_54, fingerprint=b"a", begin_before=45.0, redo_before=redo_before)
    if ends_well:
        assert await call == "again"
    else:
        with pytest.raises(WorkerUnavailableError):
            await call


async def test_a_call_that_no_worker_saw_has_the_deadline_of_its_beginning_and_is_no_suspect(
    clock: Clock,
) -> None:
    engine = FakeEngine()
    dispatcher = Dispatcher(engine, clock=clock)
    handover = Handover(dispatcher)
    assert await handover.call(meeting(unseen(), unseen(), "x"), fingerprint=b"a") == "x"

    async def unseen_at_44() -> str:
        clock.now, engine.state = 46.0, "unavailable"
        raise unseen()

    with pytest.raises(WorkerUnavailableError, match="place 1 of 1"):
        await handover.call(unseen_at_44, fingerprint=b"a", begin_before=45.0, redo_before=1e9)
    engine.state = "ready"
    for _ in range(2):  # not held against it: it may still lose two workers
        assert await handover.call(meeting(unseen(), died(7), "x"), fingerprint=b"b") == "x"


async def test_a_call_without_deadlines_begins_whenever(handover: Handover, clock: Clock) -> None:
    clock.now = 1e9
    assert await handover.call(meeting(died(1), "x"), fingerprint=b"a") == "x"


# --- answers


@pytest.mark.parametrize("error", [RequestRefused("No."), EngineFailed("A fault."), StorageFull()])
async def test_an_error_is_an_answer_and_clears_the_request(
    handover: Handover, error: EngineError
) -> None:
    with pytest.raises(ServiceError):
        await handover.call(meeting(died(1), error), fingerprint=b"a")
    assert await handover.call(meeting(died(2), "x"), fingerprint=b"a") == "x"


# --- calls whose callers left


async def left(handover: Handover, held: Held) -> asyncio.Task[str]:
    """A call that a worker has, and whose caller has just left."""
    call = asyncio.create_task(handover.call(held, fingerprint=b"left"))
    await turns()
    call.cancel()
    await turns()
    return call


async def test_a_suspect_waits_until_the_worker_has_let_go_of_a_cancelled_call(
    handover: Handover,
) -> None:
    held, alone = Held(), Held()
    call = await left(handover, held)
    attempts = iter([meeting(died(1)), alone])
    suspect = asyncio.create_task(handover.call(lambda: next(attempts)(), fingerprint=b"suspect"))
    await turns()
    assert (call.done(), alone.runs) == (False, 0)
    held.end.set_result("let go")
    await turns()
    assert (call.cancelled(), alone.runs) == (True, 1)
    alone.end.set_result("innocent")
    assert await suspect == "innocent"


async def test_a_death_is_held_against_the_cancelled_call_that_the_worker_still_had(
    handover: Handover,
) -> None:
    held = Held()
    call = await left(handover, held)
    held.end.set_exception(died(1))
    await turns()
    assert call.cancelled()
    with pytest.raises(RequestCrashesWorkerError):
        await handover.call(meeting(died(2), "third run"), fingerprint=b"left")


async def test_a_caller_that_is_cancelled_twice_goes_and_its_call_stays(
    handover: Handover,
) -> None:
    held, alone = Held(), Held()
    call = await left(handover, held)
    call.cancel()
    await turns()
    assert call.cancelled()
    attempts = iter([meeting(died(1)), alone])
    suspect = asyncio.create_task(handover.call(lambda: next(attempts)(), fingerprint=b"suspect"))
    await turns()
    assert alone.runs == 0
    for verb in (held, alone):
        verb.end.set_result("over")
    assert await suspect == "over"
