"""Finetunes that start from saved weights; http-api.md 7.1 and 17.3."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.conftest import Serve
from tests.fakes import FAKE_MODEL, FakeEngine
from tests.service import Service, locs, refusal

pytestmark = pytest.mark.anyio

FINETUNES = "/v1/tuning/finetunes"
UNKNOWN_ID = "0" * 26


def content(path: str) -> bytes:
    return Path(path).read_bytes()


async def saved(service: Service, *, rank: int = 8, **step: Any) -> str:
    """A finetune with one trained and saved step; returns its name as an origin."""
    finetune_id = await service.create("source", rank)
    assert (await service.train(finetune_id, **step)).status_code == 200
    await service.save(finetune_id)
    return f"{finetune_id}@1"


async def start_from(service: Service, origin: Any, **changes: Any) -> httpx.Response:
    body = {"name": "follower", "rank": 8, "from_checkpoint": origin, **changes}
    return await service.post(FINETUNES, body)


async def test_the_first_step_starts_from_the_saved_weights(service: Service) -> None:
    origin = await saved(service)
    follower = (await start_from(service, origin)).json()["finetune_id"]
    assert (await service.train(follower)).json()["step"] == 1
    source_step, first_step = service.engine.commands("train_step")
    assert source_step.adapter.weights is None
    start = first_step.adapter.weights
    assert content(start.path) == content(source_step.weights_path)
    assert start.path.startswith(str(service.data_dir / "finetunes" / follower))
    assert first_step.optimizer is None
    assert first_step.adapter.step == 0


async def test_rollouts_at_step_0_come_from_the_saved_weights(service: Service) -> None:
    follower = (await start_from(service, await saved(service))).json()["finetune_id"]
    assert (await service.roll(follower)).status_code == 200
    (command,) = service.engine.commands("make_rollouts")
    assert command.adapter.weights is not None
    assert command.adapter.step == 0


async def test_it_is_at_step_0_with_nothing_to_save(service: Service) -> None:
    origin = await saved(service)
    follower = (await start_from(service, origin)).json()["finetune_id"]
    finetune = (await service.get(f"{FINETUNES}/{follower}")).json()["finetune"]
    assert (finetune["step"], finetune["origin"]) == (0, origin)
    refusal(await service.save(follower), 404, "no_checkpoint")


async def test_later_deletes_of_the_source_do_not_matter(service: Service) -> None:
    origin = await saved(service)
    follower = (await start_from(service, origin)).json()["finetune_id"]
    await service.delete(f"{FINETUNES}/{origin.partition('@')[0]}")
    await service.settled()
    assert (await service.train(follower)).json()["step"] == 1
    assert content(service.engine.commands("train_step")[1].adapter.weights.path)


async def test_the_copy_goes_when_two_later_states_stand(service: Service) -> None:
    follower = (await start_from(service, await saved(service))).json()["finetune_id"]
    (copied,) = service.state_files(follower)
    for _ in range(2):
        await service.train(follower)
        await service.settled()
    assert copied not in service.state_files(follower)
    assert len(service.state_files(follower)) == 4


async def test_a_step_that_changed_nothing_keeps_the_copy(service: Service) -> None:
    follower = (await start_from(service, await saved(service))).json()["finetune_id"]
    for _ in range(3):
        assert (await service.train(follower, lr=0)).json()["applied"] is False
        await service.settled()
    (copied,) = service.state_files(follower)
    await service.train(follower)
    assert Path(service.engine.commands("train_step")[-1].adapter.weights.path).name == copied


async def test_an_untrained_source_gives_its_own_fresh_adapter(service: Service) -> None:
    """A step of rate 0 was saved: there is no file, and the fresh adapters must be the same."""
    origin = await saved(service, lr=0)
    follower = (await start_from(service, origin)).json()["finetune_id"]
    await service.train(follower)
    source, first = service.engine.commands("train_step")
    assert first.adapter.weights is None
    assert first.adapter.seed == source.adapter.seed


async def test_asking_again_gives_the_same_finetune(service: Service) -> None:
    origin = await saved(service)
    first, again = [(await start_from(service, o)).json() for o in (origin, origin.lower())]
    assert first == again
    assert (await start_from(service, None)).json() == first
    prefixed = f"moondream3-preview/{origin}"
    assert (await start_from(service, prefixed)).json() == first


async def test_many_at_once_make_one(service: Service) -> None:
    origin = await saved(service)
    answers = await asyncio.gather(*(start_from(service, origin) for _ in range(8)))
    assert {answer.json()["finetune_id"] for answer in answers} == {
        answers[0].json()["finetune_id"]
    }
    await service.settled()
    folders = {path.name for path in (service.data_dir / "finetunes").iterdir()}
    assert folders == {origin.partition("@")[0], answers[0].json()["finetune_id"]}


async def test_another_origin_is_a_conflict(service: Service) -> None:
    origin = await saved(service)
    await start_from(service, origin)
    await service.train(origin.partition("@")[0])
    await service.save(origin.partition("@")[0])
    answer = await start_from(service, origin.replace("@1", "@2"))
    assert origin in refusal(answer, 409, "origin_conflict")["message"]
    await service.create("plain")
    refusal(await start_from(service, origin, name="plain"), 409, "origin_conflict")


@pytest.mark.parametrize("step", [2, 99])
async def test_a_step_that_is_not_saved(service: Service, step: int) -> None:
    origin = (await saved(service)).replace("@1", f"@{step}")
    refusal(await start_from(service, origin), 404, "checkpoint_not_found")


async def test_an_unknown_source(service: Service) -> None:
    refusal(await start_from(service, f"{UNKNOWN_ID}@1"), 404, "finetune_not_found")


async def test_another_rank(service: Service) -> None:
    answer = await start_from(service, await saved(service, rank=16))
    refusal(answer, 422, "validation_error")
    assert locs(answer) == [("body", "rank")]


@pytest.mark.parametrize("origin", ["nonsense", "", "adapter/chk_001", f"{UNKNOWN_ID}@", 7, []])
async def test_no_name_of_a_checkpoint(service: Service, origin: Any) -> None:
    answer = await start_from(service, origin)
    refusal(answer, 422, "validation_error")
    assert locs(answer) == [("body", "from_checkpoint")]


async def test_another_base_model(serve: Serve) -> None:
    async with serve() as service:
        origin = await saved(service)
    other = FakeEngine(dataclasses.replace(FAKE_MODEL, name="other", digest="e" * 64))
    async with serve(other) as service:
        refusal(await start_from(service, origin), 409, "base_model_mismatch")


async def test_while_no_model_is_loaded_it_belongs_to_the_base_of_its_source(
    serve: Serve,
) -> None:
    async with serve() as service:
        origin = await saved(service)
    starting = FakeEngine()
    starting.state = "starting"
    async with serve(starting) as service:
        follower = (await start_from(service, origin)).json()["finetune_id"]
        finetune = (await service.get(f"{FINETUNES}/{follower}")).json()["finetune"]
        assert finetune["base_model"] == FAKE_MODEL.name


@pytest.mark.parametrize("is_missing", [False, True])
async def test_damaged_weights_are_not_copied(service: Service, is_missing: bool) -> None:
    origin = await saved(service)
    folder = service.data_dir / "finetunes" / origin.partition("@")[0]
    (weights,) = folder.glob("*.weights.safetensors")
    weights.unlink() if is_missing else weights.write_text("something else")
    refusal(await start_from(service, origin), 409, "state_damaged")
    assert (await service.get(FINETUNES)).json()["finetunes"][-1]["name"] == "source"
    assert [path.name for path in (service.data_dir / "finetunes").iterdir()] == [folder.name]
