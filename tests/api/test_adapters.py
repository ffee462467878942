"""Adapters, the form of December 2025 over the same finetunes; http-api.md section 17."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.ids import CheckpointName, NumberedCheckpoint
from server.db.models import Account
from server.domain.delivery import Fate
from server.domain.errors import FinetuneNotFoundError, InternalError, OriginConflictError
from tests.api.conftest import Serve
from tests.factories import ABSENT, make_group, make_image_url, make_request, make_sft_group
from tests.fakes import FAKE_MODEL, FakeEngine
from tests.service import Service, locs, refusal
from tests.watched import WatchedCall, post_watched

pytestmark = pytest.mark.anyio

ADAPTERS = "/v1/tuning/adapters"
FINETUNES = "/v1/tuning/finetunes"
ROLLOUTS = "/v1/tuning/rollouts"
TRAIN_STEP = "/v1/tuning/train_step"
UNKNOWN_ID = "01JZZZZZZZZZZZZZZZZZZZZZZZ"
ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


async def create(service: Service, name: str = "my cars", **changes: Any) -> str:
    answer = await service.post(ADAPTERS, {"name": name, "rank": 8, **changes})
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"adapter_id"}
    return answer.json()["adapter_id"]


async def train(service: Service, adapter_id: str, **changes: Any) -> httpx.Response:
    body = {"adapter_id": adapter_id, "groups": [make_sft_group(mode=ABSENT)], **changes}
    return await service.post(TRAIN_STEP, body)


async def save(service: Service, adapter_id: str) -> str:
    """Save, check the shape, and return the short name."""
    answer = await service.http.post(f"{ADAPTERS}/{adapter_id}/checkpoint")
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"checkpoint_id", "created_at"}
    assert ISO.fullmatch(answer.json()["created_at"])
    owner, _, number = answer.json()["checkpoint_id"].partition("/")
    assert owner == adapter_id
    return number


async def saved(service: Service, *, rank: int = 8, **step: Any) -> str:
    """The id of an adapter with one trained and saved step."""
    adapter_id = await create(service, "the source", rank=rank)
    await train(service, adapter_id, **step)
    assert await save(service, adapter_id) == "chk_001"
    return adapter_id


async def numbers(service: Service, adapter_id: str) -> list[str]:
    page = (await service.get(f"{ADAPTERS}/{adapter_id}/checkpoints")).json()
    return [item["checkpoint_id"].removeprefix(f"{adapter_id}/") for item in page["checkpoints"]]


# --- adapters


async def test_an_adapter_is_a_finetune_in_the_words_of_its_time(service: Service) -> None:
    adapter_id = await create(service, "Müller's cars, 2nd try", rank=16)
    shown = (await service.get(f"{ADAPTERS}/{adapter_id.lower()}")).json()
    finetune = (await service.get(f"{FINETUNES}/{adapter_id}")).json()["finetune"]
    assert shown == {
        "adapter_id": adapter_id,
        "name": "Müller's cars, 2nd try",
        "rank": 16,
        "created_at": shown["created_at"],
    }
    assert ISO.fullmatch(shown["created_at"])
    assert (finetune["name"], finetune["rank"], finetune["step"]) == (shown["name"], 16, 0)
    other = await service.create("of-today")
    listed = (await service.get(ADAPTERS)).json()
    assert listed["adapters"][0] == shown
    assert [item["adapter_id"] for item in listed["adapters"]] == [adapter_id, other]


async def test_creating_has_the_same_natural_and_explicit_keys(service: Service) -> None:
    adapter_id = await create(service, "cars")
    assert await create(service, "cars") == await service.create("cars") == adapter_id
    body = {"name": "cars", "rank": 32}
    assert "rank 8" in refusal(await service.post(ADAPTERS, body), 409, "rank_conflict")["detail"]
    key = {"Idempotency-Key": "k"}
    body = {"name": "more cars", "rank": 32}
    made = [await service.post(ADAPTERS, body, headers=key) for _ in range(2)]
    assert made[0].content == made[1].content
    assert made[1].headers["idempotent-replayed"] == "true"
    other = await service.post(ADAPTERS, {**body, "rank": 8}, headers=key)
    refusal(other, 409, "idempotency_key_reused")
    assert (await service.post(FINETUNES, {**body, "name": "x"}, headers=key)).status_code == 200


async def test_names_are_free_text(service: Service) -> None:
    for name in ("a", " ", "ü" * 128, "a/b", "猫 in the box", '"quoted"'):
        adapter_id = await create(service, name)
        assert (await service.get(f"{ADAPTERS}/{adapter_id}")).json()["name"] == name


async def test_other_names_and_ranks_are_refused(service: Service) -> None:
    names = ("", "x" * 129, "a\n", "a\tb", "a\0", "\x7f", "\u200b", None, 5)
    bodies = [("name", {"name": name, "rank": 8}) for name in names] + [("name", {"rank": 8})]
    bodies += [("rank", {"name": "a", "rank": rank}) for rank in (12, 64, "16", None)]
    for field, body in [*bodies, ("rank", {"name": "a"})]:
        answer = await service.post(ADAPTERS, body)
        refusal(answer, 422, "validation_error")
        assert locs(answer) == [("body", field)]
    half = await service.http.post(ADAPTERS, content=b'{"name": "\\ud800", "rank": 8}')
    refusal(half, 422, "invalid_json")
    assert (await service.get(ADAPTERS)).json()["adapters"] == []


async def test_the_list_has_pages_of_twenty_without_has_more(service: Service) -> None:
    ids = [await create(service, f"adapter {index}") for index in range(22)]
    first = (await service.get(ADAPTERS)).json()
    assert set(first) == {"adapters", "next_cursor"}
    assert [item["adapter_id"] for item in first["adapters"]] == ids[:20]
    await service.delete(f"{ADAPTERS}/{ids[19]}")  # the row that the cursor names
    rest = await service.get(ADAPTERS, params={"cursor": first["next_cursor"], "limit": 1000})
    assert [item["adapter_id"] for item in rest.json()["adapters"]] == ids[20:]
    assert rest.json()["next_cursor"] is None
    assert len((await service.get(ADAPTERS, params={"limit": 0})).json()["adapters"]) == 1
    for word in ("limit", "cursor"):
        answer = await service.get(ADAPTERS, params={word: "x"})
        refusal(answer, 422, "validation_error")
        assert locs(answer) == [("query", word)]


async def test_a_delete_on_either_surface_is_one_on_both(service: Service) -> None:
    first, second = await saved(service), await create(service, "other")
    for _ in range(2):
        assert (await service.delete(f"{ADAPTERS}/{first}")).content == b"{}"
        assert (await service.delete(f"{FINETUNES}/{second}")).json() == {"ok": True}
    assert (await service.delete(f"{ADAPTERS}/{second}")).content == b"{}"
    assert (await service.get(ADAPTERS)).json() == {"adapters": [], "next_cursor": None}
    for gone in (first, second, UNKNOWN_ID, "x", "%00"):
        for answer in (
            await service.get(f"{ADAPTERS}/{gone}"),
            await service.http.post(f"{ADAPTERS}/{gone}/checkpoint"),
            await service.get(f"{ADAPTERS}/{gone}/checkpoints"),
            await service.delete(f"{ADAPTERS}/{gone}/checkpoints/chk_001"),
        ):
            assert answer.status_code == 404
        refusal(await service.get(f"{ADAPTERS}/{gone}"), 404, "finetune_not_found")
    refusal(await service.delete(f"{ADAPTERS}/{UNKNOWN_ID}"), 404, "finetune_not_found")
    await service.settled()
    assert service.state_files(first) == []


# --- checkpoints


async def test_numbers_count_the_saves_of_both_surfaces_and_are_never_reused(
    service: Service,
) -> None:
    adapter_id = await create(service)
    empty = await service.http.post(f"{ADAPTERS}/{adapter_id}/checkpoint")
    refusal(empty, 404, "no_checkpoint")
    await train(service, adapter_id)
    assert await save(service, adapter_id) == await save(service, adapter_id) == "chk_001"
    await service.train(adapter_id)
    await service.save(adapter_id)  # the other surface: number 2
    await service.delete(f"{FINETUNES}/{adapter_id}/checkpoints/2")
    assert await save(service, adapter_id) == "chk_003"  # of the same step
    await service.delete(f"{ADAPTERS}/{adapter_id}/checkpoints/chk_003")
    await train(service, adapter_id)
    assert await save(service, adapter_id) == "chk_004"
    assert await numbers(service, adapter_id) == ["chk_001", "chk_004"]
    listed = (await service.get(f"{FINETUNES}/{adapter_id}/checkpoints")).json()["checkpoints"]
    assert [item["step"] for item in listed] == [1, 3]
    other = await create(service, "another")
    await train(service, other)
    assert await save(service, other) == "chk_001"  # each has numbers of its own


async def test_a_deleted_number_stays_deleted_when_its_step_is_saved_again(
    service: Service,
) -> None:
    adapter_id = await saved(service)
    first = f"{ADAPTERS}/{adapter_id}/checkpoints/chk_001"
    assert (await service.delete(first)).content == b"{}"
    assert await save(service, adapter_id) == "chk_002"
    assert (await service.delete(first)).content == b"{}"  # a resend
    assert await numbers(service, adapter_id) == ["chk_002"]


async def test_a_checkpoint_is_deleted_by_each_of_its_names(service: Service) -> None:
    adapter_id = await create(service)
    names = ("{}", f"{adapter_id}/{{}}", f"{adapter_id}%2F{{}}", f"{adapter_id}%2f{{}}",
             f"{adapter_id.lower()}/{{}}", f"{adapter_id}/{adapter_id}/{{}}")  # fmt: skip
    for name in names:
        await train(service, adapter_id)
        path = f"{ADAPTERS}/{adapter_id}/checkpoints/{name.format(await save(service, adapter_id))}"
        for _ in range(2):
            assert (await service.delete(path)).content == b"{}"
        assert await numbers(service, adapter_id) == []


async def test_what_names_no_checkpoint_of_the_adapter_is_not_found(service: Service) -> None:
    adapter_id, other = await saved(service), await create(service, "other")
    for name in (
        "chk_002", "chk_000", "chk_1", "chk_0001", "1", "x", "chk_" + "9" * 40, "a/b/c",
        "chk_%C2%B2%C2%B2%C2%B2", f"{other}/chk_001", f"{other}/{adapter_id}/chk_001",
    ):  # fmt: skip
        path = f"{ADAPTERS}/{adapter_id}/checkpoints/{name}"
        refusal(await service.delete(path), 404, "checkpoint_not_found")
    path = f"{ADAPTERS}/{other}/checkpoints/{adapter_id}/chk_001"
    refusal(await service.delete(path), 404, "checkpoint_not_found")
    assert await numbers(service, adapter_id) == ["chk_001"]


async def test_the_list_of_checkpoints_has_pages_oldest_first(service: Service) -> None:
    adapter_id = await create(service)
    for _ in range(4):
        await train(service, adapter_id)
        await save(service, adapter_id)
    path = f"{ADAPTERS}/{adapter_id}/checkpoints"
    first = (await service.get(path, params={"limit": 2})).json()
    assert set(first) == {"checkpoints", "next_cursor"}
    assert [set(item) for item in first["checkpoints"]] == [{"checkpoint_id", "created_at"}] * 2
    await service.delete(f"{path}/chk_002")
    rest = (await service.get(path, params={"cursor": first["next_cursor"]})).json()
    names = [item["checkpoint_id"] for item in first["checkpoints"] + rest["checkpoints"]]
    assert names == [f"{adapter_id}/chk_00{number}" for number in (1, 2, 3, 4)]
    assert rest["next_cursor"] is None


async def test_saving_takes_a_key_and_ignores_a_body(service: Service) -> None:
    adapter_id = await create(service)
    path, answers = f"{ADAPTERS}/{adapter_id}/checkpoint", []
    for lr in (0.1, 0.2):
        await train(service, adapter_id, lr=lr)
        answers.append(await service.http.post(path, headers={"Idempotency-Key": "k"}))
    assert answers[0].content == answers[1].content
    assert answers[1].headers["idempotent-replayed"] == "true"
    assert (await service.http.post(path, content=b"{not json")).status_code == 200
    assert await numbers(service, adapter_id) == ["chk_001", "chk_002"]


# --- rollouts


async def test_rollouts_echo_the_adapter_and_call_detected_objects_boxes(service: Service) -> None:
    adapter_id = await create(service)
    box = {"x_min": 0.1, "y_min": 0.2, "x_max": 0.3, "y_max": 0.5}
    body = {
        "adapter_id": adapter_id,
        "num_rollouts": 2,
        "request": make_request("detect"),
        "ground_truth": {"boxes": [box]},
    }
    answer = await service.post(ROLLOUTS, body)
    assert set(answer.json()) == {"request", "rollouts", "rewards"}
    assert answer.json()["request"] == body
    assert len(answer.json()["rewards"]) == 2
    for rollout in answer.json()["rollouts"]:
        assert set(rollout["output"]) == {"boxes"}
        assert set(rollout["output"]["boxes"][0]) == set(box)
    today = await service.roll(adapter_id)
    assert set(today.json()["rollouts"][0]["output"]) == {"objects"}
    assert today.json()["request"]["finetune_id"] == adapter_id
    assert "adapter_id" not in today.json()["request"]
    first, second = service.engine.commands("make_rollouts")
    assert first.settings == second.settings  # the default of 128 tokens limits nothing
    group = {"request": answer.json()["request"], "rollouts": answer.json()["rollouts"]}
    trained = await train(service, adapter_id, groups=[{**group, "rewards": [0.0, 1.0]}])
    assert trained.content == b"{}"
    assert service.engine.commands("train_step")[0].groups[0].rollouts[0].output.keys() == {"boxes"}


@pytest.mark.parametrize(("skill", "key"), [("query", "answer"), ("point", "points")])
async def test_the_output_of_other_skills_is_that_of_today(
    service: Service, skill: str, key: str
) -> None:
    body = {"adapter_id": await create(service), "request": make_request(skill)}
    answer = await service.post(ROLLOUTS, body)
    assert set(answer.json()["rollouts"][0]["output"]) == {key}
    assert answer.json()["request"]["num_rollouts"] == 1


@pytest.mark.parametrize("path", [ROLLOUTS, TRAIN_STEP])
async def test_one_id_is_needed_and_two_have_to_agree(service: Service, path: str) -> None:
    adapter_id = await create(service)
    rest: dict[str, Any] = {"request": make_request("detect")}
    if path == TRAIN_STEP:
        rest = {"groups": [make_sft_group()]}
    for neither in ({}, {"adapter_id": None, "finetune_id": None}):
        answer = await service.post(path, {**neither, **rest})
        message = refusal(answer, 422, "validation_error")["message"]
        assert "finetune_id" in message
        assert "adapter_id" in message
        assert answer.json()["detail"][0]["type"] == "missing"
    for both in ((adapter_id, UNKNOWN_ID), ("x", adapter_id), ("x", "X")):
        ids = dict(zip(("adapter_id", "finetune_id"), both, strict=True))
        answer = await service.post(path, {**ids, **rest})
        refusal(answer, 422, "validation_error")
        assert locs(answer) == [("body", "finetune_id")]
    for wrong in ({"adapter_id": 5}, {"adapter_id": adapter_id, "finetune_id": 5}):
        refusal(await service.post(path, {**wrong, **rest}), 422, "validation_error")
    refusal(await service.post(path, {"adapter_id": "x", **rest}), 404, "finetune_not_found")
    assert service.engine.calls == []
    same = {"adapter_id": adapter_id, "finetune_id": adapter_id.lower()}
    answer = await service.post(path, {**same, **rest})
    if path == TRAIN_STEP:
        assert answer.content == b"{}"
    else:
        assert {**same, **rest, "num_rollouts": 1} == answer.json()["request"]
        assert set(answer.json()["rollouts"][0]["output"]) == {"boxes"}
    assert "x-ignored-fields" not in answer.headers


# --- train steps


async def call(service: Service, body: dict[str, Any], fate: Fate) -> WatchedCall:
    watched = await post_watched(service, TRAIN_STEP, body).answered()
    watched.delivery.settle(fate)
    return watched


async def step_of(service: Service, adapter_id: str) -> int:
    return (await service.get(f"{FINETUNES}/{adapter_id}")).json()["finetune"]["step"]


async def test_a_step_answers_nothing_and_counts_exactly_once(service: Service) -> None:
    adapter_id = await create(service)
    body = {"adapter_id": adapter_id, "groups": [make_group(mode=ABSENT)], "lr": 0.01}
    seen = []
    for fate in (Fate.LEFT, Fate.TAKEN, Fate.TAKEN):
        answer = await call(service, body, fate)
        assert (answer.status, answer.content) == (200, b"{}")
        seen.append((await step_of(service, adapter_id), answer.is_replayed))
    assert seen == [(1, False), (1, True), (2, False)]
    assert len(service.engine.commands("train_step")) == 2
    metrics = (await service.get(f"{FINETUNES}/{adapter_id}/metrics")).json()["metrics"]
    assert {item["step"] for item in metrics} == {1, 2}  # what the answer does not say is kept


async def test_expected_step_and_keys_hold_in_this_form_too(service: Service) -> None:
    adapter_id = await create(service)
    body = {"adapter_id": adapter_id, "groups": [make_sft_group()], "expected_step": 0}
    for is_replayed in (False, True):
        answer = await call(service, body, Fate.TAKEN)
        assert (answer.content, answer.is_replayed) == (b"{}", is_replayed)
    refusal(await train(service, adapter_id, expected_step=0), 409, "step_conflict")
    keyed = {"adapter_id": adapter_id, "groups": [make_sft_group()], "idempotency_key": "a"}
    for is_replayed in (False, True):
        answer = await call(service, keyed, Fate.TAKEN)
        assert (answer.content, answer.is_replayed) == (b"{}", is_replayed)
    del keyed["adapter_id"]
    other = await service.post(TRAIN_STEP, {"finetune_id": adapter_id, **keyed})
    refusal(other, 409, "idempotency_key_reused")
    assert await step_of(service, adapter_id) == 2
    assert (await service.train(adapter_id)).json()["step"] == 3


async def test_refused_steps_have_the_one_error_body(service: Service) -> None:
    adapter_id = await create(service)
    answer = await train(service, adapter_id, groups=[make_group(rewards=[1.0])])
    refusal(answer, 422, "validation_error")
    assert locs(answer) == [("body", "groups", 0, "rewards")]
    request = make_request(image_url="http://a.example/b.png")
    answer = await service.post(ROLLOUTS, {"adapter_id": adapter_id, "request": request})
    refusal(answer, 422, "image_url_scheme")
    assert make_image_url() not in answer.text
    assert await step_of(service, adapter_id) == 0


# --- from_checkpoint


def content(path: str) -> str:
    return Path(path).read_text()


async def start_from(service: Service, origin: Any, **changes: Any) -> httpx.Response:
    body = {"name": "the follower", "rank": 8, "from_checkpoint": origin, **changes}
    return await service.post(ADAPTERS, body)


@pytest.mark.parametrize(
    "form", ["{id}/chk_001", "{lower}/chk_001", "{id}/{id}/chk_001", "{id}@1", "base/{id}@1"]
)
async def test_it_begins_with_a_copy_of_the_saved_weights(service: Service, form: str) -> None:
    source = await saved(service)
    origin = form.format(id=source, lower=source.lower())
    follower = (await start_from(service, origin)).json()["adapter_id"]
    today = (await service.get(f"{FINETUNES}/{follower}")).json()["finetune"]
    assert (today["step"], today["origin"]) == (0, f"{source}@1")
    empty = await service.http.post(f"{ADAPTERS}/{follower}/checkpoint")
    refusal(empty, 404, "no_checkpoint")
    for path in (f"{ADAPTERS}/{source}/checkpoints/chk_001", f"{ADAPTERS}/{source}"):
        await service.delete(path)  # does not matter any more
    await service.settled()
    # Asked again, it is the same one, although its origin is gone.
    assert (await start_from(service, origin)).json()["adapter_id"] == follower
    assert (await train(service, follower)).status_code == 200
    of_source, first = service.engine.commands("train_step")
    wanted = f"weights after {of_source.adapter.seed}"
    assert content(first.adapter.weights.path) == wanted
    assert Path(first.adapter.weights.path).parent.name == follower
    assert (first.optimizer, first.adapter.step) == (None, 0)
    assert await save(service, follower) == "chk_001"


async def test_a_finetune_of_today_begins_at_a_number_too(service: Service) -> None:
    source = await saved(service)
    body = {"name": "follower", "rank": 8, "from_checkpoint": f"{source}/chk_001"}
    first = (await service.post(FINETUNES, body)).json()["finetune_id"]
    for same in (f"{source}/{source}/chk_001", f"{source}@1", None):
        answer = await service.post(FINETUNES, {**body, "from_checkpoint": same})
        assert answer.json() == {"finetune_id": first}


async def test_an_origin_is_compared_by_what_it_names(service: Service) -> None:
    source = await saved(service)
    await service.delete(f"{ADAPTERS}/{source}/checkpoints/chk_001")
    await save(service, source)
    await train(service, source)
    await save(service, source)  # now number 2 is of step 1, number 3 of step 2
    follower = (await start_from(service, f"{source}/chk_002")).json()["adapter_id"]
    for same in (f"{source}/chk_001", f"{source}@1"):  # the same weights
        assert (await start_from(service, same)).json()["adapter_id"] == follower
    for other in (f"{source}/chk_003", f"{source}/chk_009", f"{UNKNOWN_ID}/chk_001"):
        answer = await start_from(service, other)
        assert f"{source}@1" in refusal(answer, 409, "origin_conflict")["message"]
    fresh = await start_from(service, f"{source}/chk_001", name="the source")
    refusal(fresh, 409, "origin_conflict")


async def test_what_it_cannot_begin_with_is_refused_and_leaves_nothing(
    service: Service,
) -> None:
    source = await saved(service, rank=16)
    await service.delete(f"{ADAPTERS}/{source}/checkpoints/chk_001")
    await save(service, source)
    for missing in (f"{source}/chk_001", f"{source}/chk_003", f"{source}/chk_000"):
        answer = await start_from(service, missing, rank=16)
        refusal(answer, 404, "checkpoint_not_found")
    answer = await start_from(service, f"{UNKNOWN_ID}/chk_001")
    refusal(answer, 404, "finetune_not_found")
    answer = await start_from(service, f"{source}/chk_002")
    refusal(answer, 422, "validation_error")
    assert locs(answer) == [("body", "rank")]
    for malformed in (
        "chk_002", f"{source}/chk_2", f"{UNKNOWN_ID}/{source}/chk_002", f"{source}%2Fchk_002",
        f"{source}//chk_002", f"x/{source}/chk_002", source, "", 7,
    ):  # fmt: skip
        answer = await start_from(service, malformed, rank=16)
        refusal(answer, 422, "validation_error")
        assert locs(answer) == [("body", "from_checkpoint")]
    await service.settled()
    assert len((await service.get(ADAPTERS)).json()["adapters"]) == 1
    assert [path.name for path in (service.data_dir / "finetunes").iterdir()] == [source]


async def test_of_another_account_there_is_no_checkpoint(service: Service) -> None:
    source = await saved(service)
    services = service.app.state.services
    account = Account(id="other", created_at_ms=0)
    await services.database.write(lambda session: session.add(account))
    for origin in (
        NumberedCheckpoint(finetune_id=source, number=1),
        CheckpointName(finetune_id=source, step=1),
    ):
        with pytest.raises(FinetuneNotFoundError):
            await services.finetunes.create("other", name="x", rank=8, origin=origin)
    mine = await services.finetunes.create("other", name="x", rank=8)
    number = NumberedCheckpoint(finetune_id=source, number=1)
    with pytest.raises(OriginConflictError):
        await services.finetunes.create("other", name="x", rank=8, origin=number)
    for path in (f"{ADAPTERS}/{mine.id}", f"{ADAPTERS}/{mine.id}/checkpoints"):
        refusal(await service.get(path), 404, "finetune_not_found")


async def test_another_base_model(serve: Serve) -> None:
    async with serve() as service:
        source = await saved(service)
    other = FakeEngine(dataclasses.replace(FAKE_MODEL, name="other", digest="e" * 64))
    async with serve(other) as service:
        answer = await start_from(service, f"{source}/chk_001")
        refusal(answer, 409, "base_model_mismatch")
        assert await numbers(service, source) == ["chk_001"]  # a restart changes no number


async def test_a_process_that_ends_between_the_copy_and_its_row_leaves_what_a_start_removes(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy is whole and named by no row; whoever tidied up has ended as well."""
    async with serve() as service:
        source = await saved(service)
        services = service.app.state.services

        def end(*_words: Any) -> None:
            raise InternalError("It ended here.")

        with monkeypatch.context() as patched:
            patched.setattr("server.services.finetunes.create_finetune", end)
            patched.setattr(services.cleanup, "sweep_soon", lambda _finetune_id: None)
            answer = await start_from(service, f"{source}/chk_001")
        refusal(answer, 500, "internal_error")
        folders = {path.name for path in (service.data_dir / "finetunes").iterdir()}
        (left,) = folders - {source}
        assert [len(service.state_files(each)) for each in (left, source)] == [1, 2]
    async with serve() as service:
        assert service.state_files(left) == []
        assert not (service.data_dir / "finetunes" / left).exists()
        follower = (await start_from(service, f"{source}/chk_001")).json()["adapter_id"]
        assert len(service.state_files(follower)) == 1
