"""Stored data does not change its meaning with the model that is loaded."""

from __future__ import annotations

import dataclasses

import pytest

from server.services.belonging import list_strangers
from tests.api.conftest import Serve
from tests.fakes import FAKE_MODEL, FakeEngine
from tests.service import refusal

pytestmark = pytest.mark.anyio

OTHER_DTYPE = dataclasses.replace(FAKE_MODEL, dtype="bfloat16")
OTHER_BASE = dataclasses.replace(FAKE_MODEL, name="large", digest="e" * 64)


async def test_a_run_does_not_go_on_in_another_dtype(serve: Serve) -> None:
    async with serve() as first:
        trained, fresh = await first.create("trained"), await first.create("fresh")
        await first.train(trained)
        await first.save(trained)
    async with serve(FakeEngine(OTHER_DTYPE)) as second:
        answer = await second.train(trained)
        body = refusal(answer, 409, "base_model_mismatch")
        assert "float32" in body["message"]
        assert "bfloat16" in body["message"]
        assert (await second.roll(trained)).status_code == 200  # nothing is stored of it
        assert (await second.train(fresh)).json()["step"] == 1
        begun = {"name": "begun", "rank": 8, "from_checkpoint": f"{trained}@1"}
        begun_id = (await second.post("/v1/tuning/finetunes", begun)).json()["finetune_id"]
        assert (await second.train(begun_id)).json()["step"] == 1
    async with serve() as third:
        assert (await third.train(trained)).json()["step"] == 2


async def test_what_cannot_be_trained_is_told_with_the_difference(serve: Serve) -> None:
    async with serve() as service:
        trained = await service.create("trained")
        await service.create("fresh")
        await service.train(trained)
        read = service.app.state.services.database.read_blocking
        assert read(list_strangers, FAKE_MODEL) == []
        (dtype,) = read(list_strangers, OTHER_DTYPE)
        assert dtype == (
            "dtype float32 is wanted, bfloat16 is loaded: 1 finetunes cannot be trained now"
            " (trained)."
        )
        (base,) = read(list_strangers, OTHER_BASE)
        assert "base model tiny (dddddddddddd) is wanted, large (eeeeeeeeeeee) is loaded" in base
        assert "(trained, fresh)" in base
