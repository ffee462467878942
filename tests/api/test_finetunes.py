"""Create, list, get and delete finetunes; http-api.md section 7."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from server.domain.engine_status import EngineStatus
from tests.api.conftest import Serve
from tests.factories import ABSENT
from tests.fakes import FakeEngine
from tests.service import Service, locs, refusal

pytestmark = pytest.mark.anyio

FINETUNES = "/v1/tuning/finetunes"
UNKNOWN_ID = "01JZZZZZZZZZZZZZZZZZZZZZZZ"


async def test_the_same_name_and_rank_give_the_same_id(service: Service) -> None:
    assert await service.create("a", 8) == await service.create("a", 8)


async def test_creates_at_the_same_instant_agree(service: Service) -> None:
    ids = await asyncio.gather(*(service.create("a", 8) for _ in range(12)))
    assert len(set(ids)) == 1


async def test_another_rank_under_a_name_is_a_conflict_that_names_the_first(
    service: Service,
) -> None:
    await service.create("a", 8)
    answer = await service.post(FINETUNES, {"name": "a", "rank": 16})
    body = refusal(answer, 409, "rank_conflict")
    assert "rank 8" in body["detail"]
    assert body["error"]["param"] == "rank"


@pytest.mark.parametrize("rank", [8, 16, 24, 32, 16.0])
async def test_allowed_ranks(service: Service, rank: float) -> None:
    await service.create("a", rank)  # type: ignore[arg-type]


@pytest.mark.parametrize("rank", [0, 1, 9, 64, -8, "8", True, 8.5, None, [8], ABSENT, 10**30])
async def test_other_ranks_are_refused(service: Service, rank: Any) -> None:
    body = {"name": "a"} if rank is ABSENT else {"name": "a", "rank": rank}
    answer = await service.post(FINETUNES, body)
    refusal(answer, 422, "validation_error")
    assert locs(answer) == [("body", "rank")]


@pytest.mark.parametrize("name", ["a", "A.b_c-1", "x" * 128, "..."])
async def test_allowed_names(service: Service, name: str) -> None:
    await service.create(name)


@pytest.mark.parametrize(
    "name", ["", "my run", "x" * 129, "ä", "a/b", "a\n", "a\0", None, 5, ["a"], ABSENT]
)
async def test_other_names_are_refused(service: Service, name: Any) -> None:
    body = {"rank": 8} if name is ABSENT else {"name": name, "rank": 8}
    answer = await service.post(FINETUNES, body)
    refusal(answer, 422, "validation_error")
    assert locs(answer) == [("body", "name")]


async def test_a_refused_name_comes_with_a_proposal(service: Service) -> None:
    answer = await service.post(FINETUNES, {"name": "my first run", "rank": 8})
    assert "my-first-run" in refusal(answer, 422, "validation_error")["message"]


async def test_names_are_case_sensitive(service: Service) -> None:
    assert await service.create("a") != await service.create("A")


async def test_one_finetune_is_wrapped_and_its_id_is_read_in_any_case(service: Service) -> None:
    finetune_id = await service.create("a", 24)
    answer = await service.get(f"{FINETUNES}/{finetune_id.lower()}")
    finetune = answer.json()["finetune"]
    assert finetune == {
        "finetune_id": finetune_id,
        "name": "a",
        "rank": 24,
        "created_at_ms": finetune["created_at_ms"],
        "updated_at_ms": finetune["created_at_ms"],
        "step": 0,
        "base_model": "tiny",
    }
    assert finetune_id == finetune_id.upper()


async def test_the_list_has_pages_oldest_first(service: Service) -> None:
    ids = [await service.create(f"a{index}") for index in range(5)]
    first = (await service.get(FINETUNES, params={"limit": 2})).json()
    assert [item["finetune_id"] for item in first["finetunes"]] == ids[:2]
    assert first["has_more"] is True
    await service.delete(f"{FINETUNES}/{ids[1]}")  # the row that the cursor names
    await service.create("late")
    second = await service.get(FINETUNES, params={"limit": 50, "cursor": first["next_cursor"]})
    assert [item["name"] for item in second.json()["finetunes"]] == ["a2", "a3", "a4", "late"]
    assert second.json()["next_cursor"] is None
    assert second.json()["has_more"] is False


async def test_a_full_last_page_says_so(service: Service) -> None:
    await service.create("a")
    await service.create("b")
    page = (await service.get(FINETUNES, params={"limit": 2})).json()
    assert page["next_cursor"] is None
    assert page["has_more"] is False


@pytest.mark.parametrize(
    ("limit", "shown"), [("0", 1), ("-5", 1), ("1", 1), ("", 20), ("1000", 25), ("100", 25)]
)
async def test_limits_are_clamped(service: Service, limit: str, shown: int) -> None:
    for index in range(25):
        await service.create(f"a{index}")
    page = (await service.get(FINETUNES, params={"limit": limit})).json()
    assert len(page["finetunes"]) == shown


@pytest.mark.parametrize(
    "cursor",
    ["x", "!!!", "e30", "W10", "bnVsbA", "eyJvcmRpbmFsIjoiYSJ9", "ä", "a" * 5000,
     "eyJvcmRpbmFsIjogMTAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDB9"],
)  # fmt: skip
async def test_unreadable_cursors_are_refused(service: Service, cursor: str) -> None:
    answer = await service.get(FINETUNES, params={"cursor": cursor})
    refusal(answer, 422, "validation_error")
    assert locs(answer) == [("query", "cursor")]


@pytest.mark.parametrize("limit", ["a", "1.5", "1e3", "9" * 5000])
async def test_limits_that_are_no_integers_are_refused(service: Service, limit: str) -> None:
    answer = await service.get(FINETUNES, params={"limit": limit})
    refusal(answer, 422, "validation_error")
    assert locs(answer) == [("query", "limit")]


async def test_deleting_frees_the_name_and_can_be_repeated(service: Service) -> None:
    finetune_id = await service.create("a")
    for _ in range(2):
        answer = await service.delete(f"{FINETUNES}/{finetune_id}")
        assert answer.status_code == 200
        assert answer.json() == {"ok": True}
    assert (await service.get(FINETUNES)).json()["finetunes"] == []
    assert await service.create("a", 16) != finetune_id
    await service.settled()
    assert service.engine.dropped == [finetune_id] * 2


async def test_a_deleted_finetune_is_gone_from_every_call(service: Service) -> None:
    finetune_id = await service.create("a")
    await service.train(finetune_id)
    await service.save(finetune_id)
    await service.delete(f"{FINETUNES}/{finetune_id}")
    for answer in (
        await service.get(f"{FINETUNES}/{finetune_id}"),
        await service.roll(finetune_id),
        await service.train(finetune_id),
        await service.save(finetune_id),
        await service.get(f"{FINETUNES}/{finetune_id}/checkpoints"),
        await service.delete(f"{FINETUNES}/{finetune_id}/checkpoints/1"),
        await service.get(f"{FINETUNES}/{finetune_id}/metrics"),
        await service.post(
            f"{FINETUNES}/{finetune_id}/metrics", {"step": 0, "metrics": {"a": 1.0}}
        ),
        await service.post("/v1/query", {"question": "?", "model": f"x/{finetune_id}@1"}),
    ):
        refusal(answer, 404, "finetune_not_found")
    await service.settled()
    assert service.state_files(finetune_id) == []


@pytest.mark.parametrize("finetune_id", [UNKNOWN_ID, "x", "a" * 26, "%00", "Ü" * 26, "8" * 26])
async def test_unknown_and_odd_ids_are_not_found(service: Service, finetune_id: str) -> None:
    for answer in (
        await service.get(f"{FINETUNES}/{finetune_id}"),
        await service.delete(f"{FINETUNES}/{finetune_id}"),
        await service.save(finetune_id),
    ):
        refusal(answer, 404, "finetune_not_found")


async def test_a_finetune_made_while_the_model_loads_belongs_to_what_it_trains_on_first(
    serve: Serve,
) -> None:
    engine = FakeEngine()
    engine.state = "starting"
    async with serve(engine) as service:
        finetune_id = await service.create("a")
        details = (await service.get(f"{FINETUNES}/{finetune_id}")).json()["finetune"]
        assert details["base_model"] is None
        engine.state = "ready"
        await service.roll(finetune_id)
        details = (await service.get(f"{FINETUNES}/{finetune_id}")).json()["finetune"]
        assert details["base_model"] == "tiny"


def test_the_fake_says_what_the_real_one_says() -> None:
    assert isinstance(FakeEngine().status(), EngineStatus)
