"""Rates and quotas of keys: what may come later is 429, what stands is 403."""

from __future__ import annotations

import asyncio

import pytest

from server.db import stored_bytes
from server.db.named_files import list_named_files
from tests.accounts import calling_with, make_key, services_of
from tests.api.conftest import Serve
from tests.service import Service, refusal, until

pytestmark = pytest.mark.anyio

FINETUNES = "/v1/tuning/finetunes"


async def stored(service: Service, account: str) -> int:
    return await services_of(service).database.read(stored_bytes.of_account, account)


async def test_requests_of_a_minute(service: Service) -> None:
    limited, free = await make_key(service, requests_per_minute=3), await make_key(service)
    async with calling_with(service, limited) as one, calling_with(service, free) as other:
        for _ in range(3):
            assert (await one.get(FINETUNES)).status_code == 200
        answer = await one.post(FINETUNES, {"name": "a", "rank": 8})
        body = refusal(answer, 429, "rate_limited")
        assert body["error"]["type"] == "rate_limit_error"
        assert 1 <= int(answer.headers["retry-after"]) <= 20
        assert (await one.get("/healthz")).status_code == 200
        listed = (await other.get(FINETUNES)).json()  # and nothing was made
        assert listed["finetunes"] == []


async def test_bad_keys_are_slowed_down_and_good_ones_do_not_notice(serve: Serve) -> None:
    async with serve(api_key="secret", requests_per_minute=5) as service:
        good = await make_key(service, requests_per_minute=1000)
        async with (
            calling_with(service, "bad", peer="10.0.0.1") as bad,
            calling_with(service, good, peer="10.0.0.1") as fine,
            calling_with(service, "bad", peer="10.0.0.2") as elsewhere,
        ):
            statuses = [(await bad.get(FINETUNES)).status_code for _ in range(20)]
            assert statuses == [401] * 5 + [429] * 15
            assert {(await fine.get(FINETUNES)).status_code for _ in range(10)} == {200}
            refusal(await elsewhere.get(FINETUNES), 401, "invalid_api_key")
    async with serve(api_key="secret") as service, calling_with(service, "bad") as bad:
        assert {(await bad.get(FINETUNES)).status_code for _ in range(20)} == {401}


async def test_rollouts_at_once(service: Service) -> None:
    async with calling_with(service, await make_key(service, max_concurrent_rollouts=2)) as caller:
        finetune_id = await caller.create()
        service.engine.gate.clear()
        rolling = [asyncio.create_task(caller.roll(finetune_id, num_rollouts=n)) for n in (1, 2)]
        await until(lambda: service.engine.num_running == 2)
        answer = await caller.roll(finetune_id)
        assert "2 rollouts calls" in refusal(answer, 429, "rate_limited")["message"]
        assert int(answer.headers["retry-after"]) >= 1
        assert (await caller.get(FINETUNES)).status_code == 200
        service.engine.gate.set()
        assert {(await task).status_code for task in rolling} == {200}
        assert (await caller.roll(finetune_id)).status_code == 200


async def test_finetunes_of_an_account(service: Service) -> None:
    async with calling_with(service, await make_key(service, "team", max_finetunes=2)) as caller:
        first, _ = [await caller.create(name) for name in ("a", "b")]
        await caller.train(first)
        await caller.save(first)
        for more in ({}, {"from_checkpoint": f"{first}@1"}):
            answer = await caller.post(FINETUNES, {"name": "c", "rank": 8, **more})
            assert "allows its account 2 finetunes" in refusal(answer, 403, "forbidden")["message"]
        assert await caller.create("a") == first  # what is there is returned
        races = await asyncio.gather(
            *(caller.post(FINETUNES, {"name": f"r{n}", "rank": 8}) for n in range(4))
        )
        assert {answer.status_code for answer in races} == {403}
        await caller.delete(f"{FINETUNES}/{first}")
        races = await asyncio.gather(
            *(caller.post(FINETUNES, {"name": f"r{n}", "rank": 8}) for n in range(4))
        )
        assert sorted(answer.status_code for answer in races) == [200, 403, 403, 403]
        async with calling_with(service, await make_key(service, "team")) as other_key:
            await other_key.create("c")


async def test_stored_bytes_of_an_account(service: Service) -> None:
    free = await make_key(service, "team")
    async with calling_with(service, free) as caller:
        finetune_id = await caller.create()
        assert await stored(service, "team") == 0
        for _ in range(3):
            assert (await caller.train(finetune_id)).status_code == 200
        assert (await caller.save(finetune_id)).status_code == 200
        num_bytes = await stored(service, "team")
        named = await services_of(service).database.read(list_named_files)
        assert num_bytes == sum(item.file.num_bytes for item in named) > 0
    assert await stored(service, "default") == 0
    key = await make_key(service, "team", max_stored_bytes=num_bytes)
    async with calling_with(service, key) as full:
        before = service.state_files(finetune_id)
        body = refusal(await full.train(finetune_id), 403, "forbidden")
        assert str(num_bytes) in body["message"]
        copy = {"name": "copy", "rank": 8, "from_checkpoint": f"{finetune_id}@3"}
        refusal(await full.post(FINETUNES, copy), 403, "forbidden")
        assert (await full.get(f"{FINETUNES}/{finetune_id}")).json()["finetune"]["step"] == 3
        assert (await full.roll(finetune_id)).status_code == 200  # stores nothing
        await service.settled()
        assert service.state_files(finetune_id) == before
    async with calling_with(
        service, await make_key(service, "team", max_stored_bytes=1 << 30)
    ) as k:
        assert (await k.train(finetune_id)).json()["step"] == 4
        assert (await k.post(FINETUNES, copy)).status_code == 200


async def test_limits_of_the_configuration_hold_for_who_has_none(serve: Serve) -> None:
    async with serve(max_finetunes=0, api_key="secret") as service:
        async with calling_with(service, "secret") as own:
            refusal(await own.post(FINETUNES, {"name": "a", "rank": 8}), 403, "forbidden")
        async with calling_with(service, await make_key(service, max_finetunes=1)) as other:
            await other.create()
    async with serve(max_finetunes=1, requests_per_minute=2) as service:
        refusal(await service.post(FINETUNES), 401, "invalid_api_key")  # there is a key now
