"""Rollouts whose caller left: they go on for a while, and the same body takes them over."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from server.domain.errors import ServiceError, WorkerUnavailableError
from server.services.lingering import Lingering, Patience
from tests.api.conftest import Serve
from tests.factories import make_request
from tests.fakes import FakeEngine
from tests.leaving import send_and_leave
from tests.service import Service, until

pytestmark = pytest.mark.anyio

ROLLOUTS = "/v1/tuning/rollouts"
TINY_SECONDS = 0.05


async def body_for(service: Service) -> dict[str, Any]:
    return {"finetune_id": await service.create(), "request": make_request("query")}


def num_made(service: Service) -> int:
    return len(service.engine.commands("make_rollouts"))


async def leave(service: Service, body: Any) -> None:
    """Call, and leave when the worker has the call."""
    number = service.engine.num_running
    call, left = await send_and_leave(service, ROLLOUTS, body)
    await until(lambda: service.engine.num_running > number)
    left.set()
    await call


async def test_the_same_body_takes_over_what_its_caller_left(service: Service) -> None:
    body = await body_for(service)
    service.engine.gate.clear()
    await leave(service, body)
    again = asyncio.create_task(service.post(ROLLOUTS, body))
    await asyncio.sleep(0.02)
    service.engine.gate.set()
    assert (await again).status_code == 200
    assert num_made(service) == 1
    assert (await service.post(ROLLOUTS, body)).status_code == 200
    assert num_made(service) == 2


async def test_a_result_that_nobody_waited_for_is_kept(service: Service) -> None:
    body = await body_for(service)
    service.engine.gate.clear()
    await leave(service, body)
    service.engine.gate.set()
    await until(lambda: service.engine.num_running == 0)
    assert (await service.post(ROLLOUTS, body)).status_code == 200
    assert num_made(service) == 1


async def test_one_execution_carries_a_caller_through_three_patiences(service: Service) -> None:
    body = await body_for(service)
    service.engine.gate.clear()
    await leave(service, body)
    for _ in range(2):
        call, left = await send_and_leave(service, ROLLOUTS, body)
        await asyncio.sleep(0.02)
        left.set()
        await call
    last = asyncio.create_task(service.post(ROLLOUTS, body))
    await asyncio.sleep(0.02)
    service.engine.gate.set()
    assert (await last).status_code == 200
    assert num_made(service) == 1


async def test_equal_calls_whose_callers_stay_are_independent(service: Service) -> None:
    body = await body_for(service)
    service.engine.gate.clear()
    calls = [asyncio.create_task(service.post(ROLLOUTS, body)) for _ in range(8)]
    await until(lambda: service.engine.num_running == 8)
    service.engine.gate.set()
    answers = [(await call).json()["rollouts"] for call in calls]
    assert len({str(answer) for answer in answers}) == 8
    assert len({command.seed for command in service.engine.commands("make_rollouts")}) == 8


async def test_another_body_takes_over_nothing(service: Service) -> None:
    body = await body_for(service)
    service.engine.gate.clear()
    await leave(service, body)
    other = asyncio.create_task(service.post(ROLLOUTS, {**body, "num_rollouts": 2}))
    await until(lambda: num_made(service) == 2)
    service.engine.gate.set()
    assert (await other).status_code == 200


async def test_what_nobody_takes_over_is_ended_and_frees_its_turn(serve: Serve) -> None:
    async with serve(rollout_linger_seconds=TINY_SECONDS) as service:
        body = await body_for(service)
        service.engine.gate.clear()
        await leave(service, body)
        await until(lambda: service.engine.num_running == 0)
        assert service.engine.cancelled == service.engine.commands("make_rollouts")
        await until(lambda: service.dispatcher.num_running == 0)


async def test_one_that_waits_keeps_its_place_for_who_takes_over(serve: Serve) -> None:
    async with serve(max_engine_calls=1, rollouts_queue_seconds=10 * TINY_SECONDS) as service:
        body = await body_for(service)
        service.engine.gate.clear()
        running = asyncio.create_task(service.roll(await service.create("other"), "query"))
        await until(lambda: service.engine.num_running == 1)
        call, left = await send_and_leave(service, ROLLOUTS, body)
        await until(lambda: service.dispatcher.num_waiting == 1)
        left.set()
        await call
        await asyncio.sleep(6 * TINY_SECONDS)
        again = asyncio.create_task(service.post(ROLLOUTS, body))
        await asyncio.sleep(6 * TINY_SECONDS)  # beyond the patience of the first
        assert service.dispatcher.num_waiting == 1
        service.engine.gate.set()
        assert (await running).status_code == (await again).status_code == 200


async def test_a_turn_that_was_given_is_kept_by_who_takes_over_and_given_back_once(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker comes too late for the first caller only."""
    async with serve(max_engine_calls=1) as service:
        body = await body_for(service)
        handover = service.app.state.services.rollouts._handover
        loaded_model, came, go_on = handover.loaded_model, asyncio.Event(), asyncio.Event()

        async def too_late(*, before: float) -> Any:
            monkeypatch.setattr(handover, "loaded_model", loaded_model)
            came.set()
            await go_on.wait()
            raise WorkerUnavailableError("too late")

        monkeypatch.setattr(handover, "loaded_model", too_late)
        call, left = await send_and_leave(service, ROLLOUTS, body)
        await came.wait()
        left.set()
        await call
        again = asyncio.create_task(service.post(ROLLOUTS, body))
        lingering = service.app.state.services.rollouts._lingering
        await until(lambda: lingering.num_orphans == 0)
        go_on.set()
        assert (await again).status_code == 200
        await until(lambda: service.dispatcher.num_running == 0)
        assert (await service.post(ROLLOUTS, body)).status_code == 200


async def test_a_refused_orphan_is_judged_afresh(serve: Serve) -> None:
    engine = FakeEngine()
    engine.state = "starting"
    async with serve(engine, rollouts_queue_seconds=10 * TINY_SECONDS) as service:
        body = await body_for(service)
        call, left = await send_and_leave(service, ROLLOUTS, body)
        await until(lambda: service.dispatcher.num_waiting == 1)
        left.set()
        await call
        lingering = service.app.state.services.rollouts._lingering
        await until(lambda: lingering.num_orphans == 0)
        engine.state = "ready"
        assert (await service.post(ROLLOUTS, body)).status_code == 200


async def test_an_orphan_of_another_account_is_not_taken_over() -> None:
    loop = asyncio.get_running_loop()
    lingering = Lingering[str](seconds=1.0, clock=loop.time)
    gate = asyncio.Event()

    def begin(who: str) -> Any:
        async def work(_patience: Patience) -> str:
            await gate.wait()
            return who

        return work

    left: asyncio.Future[None] = loop.create_future()
    left.set_result(None)
    with pytest.raises(ServiceError):
        await lingering.run(("a", b"body"), begin("a"), caller_left=left)
    gate.set()
    stays: asyncio.Future[None] = loop.create_future()
    assert await lingering.run(("b", b"body"), begin("b"), caller_left=stays) == "b"
    assert await lingering.run(("a", b"body"), begin("anew"), caller_left=stays) == "a"
