"""A request that kills workers is found, and those beside it lose nothing; http-api.md 3.2, 4.2."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from contract.errors import EngineFailed, WorkerUnavailable
from tests.api.conftest import Serve
from tests.factories import make_request
from tests.fakes import FakeEngine
from tests.service import Service, refusal, until

ONE_DATABASE_IS_ENOUGH = True  # This is about dying workers.

pytestmark = pytest.mark.anyio

TINY_SECONDS = 0.1
Call = asyncio.Task[httpx.Response]


def is_poison(command: Any) -> bool:
    return command.request.question == "poison"


@pytest.fixture
async def busy(serve: Serve, anyio_backend: str) -> AsyncIterator[Service]:
    """A service whose engine takes many calls, keeps them in hand, and dies of one of them."""
    async with serve(max_engine_calls=16) as service:
        service.engine.is_poison = is_poison
        service.engine.gate.clear()
        yield service
        service.engine.gate.set()


def roll(service: Service, finetune_id: str, question: str) -> Call:
    call = service.roll(finetune_id, request=make_request("query", question=question))
    return asyncio.create_task(call)


async def in_hand(engine: FakeEngine, number: int) -> None:
    await until(lambda: engine.num_running == number)


def runs(engine: FakeEngine, question: str) -> int:
    return sum(c.request.question == question for c in engine.commands("make_rollouts"))


async def begin(service: Service, *questions: str) -> list[Call]:
    """Have calls in the worker's hands, in this order; they stay while the gate is shut."""
    finetune_id, calls = await service.create(), list[Call]()
    for question in questions:
        calls.append(roll(service, finetune_id, question))
        await in_hand(service.engine, len(calls))
    return calls


async def test_poison_is_refused_after_two_runs_and_its_mates_are_answered(busy: Service) -> None:
    engine, names = busy.engine, [f"mate {i}" for i in range(8)]
    mates = await begin(busy, *names)
    poison = roll(busy, await busy.create(), "poison")
    # Nine, a death, and one of them again, or two if the first was the poison.
    await until(lambda: len(engine.calls) >= 10 and engine.num_running == 1)
    engine.max_running = 0
    engine.gate.set()
    refusal(await poison, 422, "request_crashes_worker")
    assert [(await mate).status_code for mate in mates] == [200] * 8
    assert engine.max_running == 1
    assert runs(engine, "poison") == 2
    assert [runs(engine, name) for name in names] == [2] * 8
    assert engine.epoch == 3


async def test_what_comes_meanwhile_waits_until_no_suspect_is_left(busy: Service) -> None:
    engine = busy.engine
    suspects = await begin(busy, "a", "b", "c")
    engine.die()
    await in_hand(engine, 1)
    newcomer = roll(busy, await busy.create(), "new")
    await until(lambda: busy.dispatcher.num_running == 4)
    engine.gate.set()
    for call in (*suspects, newcomer):
        assert (await call).status_code == 200
    order = [command.request.question for command in engine.commands("make_rollouts")]
    assert sorted(order[3:6]) == ["a", "b", "c"]
    assert order[6:] == ["new"]


async def test_equal_innocents_beside_a_poison_are_answered_both(busy: Service) -> None:
    mates = await begin(busy, "twin", "twin", "other")
    poison = roll(busy, await busy.create(), "poison")
    busy.engine.gate.set()
    refusal(await poison, 422, "request_crashes_worker")
    assert [(await mate).status_code for mate in mates] == [200] * 3


async def test_equal_poisons_are_shut_out_together(busy: Service) -> None:
    finetune_id = await busy.create()
    (mate,) = await begin(busy, "mate")
    busy.engine.is_poison = lambda _command: False
    poisons = [roll(busy, finetune_id, "poison") for _ in range(2)]
    await in_hand(busy.engine, 3)
    busy.engine.is_poison = is_poison
    busy.engine.die()
    busy.engine.gate.set()
    for poison in poisons:
        refusal(await poison, 422, "request_crashes_worker")
    assert (await mate).status_code == 200
    assert runs(busy.engine, "poison") == 3  # twice in the first worker, once alone
    assert busy.engine.epoch == 3


async def test_a_worker_killed_twice_from_outside_costs_one_request_at_most(busy: Service) -> None:
    engine = busy.engine
    calls = await begin(busy, "a", "b", "c", "d")
    engine.die()
    await in_hand(engine, 1)
    engine.die()
    engine.gate.set()
    assert sorted([(await call).status_code for call in calls]) == [200, 200, 200, 422]


async def test_a_call_that_a_worker_never_had_is_no_suspect(busy: Service) -> None:
    engine = busy.engine
    (running,) = await begin(busy, "a")
    engine.die()
    await in_hand(engine, 1)
    waiting = roll(busy, await busy.create(), "b")
    await until(lambda: busy.dispatcher.num_running == 2)
    engine.die()  # the second time for `a`; `b` waited outside
    refusal(await running, 422, "request_crashes_worker")
    await in_hand(engine, 1)
    engine.die()  # the first time for `b`
    engine.gate.set()
    assert (await waiting).status_code == 200


async def test_the_deadline_of_rollouts_holds_among_suspects(serve: Serve) -> None:
    async with serve(max_engine_calls=16, rollouts_answer_seconds=TINY_SECONDS) as service:
        engine = service.engine
        engine.gate.clear()
        suspects = await begin(service, "a", "b")
        engine.die()
        ended, running = await asyncio.wait(suspects, return_when=asyncio.FIRST_COMPLETED)
        refusal(await ended.pop(), 503, "worker_unavailable")
        assert len(engine.calls) == 3  # it was tried once, the other one twice
        engine.gate.set()
        assert (await running.pop()).status_code == 200
        finetune_id = await service.create()
        assert (await roll(service, finetune_id, "free again")).status_code == 200


async def test_steps_and_answers_are_tried_alone_too(busy: Service) -> None:
    engine, finetune_id = busy.engine, await busy.create()
    engine.is_poison = lambda _command: False
    calls: list[Call] = [
        asyncio.create_task(busy.train(finetune_id)),
        asyncio.create_task(busy.post("/v1/query", {"question": "?"})),
        roll(busy, finetune_id, "a"),
    ]
    await in_hand(engine, 3)
    engine.die()
    await in_hand(engine, 1)
    engine.max_running = 0
    engine.gate.set()
    assert [(await call).status_code for call in calls] == [200] * 3
    assert engine.max_running == 1


@pytest.mark.parametrize("kind", ["inference", "rollouts", "download"])
async def test_others_wait_a_bounded_time_behind_a_step_that_runs_alone(
    serve: Serve, kind: str
) -> None:
    queue_seconds = {
        "inference_queue_seconds": 5 * TINY_SECONDS,  # enough for the call that is answered
        "rollouts_queue_seconds": 5 * TINY_SECONDS,
    }
    async with serve(max_engine_calls=16, **queue_seconds) as service:
        engine, finetune_id = service.engine, await service.create()
        await service.train(finetune_id)
        await service.save(finetune_id)
        engine.gate.clear()
        step = asyncio.create_task(service.train(finetune_id))
        await in_hand(engine, 1)
        engine.die()
        await until(lambda: len(engine.commands("train_step")) == 3)
        num_calls = len(engine.calls)
        checkpoint = f"/v1/tuning/finetunes/{finetune_id}/checkpoints/1"
        call = {
            "inference": lambda: service.post("/v1/query", {"question": "?"}),
            "rollouts": lambda: service.roll(finetune_id),
            "download": lambda: service.get(f"{checkpoint}/download"),
        }[kind]
        refusal(await asyncio.wait_for(call(), 5.0), 503, "worker_unavailable")
        assert len(engine.calls) == num_calls
        engine.gate.set()
        assert (await step).status_code == 200
        assert (await call()).status_code == 200


async def test_one_death_is_forgiven_once_the_request_is_answered_with_an_error(
    busy: Service,
) -> None:
    busy.engine.gate.set()
    finetune_id, death = await busy.create(), WorkerUnavailable("The worker died.")
    busy.engine.faults.extend([death, EngineFailed("A fault.")])
    refusal(await roll(busy, finetune_id, "a"), 500, "internal_error")
    busy.engine.faults.append(death)
    assert (await roll(busy, finetune_id, "a")).status_code == 200
