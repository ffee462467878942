"""Models as OpenAI's clients list them; http-api.md section 15."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from server.services import models
from tests.api.conftest import Serve
from tests.fakes import FakeEngine
from tests.service import Service, refusal

pytestmark = pytest.mark.anyio

BASE = ["moondream3-preview", "tiny"]


async def ids(service: Service, **options: Any) -> list[str]:
    body = (await service.get("/v1/models", **options)).json()
    assert set(body) == {"object", "data"}
    assert body["object"] == "list"
    for entry in body["data"]:
        assert set(entry) == {"id", "object", "created", "owned_by"}
        assert entry["object"] == "model"
        assert isinstance(entry["created"], int)
    return [entry["id"] for entry in body["data"]]


async def saved(service: Service, finetune_id: str) -> str:
    step = (await service.train(finetune_id)).json()["step"]
    await service.save(finetune_id)
    return f"moondream3-preview/{finetune_id}@{step}"


async def test_the_base_model_then_what_was_saved_newest_first(service: Service) -> None:
    assert await ids(service) == BASE
    first, second = await service.create("a"), await service.create("b")
    names = [await saved(service, each) for each in (first, second, first)]
    assert await ids(service) == [*BASE, *reversed(names)]
    await service.delete(f"/v1/tuning/finetunes/{first}/checkpoints/1")
    assert await ids(service) == [*BASE, names[2], names[1]]
    await service.delete(f"/v1/tuning/finetunes/{first}")
    assert await ids(service) == [*BASE, names[1]]


async def test_one_model_by_every_name_that_can_be_asked(service: Service) -> None:
    finetune_id = await service.create()
    name = await saved(service, finetune_id)
    listed = {entry["id"]: entry for entry in (await service.get("/v1/models")).json()["data"]}
    for asked, expected in (
        ("tiny", "tiny"),
        ("moondream/moondream3-preview", "moondream3-preview"),
        (name, name),
        (quote(name, safe=""), name),
        (f"{finetune_id.lower()}@1", name),
    ):
        answer = await service.get(f"/v1/models/{asked}")
        assert answer.status_code == 200, answer.text
        assert answer.json() == listed[expected]


async def test_other_names_are_404(service: Service) -> None:
    finetune_id = await service.create()
    unknown = "01JZZZZZZZZZZZZZZZZZZZZZZZ"
    for asked, code in (
        ("gpt-4", "model_not_found"),
        ("a/b/c", "model_not_found"),
        (f"moondream3-preview/{finetune_id}@1", "checkpoint_not_found"),
        (f"moondream3-preview/{unknown}@1", "finetune_not_found"),
    ):
        refusal(await service.get(f"/v1/models/{asked}"), 404, code)


async def test_a_worker_is_not_needed_and_the_list_is_bounded(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine()
    async with serve(engine, model_aliases=("mine", "moondream3-preview")) as service:
        finetune_id = await service.create()
        for _ in range(3):
            newest = await saved(service, finetune_id)
        monkeypatch.setattr(models, "MAX_LISTED", 1)
        engine.state = "starting"
        assert await ids(service) == ["moondream3-preview", "mine", newest]
        refusal(await service.get("/v1/models/tiny"), 404, "model_not_found")
