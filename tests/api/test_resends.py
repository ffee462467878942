"""Train steps that come again: joined, answered again, or new; http-api.md 4.2 to 4.4."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from contract.errors import StorageFull
from server.api.json_body import SMALL_BODY_BYTES
from server.db import train_requests
from server.db.connection import Database
from server.db.models import Finetune, TrainRequest
from server.domain.delivery import Fate
from server.domain.errors import OverloadedError, StorageFullError
from server.meters import STEPS_JOINED
from server.services import keyed, ledger, step_work
from server.services.ledger import MAX_REPLAYS
from server.services.step_commit import commit_step
from server.services.train_order import HeldOrder
from tests.api.conftest import Serve
from tests.databases import damage
from tests.service import Service, refusal, until
from tests.watched import WatchedCall, post_watched, train_watched

pytestmark = pytest.mark.anyio


async def trained(service: Service, finetune_id: str, fate: Fate, **changes: Any) -> WatchedCall:
    """One call whose answer meets a fate."""
    call = await train_watched(service, finetune_id, **changes).answered()
    call.delivery.settle(fate)
    return call


def steps_computed(service: Service) -> int:
    return len(service.engine.commands("train_step"))


def num_joined(service: Service) -> float:
    """How many calls joined another one."""
    samples = service.app.state.services.meters.stats().samples
    return sum(sample.value for sample in samples if sample.name == STEPS_JOINED.name)


def rows(service: Service) -> list[tuple[int, str, int | None]]:
    """The ledger: seq, state and step of every request."""
    database: Database = service.app.state.services.database
    columns = select(TrainRequest.seq, TrainRequest.state, TrainRequest.step)
    return [
        (row.seq, row.state, row.step)
        for row in database.read_blocking(
            lambda session: session.execute(columns.order_by(TrainRequest.seq)).all()
        )
    ]


# --- running


async def test_a_request_that_runs_is_joined_by_its_like(service: Service) -> None:
    finetune_id = await service.create()
    service.engine.gate.clear()
    calls = [train_watched(service, finetune_id) for _ in range(3)]
    await until(lambda: num_joined(service) == 2)
    service.engine.gate.set()
    answers = [await call.answered() for call in calls]
    assert {answer.content for answer in answers} == {answers[0].content}
    assert answers[0].json["step"] == 1
    assert steps_computed(service) == 1


@pytest.mark.parametrize("key", [None, "a-key"])
async def test_those_that_join_keep_neither_their_body_nor_what_was_parsed_of_it(
    service: Service, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    """Ten resends of a slow step take no more memory than the step."""
    finetune_id = await service.create()
    memory = service.app.state.body_parser.memory
    room = service.app.state.services.admission.bodies.room
    joined: list[HeldOrder] = []
    let_go = HeldOrder.let_go
    monkeypatch.setattr(HeldOrder, "let_go", lambda held: (let_go(held), joined.append(held)))
    padding = "x" * (SMALL_BODY_BYTES + 1)
    keyed = {} if key is None else {"idempotency_key": key}
    service.engine.gate.clear()
    first = train_watched(service, finetune_id, padding=padding, **keyed)
    await until(lambda: service.engine.num_running == 1)
    of_one = memory.used, room.used
    assert min(of_one) > SMALL_BODY_BYTES
    twins = [train_watched(service, finetune_id, padding=padding, **keyed) for _ in range(10)]
    await until(lambda: len(joined) == 10)
    assert (memory.used, room.used) == of_one
    service.engine.gate.set()
    assert [(await call.answered()).json["step"] for call in (first, *twins)] == [1] * 11
    assert (memory.used, room.used) == (0, 0)


async def test_one_that_waits_in_the_queue_is_joined_too(service: Service) -> None:
    finetune_id = await service.create()
    service.engine.gate.clear()
    first = train_watched(service, finetune_id, lr=0.1)
    await until(lambda: service.engine.num_running == 1)
    twins = [train_watched(service, finetune_id) for _ in range(2)]
    await until(lambda: service.dispatcher.num_waiting == 1)
    service.engine.gate.set()
    assert [(await call.answered()).json["step"] for call in (first, *twins)] == [1, 2, 2]


async def test_what_was_refused_is_judged_afresh(service: Service) -> None:
    finetune_id = await service.create()
    service.engine.faults.append(StorageFull("No space."))
    assert (await trained(service, finetune_id, Fate.LEFT)).status == 507
    assert rows(service) == []
    assert (await trained(service, finetune_id, Fate.TAKEN)).json["step"] == 1


async def test_joined_calls_share_a_refusal(service: Service) -> None:
    finetune_id = await service.create()
    service.engine.gate.clear()
    first = train_watched(service, finetune_id, lr=0.1)
    await until(lambda: service.engine.num_running == 1)
    service.engine.faults.append(StorageFull("No space."))
    calls = [train_watched(service, finetune_id) for _ in range(2)]
    await until(lambda: num_joined(service) == 1)
    service.engine.gate.set()
    await first.answered()
    first.delivery.settle(Fate.TAKEN)
    assert [(await call.answered()).status for call in calls] == [507, 507]
    assert (await trained(service, finetune_id, Fate.TAKEN)).json["step"] == 2


# --- done


@pytest.mark.parametrize("fate", [Fate.LEFT, Fate.RESET])
async def test_an_answer_that_nobody_took_is_sent_again_byte_for_byte(
    service: Service, fate: Fate
) -> None:
    finetune_id = await service.create()
    first = await trained(service, finetune_id, fate)
    again = await trained(service, finetune_id, Fate.TAKEN)
    assert (again.content, again.is_replayed) == (first.content, True)
    assert first.is_replayed is False
    assert (await trained(service, finetune_id, Fate.TAKEN)).json["step"] == 2
    assert steps_computed(service) == 2


@pytest.mark.parametrize("fate", [Fate.TAKEN, Fate.QUIET])
async def test_the_same_bytes_after_a_taken_answer_are_a_new_step(
    service: Service, fate: Fate
) -> None:
    finetune_id = await service.create()
    steps = [(await trained(service, finetune_id, fate)).json["step"] for _ in range(5)]
    assert steps == [1, 2, 3, 4, 5]


async def test_of_several_connections_one_that_took_it_is_enough(service: Service) -> None:
    finetune_id = await service.create()
    service.engine.gate.clear()
    calls = [train_watched(service, finetune_id) for _ in range(3)]
    await until(lambda: num_joined(service) == 2)
    service.engine.gate.set()
    for call, fate in zip(calls, (Fate.LEFT, Fate.TAKEN, Fate.LEFT), strict=True):
        (await call.answered()).delivery.settle(fate)
    assert (await trained(service, finetune_id, Fate.TAKEN)).json["step"] == 2


async def test_no_answer_is_sent_again_once_a_later_step_exists(service: Service) -> None:
    finetune_id = await service.create()
    await trained(service, finetune_id, Fate.LEFT)
    await trained(service, finetune_id, Fate.TAKEN, lr=0.1)
    again = await trained(service, finetune_id, Fate.TAKEN)
    assert (again.json["step"], again.is_replayed) == (3, False)


async def test_a_later_step_that_only_waits_is_no_later_step(service: Service) -> None:
    finetune_id = await service.create()
    await trained(service, finetune_id, Fate.LEFT)
    service.engine.gate.clear()
    later = train_watched(service, finetune_id, lr=0.1)
    await until(lambda: service.engine.num_running == 1)
    assert (await trained(service, finetune_id, Fate.TAKEN)).is_replayed is True
    service.engine.gate.set()
    assert (await later.answered()).json["step"] == 2


async def test_a_fate_that_is_open_is_waited_for(service: Service) -> None:
    finetune_id = await service.create()
    first = await train_watched(service, finetune_id).answered()
    second = train_watched(service, finetune_id)
    await asyncio.sleep(0.02)
    assert second.status == 0
    first.delivery.settle(Fate.TAKEN)
    assert (await second.answered()).json["step"] == 2


async def _refused_by_the_worker(service: Service, finetune_id: str) -> None:
    service.engine.faults.append(StorageFull("No space."))
    assert (await service.train(finetune_id, lr=0.5)).status_code == 507


async def _refused_for_its_step(service: Service, finetune_id: str) -> None:
    answer = await service.train(finetune_id, lr=0.5, expected_step=7)
    refusal(answer, 409, "step_conflict")


@pytest.mark.parametrize("refused", [_refused_by_the_worker, _refused_for_its_step])
async def test_a_refused_step_between_leaves_what_is_known_of_the_answer_before(
    service: Service, refused: Callable[[Service, str], Awaitable[None]]
) -> None:
    finetune_id = await service.create()
    first = await train_watched(service, finetune_id).answered()
    await refused(service, finetune_id)
    second = train_watched(service, finetune_id)
    await asyncio.sleep(0.02)
    assert second.status == 0  # the fate of the first answer is still waited for
    first.delivery.settle(Fate.TAKEN)
    assert (await second.answered()).json["step"] == 2


@pytest.mark.parametrize("error", [OverloadedError("busy"), damage()], ids=["busy", "damaged"])
async def test_a_delivery_that_could_not_be_written_is_known_after_a_refused_step(
    service: Service, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    finetune_id = await service.create()
    database: Database = service.app.state.services.database
    write = database.write

    async def lose_the_mark(work: Any, *args: Any, **kwargs: Any) -> Any:
        if work is train_requests.mark_delivered:
            raise error
        return await write(work, *args, **kwargs)

    monkeypatch.setattr(database, "write", lose_the_mark)
    with structlog.testing.capture_logs() as logs:
        await trained(service, finetune_id, Fate.TAKEN)
        await _refused_by_the_worker(service, finetune_id)
        assert (await trained(service, finetune_id, Fate.TAKEN)).json["step"] == 2
        await service.settled()
    assert [entry["event"] for entry in logs].count("delivery_not_recorded") == 2


async def test_a_fate_that_stays_open_counts_as_not_taken(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "OPEN_SECONDS", 0.02)
    finetune_id = await service.create()
    await train_watched(service, finetune_id).answered()
    assert (await train_watched(service, finetune_id).answered()).is_replayed is True


async def test_one_answer_is_sent_again_ten_times_at_most(service: Service) -> None:
    finetune_id = await service.create()
    answers = [await trained(service, finetune_id, Fate.LEFT) for _ in range(MAX_REPLAYS + 2)]
    assert [answer.json["step"] for answer in answers] == [1] * (MAX_REPLAYS + 1) + [2]


async def test_through_a_proxy_a_reset_says_nothing(service: Service) -> None:
    finetune_id = await service.create()
    body = {"finetune_id": finetune_id, "groups": [], "lr": 0.1}
    body["groups"] = [
        {"request": {"skill": "query", "question": "why?"}, "target": {"answer": "so"}}
    ]
    for step in (1, 2):
        call = post_watched(service, "/v1/tuning/train_step", body, x_forwarded_for="10.0.0.9")
        assert (await call.answered()).json["step"] == step
        call.delivery.settle(Fate.RESET)


async def test_equal_requests_of_two_finetunes_have_nothing_in_common(service: Service) -> None:
    one, other = await service.create("one"), await service.create("other")
    await trained(service, one, Fate.LEFT)
    assert (await trained(service, other, Fate.TAKEN)).is_replayed is False


async def test_a_replay_needs_no_write(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    finetune_id = await service.create()
    await trained(service, finetune_id, Fate.LEFT)
    database: Database = service.app.state.services.database

    async def full(*_: Any, **__: Any) -> Any:
        raise StorageFullError("The disk is full.")

    monkeypatch.setattr(database, "write", full)
    for _ in range(3):
        again = await trained(service, finetune_id, Fate.LEFT)
        assert (again.json["step"], again.is_replayed) == (1, True)


async def test_a_commit_that_only_seemed_to_fail_is_found_by_the_resend(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_work, "COMMIT_SECONDS", 0.0)
    finetune_id = await service.create()
    database: Database = service.app.state.services.database
    write = database.write

    async def commit_and_break_off(work: Any, *args: Any, **kwargs: Any) -> Any:
        result = await write(work, *args, **kwargs)
        if work is commit_step:
            monkeypatch.setattr(database, "write", write)
            raise OverloadedError("The connection broke.")
        return result

    monkeypatch.setattr(database, "write", commit_and_break_off)
    assert (await trained(service, finetune_id, Fate.TAKEN)).status == 503
    again = await trained(service, finetune_id, Fate.TAKEN)
    assert (again.json["step"], again.is_replayed) == (1, True)
    assert steps_computed(service) == 1


async def test_a_busy_database_does_not_cost_a_step_that_was_computed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_work, "COMMIT_PAUSE_SECONDS", 0.001)
    finetune_id = await service.create()
    database: Database = service.app.state.services.database
    write, refusals = database.write, [OverloadedError("Busy.")] * 3

    async def write_later(work: Any, *args: Any, **kwargs: Any) -> Any:
        if work is commit_step and refusals:
            raise refusals.pop()
        return await write(work, *args, **kwargs)

    monkeypatch.setattr(database, "write", write_later)
    assert (await trained(service, finetune_id, Fate.TAKEN)).json["step"] == 1
    assert (refusals, steps_computed(service)) == ([], 1)


async def test_twins_of_a_request_for_nothing_are_all_told_so(service: Service) -> None:
    calls = [train_watched(service, "01ARZ3NDEKTSV4RRFFQ69G5FAV") for _ in range(8)]
    assert [(await call.answered()).status for call in calls] == [404] * 8


async def test_memory_answers_for_no_finetune_that_is_gone(service: Service) -> None:
    finetune_id = await service.create()
    await trained(service, finetune_id, Fate.LEFT)
    database: Database = service.app.state.services.database

    def delete(session: Session) -> None:  # as another process would
        finetune = session.scalars(select(Finetune).where(Finetune.id == finetune_id)).one()
        finetune.deleted_at_ms = 1

    await database.write(delete)
    assert (await trained(service, finetune_id, Fate.TAKEN)).status == 404


# --- the ledger


async def test_a_row_stands_in_the_ledger_before_the_work_and_moves_forward(
    service: Service,
) -> None:
    finetune_id = await service.create()
    service.engine.gate.clear()
    call = train_watched(service, finetune_id)
    await until(lambda: service.engine.num_running == 1)
    assert rows(service) == [(1, "running", None)]
    service.engine.gate.set()
    await call.answered()
    assert rows(service) == [(1, "done", 1)]
    call.delivery.settle(Fate.TAKEN)
    await service.app.state.services.ledger.settled()
    assert rows(service) == [(1, "delivered", 1)]


async def test_after_a_restart_the_stored_answer_is_sent_or_not(serve: Serve) -> None:
    async with serve() as service:
        finetune_id = await service.create()
        first = await trained(service, finetune_id, Fate.LEFT)
    async with serve() as service:
        again = await trained(service, finetune_id, Fate.TAKEN)
        assert (again.content, again.is_replayed) == (first.content, True)
    async with serve() as service:
        assert (await trained(service, finetune_id, Fate.TAKEN)).json["step"] == 2


@pytest.mark.parametrize(("days", "is_replayed"), [(-1, True), (0, True), (1, True), (3, False)])
async def test_a_clock_that_jumps_by_days_between_two_processes_doubles_no_step(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, days: int, is_replayed: bool
) -> None:
    async with serve() as service:
        finetune_id = await service.create()
        await trained(service, finetune_id, Fate.LEFT)
    now = ledger.now_ms() + days * 24 * 3600 * 1000
    monkeypatch.setattr(ledger, "now_ms", lambda: now)
    async with serve() as service:
        again = await trained(service, finetune_id, Fate.TAKEN)
        assert (again.json["step"], again.is_replayed) == (1 if is_replayed else 2, is_replayed)


async def test_an_answer_that_nobody_took_is_kept_for_a_day_of_this_process(
    service: Service,
) -> None:
    finetune_id, book = await service.create(), service.app.state.services.ledger
    await trained(service, finetune_id, Fate.LEFT)
    started = book._clock()
    for hours, is_replayed in ((23, True), (25, False)):
        book._clock = lambda hours=hours: started + hours * 3600
        again = await trained(service, finetune_id, Fate.LEFT)
        assert again.is_replayed is is_replayed


async def test_what_an_earlier_process_had_in_hand_is_dropped_at_the_start(serve: Serve) -> None:
    async with serve() as service:
        finetune_id = await service.create()
        database: Database = service.app.state.services.database
        row = TrainRequest(
            finetune_id=finetune_id, seq=7, fingerprint="0" * 64, state="running", epoch=1,
            step=None, num_replays=0, created_at_ms=1,
        )  # fmt: skip
        await database.write(lambda session: session.add(row))
    async with serve() as service:
        assert rows(service) == []
        assert (await trained(service, finetune_id, Fate.TAKEN)).json["step"] == 1


async def test_a_request_that_another_epoch_has_does_not_count(service: Service) -> None:
    finetune_id = await service.create()
    database: Database = service.app.state.services.database
    service.engine.gate.clear()
    call = train_watched(service, finetune_id)
    await until(lambda: service.engine.num_running == 1)
    await database.write(
        lambda session: setattr(session.get_one(TrainRequest, (finetune_id, 1)), "epoch", 99)
    )
    service.engine.gate.set()
    answer = await call.answered()
    assert (answer.status, answer.json["error"]["code"]) == (503, "worker_unavailable")
    shown = await service.get(f"/v1/tuning/finetunes/{finetune_id}")
    assert shown.json()["finetune"]["step"] == 0


async def test_a_deleted_finetune_leaves_no_row(service: Service) -> None:
    finetune_id = await service.create()
    await trained(service, finetune_id, Fate.LEFT)
    await service.delete(f"/v1/tuning/finetunes/{finetune_id}")
    assert rows(service) == []
    assert (await trained(service, finetune_id, Fate.LEFT)).status == 404


# --- explicit keys


async def test_expected_step_trains_once_whatever_became_of_the_answer(service: Service) -> None:
    finetune_id = await service.create()
    first = await trained(service, finetune_id, Fate.TAKEN, expected_step=0)
    again = await trained(service, finetune_id, Fate.TAKEN, expected_step=0)
    assert (again.content, again.is_replayed) == (first.content, True)
    assert (await trained(service, finetune_id, Fate.TAKEN, expected_step=1)).json["step"] == 2
    for wrong in (0, 3):
        answer = await service.train(finetune_id, expected_step=wrong)
        assert "step 2" in refusal(answer, 409, "step_conflict")["message"]
    other = await service.train(finetune_id, expected_step=1, lr=0.5)  # another body
    refusal(other, 409, "step_conflict")
    assert steps_computed(service) == 2


async def test_expected_step_is_judged_when_its_turn_comes(service: Service) -> None:
    finetune_id = await service.create()
    service.engine.gate.clear()
    first = train_watched(service, finetune_id, lr=0.1)
    await until(lambda: service.engine.num_running == 1)
    second = train_watched(service, finetune_id, expected_step=1)
    await until(lambda: service.dispatcher.num_waiting == 1)
    service.engine.gate.set()
    assert (await first.answered()).json["step"] == 1
    assert (await second.answered()).json["step"] == 2


async def test_a_key_gives_the_stored_answer_also_after_a_delivered_one(service: Service) -> None:
    finetune_id = await service.create()
    first = await trained(service, finetune_id, Fate.TAKEN, idempotency_key="a")
    await trained(service, finetune_id, Fate.TAKEN, lr=0.1)
    again = await trained(service, finetune_id, Fate.TAKEN, idempotency_key="a")
    assert (again.content, again.is_replayed) == (first.content, True)
    assert (await trained(service, finetune_id, Fate.TAKEN, idempotency_key="b")).json["step"] == 3


async def test_a_key_with_another_body_is_refused_also_while_the_first_runs(
    service: Service,
) -> None:
    finetune_id = await service.create()
    service.engine.gate.clear()
    first = train_watched(service, finetune_id, idempotency_key="a")
    await until(lambda: service.engine.num_running == 1)
    answer = await service.train(finetune_id, idempotency_key="a", lr=0.1)
    refusal(answer, 409, "idempotency_key_reused")
    joined = train_watched(service, finetune_id, idempotency_key="a")
    await asyncio.sleep(0.01)
    service.engine.gate.set()
    assert (await first.answered()).content == (await joined.answered()).content
    answer = await service.train(finetune_id, idempotency_key="a", lr=0.1)
    refusal(answer, 409, "idempotency_key_reused")
    assert steps_computed(service) == 1


async def test_of_two_bodies_with_one_key_at_once_one_is_refused(service: Service) -> None:
    finetune_id = await service.create()
    calls = [train_watched(service, finetune_id, idempotency_key="a", lr=lr) for lr in (0.1, 0.2)]
    assert sorted([(await call.answered()).status for call in calls]) == [200, 409]
    assert steps_computed(service) == 1


async def test_a_key_is_forgotten_after_a_week_and_not_before(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune_id, day_ms = await service.create(), 24 * 3600 * 1000
    now = keyed.now_ms()
    for days, step in ((0, 1), (6, 1), (8, 2), (9, 2)):
        monkeypatch.setattr(keyed, "now_ms", lambda days=days: now + days * day_ms)
        answer = await service.train(finetune_id, idempotency_key="a")
        assert answer.json()["step"] == step


async def test_a_refused_call_frees_its_key(service: Service) -> None:
    finetune_id = await service.create()
    service.engine.faults.append(StorageFull("No space."))
    assert (await service.train(finetune_id, idempotency_key="a")).status_code == 507
    assert (await service.train(finetune_id, idempotency_key="a", lr=0.1)).status_code == 200


async def test_a_key_in_the_header_tells_equal_bodies_apart(service: Service) -> None:
    finetune_id = await service.create()
    body = {
        "finetune_id": finetune_id,
        "groups": [{"request": {"skill": "query", "question": "?"}, "target": {"answer": "!"}}],
    }
    steps = [
        (await service.post("/v1/tuning/train_step", body, headers={"Idempotency-Key": key}))
        for key in ("a", "b", "a")
    ]
    assert [answer.json()["step"] for answer in steps] == [1, 2, 1]


@pytest.mark.parametrize("key", ["", "x" * 256, "with space", "ümlaut"])
async def test_a_key_of_odd_shape_is_refused(service: Service, key: str) -> None:
    answer = await service.train(await service.create(), idempotency_key=key)
    refusal(answer, 422, "validation_error")


async def test_create_and_save_take_keys(service: Service) -> None:
    path = "/v1/tuning/finetunes"
    made = [
        await service.post(path, {"name": "a", "rank": 8}, headers={"Idempotency-Key": "k"})
        for _ in range(2)
    ]
    assert made[0].content == made[1].content
    assert made[1].headers["idempotent-replayed"] == "true"
    other = await service.post(path, {"name": "b", "rank": 8}, headers={"Idempotency-Key": "k"})
    refusal(other, 409, "idempotency_key_reused")
    finetune_id = made[0].json()["finetune_id"]
    saved = []
    for lr in (0.1, 0.2):
        await service.train(finetune_id, lr=lr)
        saved.append(
            await service.http.post(
                f"{path}/{finetune_id}/checkpoints/save", headers={"Idempotency-Key": "k"}
            )
        )
    assert saved[0].json()["checkpoint"]["step"] == saved[1].json()["checkpoint"]["step"] == 1
    assert (await service.save(finetune_id)).json()["checkpoint"]["step"] == 2


async def test_eight_creates_with_one_key_at_once_are_one(service: Service) -> None:
    calls = [
        service.post(
            "/v1/tuning/finetunes", {"name": "a", "rank": 8}, headers={"Idempotency-Key": "k"}
        )
        for _ in range(8)
    ]
    answers = await asyncio.gather(*calls)
    assert {answer.content for answer in answers} == {answers[0].content}
    assert all(answer.status_code == 200 for answer in answers)
