"""Waiting: deadlines, order, fairness, leaving callers, dying workers; http-api.md 2.2, 4.6."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import httpx
import pytest

from contract.errors import WorkerUnavailable
from server.domain.engine_status import WorkerDiedError
from server.services import training
from tests.api.conftest import Serve
from tests.factories import make_image_url, make_request, make_sft_group
from tests.fakes import FakeEngine, FakeImageDecoder
from tests.leaving import send_and_leave
from tests.service import Service, refusal, until

ONE_DATABASE_IS_ENOUGH = True  # This is about queues.

pytestmark = pytest.mark.anyio

T = TypeVar("T")

TINY_SECONDS = 0.03
SHORT_SECONDS = 0.5
"""Ample for a call that need not wait, on a busy machine and any database."""
DIED = WorkerUnavailable("The worker died.")


def start(call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    return asyncio.create_task(call)


# --- the model loads, calls hold


async def test_calls_hold_while_the_model_loads(serve: Serve) -> None:
    engine = FakeEngine()
    engine.state = "starting"
    async with serve(engine) as service:
        finetune_id = await service.create()
        calls = [
            start(service.roll(finetune_id)),
            start(service.train(finetune_id)),
            start(service.post("/v1/query", {"question": "?"})),
        ]
        await until(lambda: service.dispatcher.num_waiting == 3)
        assert engine.calls == []
        engine.state = "ready"
        for call in calls:
            assert (await call).status_code == 200


async def test_the_models_own_name_is_known_to_calls_that_came_before_it(serve: Serve) -> None:
    engine = FakeEngine()
    engine.state = "starting"
    async with serve(engine) as service:
        own = start(service.post("/v1/query", {"question": "?", "model": engine.model.name}))
        other = start(service.post("/v1/query", {"question": "?", "model": "gpt"}))
        await until(lambda: service.dispatcher.num_waiting == 2)
        engine.state = "ready"
        assert (await own).status_code == 200
        refusal(await other, 404, "model_not_found")


@pytest.mark.parametrize(
    ("state", "code"), [("starting", "starting"), ("unavailable", "worker_unavailable")]
)
async def test_deadlines_while_no_worker_is_ready(serve: Serve, state: Any, code: str) -> None:
    engine = FakeEngine()
    engine.state = state
    options = {
        "rollouts_queue_seconds": SHORT_SECONDS,
        "train_queue_seconds": SHORT_SECONDS,
        "inference_queue_seconds": SHORT_SECONDS,
    }
    async with serve(engine, **options) as service:
        finetune_id = await service.create()
        for call in (
            service.roll(finetune_id),
            service.train(finetune_id),
            service.post("/v1/query", {"question": "?"}),
        ):
            answer = await call
            refusal(answer, 503, code)
            assert int(answer.headers["retry-after"]) > 0
        assert service.dispatcher.num_waiting == 0
        engine.state = "ready"
        assert (await service.train(finetune_id)).json()["step"] == 1


async def test_deadlines_behind_other_work(serve: Serve) -> None:
    async with serve(
        max_engine_calls=1,
        rollouts_queue_seconds=SHORT_SECONDS,
        train_queue_seconds=SHORT_SECONDS,
        inference_queue_seconds=SHORT_SECONDS,
    ) as service:
        finetune_id = await service.create()
        service.engine.gate.clear()
        running = [start(service.train(finetune_id)), start(service.roll(finetune_id))]
        await until(lambda: service.engine.num_running == 2)
        for call in (
            service.roll(finetune_id),
            service.train(await service.create("other")),
            service.post("/v1/query", {"question": "?"}),
        ):
            body = refusal(await call, 503, "overloaded")
            assert "2 calls run" in body["message"]
        service.engine.gate.set()
        assert [(await call).status_code for call in running] == [200, 200]
        assert len(service.engine.calls) == 2


# --- order and fairness


def has_waiting(service: Service, number: int) -> bool:
    return service.dispatcher.num_waiting == number


async def test_steps_of_one_finetune_run_in_order_of_arrival(service: Service) -> None:
    finetune_id = await service.create()
    service.engine.gate.clear()
    calls = [start(service.train(finetune_id, lr=0.1))]
    await until(lambda: service.engine.calls)
    for index in range(1, 6):
        calls.append(start(service.train(finetune_id, lr=(index + 1) / 10)))
        await until(partial(has_waiting, service, index))
    service.engine.gate.set()
    steps = [(await call).json()["step"] for call in calls]
    assert steps == [1, 2, 3, 4, 5, 6]
    rates = [command.lr for command in service.engine.commands("train_step")]
    assert rates == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


async def test_a_slow_picture_does_not_cost_a_step_its_place(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune_id = await service.create()
    slow_url, decode, release = make_image_url((1, 2, 3)), service.decoder.decode, asyncio.Event()
    decoding: list[str] = []

    async def decode_slowly(url: str) -> Any:
        decoding.append(url)
        if url == slow_url:
            await release.wait()
        return await decode(url)

    monkeypatch.setattr(service.decoder, "decode", decode_slowly)
    group = make_sft_group(request=make_request("query", image_url=slow_url))
    first = start(service.train(finetune_id, groups=[group], lr=0.1))
    await until(lambda: decoding == [slow_url])
    second = start(service.train(finetune_id, lr=0.2))
    await until(lambda: service.dispatcher.num_waiting == 1)
    other = await service.train(await service.create("other"), lr=0.3)  # is not held up
    assert other.status_code == 200
    release.set()
    assert [(await first).json()["step"], (await second).json()["step"]] == [1, 2]
    assert [command.lr for command in service.engine.commands("train_step")] == [0.3, 0.1, 0.2]


async def test_a_refused_step_gives_its_place_to_the_next(service: Service) -> None:
    finetune_id = await service.create()
    bad = make_sft_group(request=make_request("query", image_url="https://x.example/"))
    answers = await asyncio.gather(
        service.train(finetune_id, lr=0.1),
        service.train(finetune_id, groups=[bad]),
        service.train(finetune_id, lr=0.2),
    )
    assert sorted(answer.status_code for answer in answers) == [200, 200, 422]
    details = await service.get(f"/v1/tuning/finetunes/{finetune_id}")
    assert details.json()["finetune"]["step"] == 2


async def test_turns_go_round_over_finetunes_and_classes(serve: Serve) -> None:
    async with serve(max_engine_calls=1) as service:
        busy, quiet = await service.create("busy"), await service.create("quiet")
        service.engine.gate.clear()
        calls = [start(service.roll(busy))]
        await until(lambda: service.engine.calls)
        for index in range(4):
            calls.append(start(service.roll(busy, num_rollouts=index + 1)))
        await until(lambda: service.dispatcher.num_waiting == 4)
        calls.append(start(service.roll(quiet)))
        calls.append(start(service.post("/v1/query", {"question": "?"})))
        calls.append(start(service.post("/v1/query", {"question": "??"})))
        await until(lambda: service.dispatcher.num_waiting == 7)
        service.engine.gate.set()
        await asyncio.gather(*calls)
        order = [
            (verb, getattr(command.adapter, "finetune_id", None))
            for verb, command in service.engine.calls
        ]
        # After the first rollouts of `busy` the classes take turns, and in one of them finetunes.
        assert order[1:6] == [
            ("answer", None),
            ("make_rollouts", busy),
            ("answer", None),
            ("make_rollouts", quiet),
            ("make_rollouts", busy),
        ]
        assert service.engine.max_running == 1


async def test_answers_run_together_beside_one_step_and_never_two(serve: Serve) -> None:
    async with serve(max_engine_calls=3) as service:
        one, other = await service.create("one"), await service.create("other")
        service.engine.gate.clear()
        steps = [
            start(service.train(one, lr=0.1)),
            start(service.train(one, lr=0.2)),
            start(service.train(other)),
        ]
        await until(partial(has_waiting, service, 2))
        answers = [start(service.roll(one)) for _ in range(4)]
        await until(partial(has_waiting, service, 3))
        await until(lambda: service.engine.num_running == 4)
        assert sorted(service.engine.verbs()) == ["make_rollouts"] * 3 + ["train_step"]
        service.engine.gate.set()
        assert all(answer.status_code == 200 for answer in await asyncio.gather(*steps, *answers))
        assert service.engine.max_running == 4


@pytest.mark.parametrize("is_step_first", [True, False])
async def test_neither_steps_nor_answers_wait_for_the_other(
    serve: Serve, is_step_first: bool
) -> None:
    async with serve(max_engine_calls=1) as service:
        finetune_id = await service.create()
        kinds = [service.train, service.roll] if is_step_first else [service.roll, service.train]
        service.engine.gate.clear()
        calls: list[asyncio.Task[httpx.Response]] = []
        for kind in kinds:
            calls.append(start(kind(finetune_id)))
            await until(lambda: service.engine.num_running == len(calls))
        service.engine.gate.set()
        assert all(answer.status_code == 200 for answer in await asyncio.gather(*calls))


async def test_by_default_dozens_of_answers_are_with_the_engine(service: Service) -> None:
    service.engine.gate.clear()
    calls = [start(service.post("/v1/query", {"question": f"{i}"})) for i in range(40)]
    # Every one waits, or has reached the engine.
    await until(lambda: service.engine.num_running + service.dispatcher.num_waiting == 40)
    assert service.engine.num_running == 31  # the last turn is kept for others
    assert service.dispatcher.num_waiting == 9
    service.engine.gate.set()
    assert all(answer.status_code == 200 for answer in await asyncio.gather(*calls))


# --- callers who leave


@pytest.mark.parametrize("path", ["/v1/tuning/rollouts", "/v1/detect"])
async def test_work_that_waits_is_dropped_when_its_caller_leaves(serve: Serve, path: str) -> None:
    async with serve(max_engine_calls=1, rollout_linger_seconds=0) as service:
        finetune_id = await service.create()
        service.engine.gate.clear()
        running = start(service.roll(finetune_id, "query"))
        await until(lambda: service.engine.calls)
        request = make_request()
        body = {"finetune_id": finetune_id, "request": request, **request}
        call, left = await send_and_leave(service, path, body)
        await until(lambda: service.dispatcher.num_waiting == 1)
        left.set()
        await call
        await until(lambda: service.dispatcher.num_waiting == 0)
        service.engine.gate.set()
        await running
        assert len(service.engine.calls) == 1


async def test_an_answer_that_runs_is_ended_when_its_caller_leaves(service: Service) -> None:
    service.engine.gate.clear()
    call, left = await send_and_leave(service, "/v1/detect", make_request())
    await until(lambda: service.engine.num_running == 1)
    left.set()
    await call
    assert service.engine.cancelled == service.engine.commands("answer")
    assert service.engine.num_running == service.dispatcher.num_running == 0


async def test_an_answer_is_ended_when_its_handler_is_cancelled(service: Service) -> None:
    service.engine.gate.clear()
    call, _ = await send_and_leave(service, "/v1/detect", make_request())
    await until(lambda: service.engine.num_running == 1)
    call.cancel()
    with suppress(asyncio.CancelledError):
        await call
    assert service.engine.cancelled == service.engine.commands("answer")
    assert service.engine.num_running == service.dispatcher.num_running == 0


async def test_rollouts_that_run_are_finished_although_their_caller_left(service: Service) -> None:
    body = {"finetune_id": await service.create(), "request": make_request()}
    service.engine.gate.clear()
    call, left = await send_and_leave(service, "/v1/tuning/rollouts", body)
    await until(lambda: service.engine.num_running == 1)
    left.set()
    other = start(service.post("/v1/query", {"question": "?"}))
    await until(lambda: service.engine.num_running == 2)
    service.engine.gate.set()
    await call
    assert (await other).status_code == 200
    assert service.engine.cancelled == []


async def test_a_step_runs_to_its_end_although_its_caller_left(service: Service) -> None:
    finetune_id = await service.create()
    service.engine.gate.clear()
    running = start(service.train(finetune_id, lr=0.1))
    await until(lambda: service.engine.calls)
    body = {"finetune_id": finetune_id, "groups": [make_sft_group()]}
    waiting, left = await send_and_leave(service, "/v1/tuning/train_step", body)
    await until(lambda: service.dispatcher.num_waiting == 1)
    left.set()
    service.engine.gate.set()
    await running
    await waiting
    details = await service.get(f"/v1/tuning/finetunes/{finetune_id}")
    assert details.json()["finetune"]["step"] == 2


async def test_a_step_survives_the_cancelling_of_its_handler(service: Service) -> None:
    finetune_id = await service.create()
    service.engine.gate.clear()
    running = start(service.train(finetune_id))
    await until(lambda: service.engine.calls)
    running.cancel()
    service.engine.gate.set()
    await until(lambda: service.dispatcher.num_running == 0)
    again = await service.train(finetune_id)  # the caller had no answer, and gets it now
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["step"] == 1
    assert (await service.train(finetune_id, lr=0.1)).json()["step"] == 2


# --- workers that die


async def test_a_step_is_redone_from_the_same_state_when_the_worker_dies(
    service: Service,
) -> None:
    finetune_id = await service.create()
    await service.train(finetune_id)
    service.engine.faults.append(DIED)
    assert (await service.train(finetune_id)).json()["step"] == 2
    _, first, second = service.engine.commands("train_step")
    assert first.adapter == second.adapter
    assert first.optimizer == second.optimizer
    assert first.weights_path != second.weights_path
    assert first.optimizer_path != second.optimizer_path


async def test_a_redo_waits_until_a_worker_is_ready_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune_id = await service.create()
    engine = service.engine
    train_step = engine.train_step

    async def die_once(*args: Any) -> Any:
        monkeypatch.setattr(engine, "train_step", train_step)
        engine.state = "unavailable"
        engine.calls.append(("died", None))
        raise WorkerDiedError("The worker died.", epoch=1)

    monkeypatch.setattr(engine, "train_step", die_once)
    step = start(service.train(finetune_id))
    await until(lambda: engine.calls)
    await asyncio.sleep(TINY_SECONDS)
    assert engine.verbs() == ["died"]
    engine.state = "ready"
    assert (await step).json()["step"] == 1


async def test_a_request_that_kills_two_workers_is_refused_for_some_minutes(
    service: Service,
) -> None:
    finetune_id = await service.create()
    service.engine.faults.extend([DIED, DIED])
    refusal(await service.train(finetune_id), 422, "request_crashes_worker")
    refusal(await service.train(finetune_id), 422, "request_crashes_worker")
    assert len(service.engine.calls) == 2
    assert (await service.train(finetune_id, lr=0.1)).json()["step"] == 1


async def test_rollouts_that_kill_two_workers_are_refused_too(service: Service) -> None:
    finetune_id = await service.create()
    service.engine.faults.extend([DIED, DIED])
    refusal(await service.roll(finetune_id), 422, "request_crashes_worker")


async def test_one_death_is_forgiven_once_the_request_succeeds(service: Service) -> None:
    finetune_id = await service.create()
    for step in range(1, 4):
        service.engine.faults.append(DIED)
        assert (await service.train(finetune_id)).json()["step"] == step


async def test_rollouts_and_answers_are_made_again_with_the_same_seed(service: Service) -> None:
    finetune_id = await service.create()
    service.engine.faults.append(DIED)
    assert (await service.roll(finetune_id)).status_code == 200
    first, second = service.engine.commands("make_rollouts")
    assert first == second
    service.engine.faults.append(DIED)
    assert (await service.post("/v1/query", {"question": "?"})).status_code == 200


async def test_rollouts_are_not_made_again_too_late(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(rollouts_answer_seconds=TINY_SECONDS) as service:
        finetune_id = await service.create()
        engine = service.engine

        async def die(*args: Any) -> Any:
            engine.state = "unavailable"
            raise WorkerDiedError("The worker died.", epoch=1)

        monkeypatch.setattr(engine, "make_rollouts", die)
        answer = await service.roll(finetune_id)
        refusal(answer, 503, "worker_unavailable")
        assert int(answer.headers["retry-after"]) > 0


# --- shutting down


async def test_draining_refuses_what_waits_and_finishes_what_runs(service: Service) -> None:
    finetune_id = await service.create()
    service.engine.gate.clear()
    running = start(service.train(finetune_id, lr=0.1))
    await until(lambda: service.engine.calls)
    waiting = start(service.train(finetune_id, lr=0.2))
    await until(lambda: service.dispatcher.num_waiting == 1)
    service.dispatcher.drain()
    refusal(await waiting, 503, "overloaded")
    refusal(await service.roll(finetune_id), 503, "overloaded")
    service.engine.gate.set()
    assert (await running).json()["step"] == 1


@pytest.mark.parametrize("ends_within_the_grace", [True, False])
async def test_a_step_whose_pictures_are_looked_at_when_the_service_closes_is_answered(
    service: Service, monkeypatch: pytest.MonkeyPatch, ends_within_the_grace: bool
) -> None:
    finetune_id = await service.create()
    is_decoding, may_end = asyncio.Event(), asyncio.Event()

    async def decode(image_url: Any) -> Any:
        is_decoding.set()
        await may_end.wait()
        return FakeImageDecoder()._pixels(image_url)

    monkeypatch.setattr(service.decoder, "decode", decode)
    request = make_request("query", question="?")
    group = make_sft_group(request=request, target={"answer": "!"})
    step = start(service.train(finetune_id, groups=[group]))
    await until(is_decoding.is_set)
    grace = 60.0 if ends_within_the_grace else TINY_SECONDS
    closing = start(service.dispatcher.close(grace_seconds=grace))
    await asyncio.sleep(2 * TINY_SECONDS)
    assert closing.done() is not ends_within_the_grace
    if ends_within_the_grace:
        may_end.set()
    else:
        monkeypatch.setattr(training, "_CLOSE_SECONDS", TINY_SECONDS)
        await service.app.state.services.training.close()
    refusal(await step, 503, "overloaded")
    await closing
    assert service.engine.calls == []


async def test_a_redo_that_waits_when_the_service_closes_is_answered(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune_id = await service.create()

    async def die(*args: Any) -> Any:
        service.engine.state = "unavailable"
        raise WorkerDiedError("The worker died.", epoch=1)

    monkeypatch.setattr(service.engine, "train_step", die)
    step = start(service.train(finetune_id))
    await until(lambda: service.engine.state == "unavailable")
    await service.dispatcher.close(grace_seconds=TINY_SECONDS)
    refusal(await step, 503, "worker_unavailable")


async def test_a_worker_that_ends_with_the_service_is_no_crash(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune_id = await service.create()

    async def end(*args: Any) -> Any:
        service.dispatcher.drain()
        raise WorkerDiedError("The worker died.", epoch=1)

    monkeypatch.setattr(service.engine, "train_step", end)
    refusal(await service.train(finetune_id), 503, "worker_unavailable")
