"""Save, list and delete checkpoints; http-api.md 12.1-12.4."""

from __future__ import annotations

import asyncio

import pytest

from tests.api.conftest import Serve
from tests.fakes import FakeEngine
from tests.service import Service, locs, refusal, until

pytestmark = pytest.mark.anyio


def path(finetune_id: str, rest: str = "") -> str:
    return f"/v1/tuning/finetunes/{finetune_id}/checkpoints{rest}"


async def test_there_is_nothing_to_save_at_step_0(service: Service) -> None:
    refusal(await service.save(await service.create()), 404, "no_checkpoint")


async def test_saving_twice_gives_the_same_checkpoint(service: Service) -> None:
    finetune_id = await service.create()
    await service.train(finetune_id)
    first = (await service.save(finetune_id)).json()
    assert first["ok"] is True
    assert set(first["checkpoint"]) == {
        "checkpoint_id", "finetune_id", "step", "created_at_ms", "updated_at_ms",
    }  # fmt: skip
    assert (await service.save(finetune_id)).json() == first


async def test_saves_at_the_same_instant_agree(service: Service) -> None:
    finetune_id = await service.create()
    await service.train(finetune_id)
    answers = await asyncio.gather(*(service.save(finetune_id) for _ in range(8)))
    assert len({answer.json()["checkpoint"]["checkpoint_id"] for answer in answers}) == 1


async def test_a_body_of_save_is_ignored(service: Service) -> None:
    finetune_id = await service.create()
    await service.train(finetune_id)
    answer = await service.http.post(path(finetune_id, "/save"), content=b"{not json")
    assert answer.status_code == 200


async def test_saving_does_not_wait_for_a_running_step(service: Service) -> None:
    finetune_id = await service.create()
    await service.train(finetune_id)
    service.engine.gate.clear()
    step = asyncio.create_task(service.train(finetune_id))
    await until(lambda: len(service.engine.calls) == 2)
    assert (await service.save(finetune_id)).json()["checkpoint"]["step"] == 1
    service.engine.gate.set()
    assert (await step).json()["step"] == 2


async def test_saving_needs_no_worker(serve: Serve) -> None:
    async with serve() as first:
        finetune_id = await first.create()
        await first.train(finetune_id)
    engine = FakeEngine()
    engine.state = "unavailable"
    async with serve(engine) as second:
        assert (await second.save(finetune_id)).status_code == 200
        assert (await second.get(path(finetune_id))).status_code == 200


async def test_a_step_that_was_not_applied_can_be_saved(service: Service) -> None:
    finetune_id = await service.create()
    await service.train(finetune_id, lr=0)
    assert (await service.save(finetune_id)).json()["checkpoint"]["step"] == 1
    await service.post("/v1/query", {"question": "?", "model": f"m/{finetune_id}@1"})
    adapter = service.engine.commands("answer")[0].adapter
    assert (adapter.step, adapter.weights) == (1, None)


async def test_the_list_is_by_step_and_has_pages(service: Service) -> None:
    finetune_id = await service.create()
    for _ in range(5):
        await service.train(finetune_id)
        await service.save(finetune_id)
    first = (await service.get(path(finetune_id), params={"limit": 2})).json()
    assert [item["step"] for item in first["checkpoints"]] == [1, 2]
    await service.delete(path(finetune_id, "/2"))
    rest = await service.get(path(finetune_id), params={"cursor": first["next_cursor"]})
    assert [item["step"] for item in rest.json()["checkpoints"]] == [3, 4, 5]
    assert rest.json()["next_cursor"] is None
    answer = await service.get(path(finetune_id), params={"cursor": "x"})
    refusal(answer, 422, "validation_error")
    assert locs(answer) == [("query", "cursor")]


async def test_deleting_can_be_repeated_but_not_begun_on_nothing(service: Service) -> None:
    finetune_id = await service.create()
    await service.train(finetune_id)
    refusal(await service.delete(path(finetune_id, "/1")), 404, "checkpoint_not_found")
    await service.save(finetune_id)
    for _ in range(2):
        assert (await service.delete(path(finetune_id, "/1"))).json() == {"ok": True}
    assert (await service.get(path(finetune_id))).json()["checkpoints"] == []
    for odd in ("0", "2", "x", "-1", "1.0", "9" * 40, "%C2%B2"):
        answer = await service.delete(path(finetune_id, f"/{odd}"))
        refusal(answer, 404, "checkpoint_not_found")


async def test_saving_again_after_a_delete_gives_a_new_id_and_the_same_weights(
    service: Service,
) -> None:
    finetune_id = await service.create()
    await service.train(finetune_id)
    model = {"question": "?", "model": f"m/{finetune_id}@1"}
    first = (await service.save(finetune_id)).json()["checkpoint"]["checkpoint_id"]
    await service.post("/v1/query", model)
    await service.delete(path(finetune_id, "/1"))
    refusal(await service.post("/v1/query", model), 404, "checkpoint_not_found")
    second = (await service.save(finetune_id)).json()["checkpoint"]["checkpoint_id"]
    await service.post("/v1/query", model)
    before, after = (command.adapter.weights for command in service.engine.commands("answer"))
    assert first != second
    assert before == after


async def test_training_goes_on_after_its_newest_checkpoint_was_deleted(service: Service) -> None:
    finetune_id = await service.create()
    await service.train(finetune_id)
    await service.save(finetune_id)
    await service.delete(path(finetune_id, "/1"))
    await service.settled()
    assert (await service.train(finetune_id)).json()["step"] == 2


async def test_saving_and_deleting_move_the_time_of_the_finetune(service: Service) -> None:
    finetune_id = await service.create()
    seen: list[int] = []
    await service.train(finetune_id)
    for call in (service.save(finetune_id), service.delete(path(finetune_id, "/1"))):
        await asyncio.sleep(0.002)
        await call
        details = (await service.get(f"/v1/tuning/finetunes/{finetune_id}")).json()["finetune"]
        seen.append(details["updated_at_ms"])
    assert seen == sorted(set(seen))
