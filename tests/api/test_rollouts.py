"""Rollouts: what is accepted, what is asked of the engine, what comes back; http-api.md 8."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
from typing import Any

import pytest

from contract.errors import EngineFailed, RequestRefused, StateDamaged, StorageFull
from contract.skills import DetectRequest, GroundTruth, Point, QueryRequest
from tests.api.conftest import Serve
from tests.factories import ABSENT, make_image_url, make_request
from tests.fakes import FAKE_MODEL, FakeEngine
from tests.service import Service, locs, refusal

ONE_DATABASE_IS_ENOUGH = True  # Of rollouts nothing is stored.

pytestmark = pytest.mark.anyio

ROLLOUTS = "/v1/tuning/rollouts"
BOX = {"x_min": 0.1, "y_min": 0.1, "x_max": 0.2, "y_max": 0.2}


async def command_for(service: Service, skill: str = "detect", **request: Any) -> Any:
    """Make rollouts and return what the engine was asked."""
    finetune_id = await service.create()
    answer = await service.roll(finetune_id, request=make_request(skill, **request))
    assert answer.status_code == 200, answer.text
    return service.engine.commands("make_rollouts")[-1]


async def refused(service: Service, skill: str = "detect", **request: Any) -> Any:
    finetune_id = await service.create()
    answer = await service.roll(finetune_id, request=make_request(skill, **request))
    assert service.engine.calls == []
    return answer


async def test_the_echo_is_the_whole_body(service: Service) -> None:
    finetune_id = await service.create()
    body = {"finetune_id": finetune_id.lower(), "request": make_request(), "org_id": "x"}
    answer = await service.post(ROLLOUTS, {**body, "ground_truth": None})
    assert answer.json()["request"] == {**body, "num_rollouts": 1}
    assert answer.json()["rewards"] is None
    assert answer.headers["x-ignored-fields"] == "org_id"


async def test_ground_truth_is_echoed_and_rewards_come_back(service: Service) -> None:
    finetune_id = await service.create()
    answer = await service.roll(finetune_id, num_rollouts=3, ground_truth={"boxes": [BOX]})
    assert answer.json()["request"]["ground_truth"] == {"boxes": [BOX]}
    assert len(answer.json()["rewards"]) == 3


async def test_a_rollout_has_every_documented_field(service: Service) -> None:
    finetune_id = await service.create()
    await service.train(finetune_id)
    rollout = (await service.roll(finetune_id)).json()["rollouts"][0]
    assert set(rollout) == {
        "skill", "finish_reason", "output", "answer_tokens", "thinking_tokens",
        "has_answer_separator", "coords", "sizes", "policy_step", "logprobs",
    }  # fmt: skip
    assert rollout["policy_step"] == 1
    assert rollout["skill"] == "detect"


async def test_the_request_reaches_the_engine_without_its_picture(service: Service) -> None:
    command = await command_for(service, object="  car ")
    assert command.request == DetectRequest(object="car", image=0)
    command = await command_for(
        service, "query", image_url=ABSENT, question=" Why? ", reasoning=True
    )
    assert command.request == QueryRequest(question="Why?", image=None, reasoning=True)


async def test_null_optional_fields_are_absent(service: Service) -> None:
    command = await command_for(
        service, "query", image_url=None, reasoning=None, spatial_refs=None, settings=None
    )
    assert command.request == QueryRequest(question="What is this?")


@pytest.mark.parametrize(
    ("skill", "sent", "expected"),
    [
        ("query", {}, (1.0, 1.0, 128, None)),
        ("query", {"temperature": 0, "top_p": 0.5, "max_tokens": 9}, (0.0, 0.5, 9, None)),
        ("query", {"max_tokens": 10**9}, (1.0, 1.0, 4096, None)),
        ("detect", {}, (1.0, 1.0, 256, 50)),
        ("detect", {"max_tokens": 32, "max_objects": 1}, (1.0, 1.0, 32, 1)),
        ("detect", {"max_tokens": 256}, (1.0, 1.0, 256, 50)),
        ("detect", {"max_tokens": 32}, (1.0, 1.0, 32, 10)),
        ("detect", {"max_objects": 80}, (1.0, 1.0, 256, 80)),
        ("detect", {"max_tokens": 2}, (1.0, 1.0, 2, 1)),
        ("point", {}, (1.0, 1.0, 128, 64)),
        ("point", {"max_tokens": 10}, (1.0, 1.0, 10, 5)),
        ("point", {"max_objects": 3}, (1.0, 1.0, 128, 3)),
        ("point", {"max_tokens": 1}, (1.0, 1.0, 1, 1)),
        ("point", {"max_tokens": None, "temperature": 1.0}, (1.0, 1.0, 128, 64)),
    ],
)
async def test_settings_get_their_defaults_and_caps(
    service: Service, skill: str, sent: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    settings = (await command_for(service, skill, settings=sent)).settings
    temperature, top_p, max_tokens, max_objects = expected
    assert settings.temperature == temperature
    assert settings.top_p == top_p
    assert settings.max_tokens == max_tokens
    if max_objects is not None:
        assert settings.max_objects == max_objects


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_objects": 0}, "max_objects"),
        ({"max_objects": "1"}, "max_objects"),
    ],
)
async def test_settings_out_of_range_are_refused(
    service: Service, settings: dict[str, Any], field: str
) -> None:
    answer = await refused(service, settings=settings)
    refusal(answer, 422, "validation_error")
    assert locs(answer) == [("body", "request", "settings", field)]


async def test_misspelt_settings_are_named_in_a_header(service: Service) -> None:
    finetune_id = await service.create()
    answer = await service.roll(
        finetune_id, request=make_request(settings={"max_token": 5, "a\r\nb": 1}), org_id="x"
    )
    names = answer.headers["x-ignored-fields"].split(", ")
    assert sorted(names) == ["org_id", "request.settings.a%0D%0Ab", "request.settings.max_token"]


@pytest.mark.parametrize("count", [0, 17, -1, 1.5, "4", True, [1]])
async def test_the_number_of_rollouts_is_1_to_16(service: Service, count: Any) -> None:
    answer = await service.roll(await service.create(), num_rollouts=count)
    refusal(answer, 422, "validation_error")
    assert locs(answer) == [("body", "num_rollouts")]


@pytest.mark.parametrize(("sent", "made"), [(None, 1), (16, 16), (4.0, 4)])
async def test_accepted_numbers_of_rollouts(service: Service, sent: Any, made: int) -> None:
    answer = await service.roll(await service.create(), num_rollouts=sent)
    assert len(answer.json()["rollouts"]) == made
    assert answer.json()["request"]["num_rollouts"] == made


@pytest.mark.parametrize("skill", ["caption", "segment", "x", "", None, 5, ["query"], ABSENT])
async def test_other_skills_are_unknown(service: Service, skill: Any) -> None:
    answer = await refused(service, skill=skill)
    refusal(answer, 422, "unknown_skill")
    assert locs(answer) == [("body", "request")]


@pytest.mark.parametrize(
    ("skill", "changes", "loc"),
    [
        ("query", {"question": ABSENT}, ("question",)),
        ("query", {"question": "   "}, ("question",)),
        ("query", {"question": None}, ("question",)),
        ("query", {"question": 5}, ("question",)),
        ("detect", {"object": ABSENT}, ("object",)),
        ("detect", {"object": ""}, ("object",)),
        ("detect", {"image_url": ABSENT}, ("image_url",)),
        ("detect", {"image_url": None}, ("image_url",)),
        ("point", {"image_url": ABSENT}, ("image_url",)),
        ("query", {"reasoning": "yes"}, ("reasoning",)),
        ("query", {"reasoning": 1}, ("reasoning",)),
        ("query", {"image_url": ABSENT, "spatial_refs": [[0.5, 0.5]]}, ("spatial_refs",)),
        ("query", {"spatial_refs": [[0.5]]}, ("spatial_refs", 0)),
        ("query", {"spatial_refs": [[0.1, 0.2, 0.3]]}, ("spatial_refs",)),
        ("query", {"spatial_refs": [[0.1, 0.2, 0.3, 0.4, 0.5]]}, ("spatial_refs", 0)),
        ("query", {"spatial_refs": [[0.1, 0.2]] * 65}, ("spatial_refs",)),
        ("query", {"spatial_refs": [[0.1, "0.2"]]}, ("spatial_refs", 0, 1)),
        ("point", {"spatial_refs": [[300, 200]]}, ("spatial_refs",)),
        ("point", {"spatial_refs": [[0.5, 0.5, 0.1, 0.6]]}, ("spatial_refs",)),
        ("detect", {"spatial_refs": [[0.5, 0.5]]}, ("spatial_refs",)),
    ],
)
async def test_faulty_requests_are_refused_where_they_are_faulty(
    service: Service, skill: str, changes: dict[str, Any], loc: tuple[str | int, ...]
) -> None:
    answer = await refused(service, skill, **changes)
    refusal(answer, 422, "validation_error")
    assert locs(answer) == [("body", "request", *loc)]


async def test_spatial_refs_are_clamped(service: Service) -> None:
    command = await command_for(service, "point", spatial_refs=[[-0.005, 1.01], [0, 0, 1, 1]])
    assert command.request.spatial_refs == ((0.0, 1.0), (0.0, 0.0, 1.0, 1.0))


@pytest.mark.parametrize("skill", ["point", "detect"])
async def test_reasoning_on_spatial_skills_is_refused_in_the_words_scripts_look_for(
    service: Service, skill: str
) -> None:
    answer = await refused(service, skill, reasoning=True)
    body = refusal(answer, 422, "validation_error")
    assert body["detail"][0]["type"] == "extra_forbidden"
    assert body["detail"][0]["loc"] == ["body", "request", "reasoning"]
    answer = await service.roll(
        await service.create(), request=make_request(skill, reasoning=False)
    )
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("url", "status", "code"),
    [
        ("https://example.com/cat.jpg", 422, "image_url_scheme"),
        ("http://example.com/cat.jpg", 422, "image_url_scheme"),
        ("data:image/png;base64,aGVsbG8=", 422, "image_decode_failed"),
    ],
)
async def test_pictures_that_cannot_be_used(
    service: Service, url: str, status: int, code: str
) -> None:
    answer = await refused(service, image_url=url)
    refusal(answer, status, code)
    assert locs(answer) == [("body", "request", "image_url")]


async def test_an_empty_picture_of_a_query_is_a_mistake_and_not_no_picture(
    service: Service,
) -> None:
    answer = await refused(service, "query", image_url="")
    refusal(answer, 422, "image_url_scheme")
    assert locs(answer) == [("body", "request", "image_url")]


async def test_pictures_that_are_too_large(serve: Serve) -> None:
    async with serve(max_image_pixels=10) as service:
        answer = await refused(service)
        assert refusal(answer, 413, "image_too_large")["error"]["param"] == "request.image_url"


async def test_ground_truth_reaches_the_engine_clamped(service: Service) -> None:
    finetune_id = await service.create()
    truth = {"points": [{"x": -0.01, "y": 1.005, "width": 3}], "boxes": None}
    await service.roll(finetune_id, "point", ground_truth=truth)
    command = service.engine.commands("make_rollouts")[-1]
    assert command.ground_truth == GroundTruth(points=(Point(x=0.0, y=1.0),))
    await service.roll(finetune_id, "point", ground_truth={**truth, "boxes": [BOX]})
    command = service.engine.commands("make_rollouts")[-1]
    assert command.ground_truth == GroundTruth(points=(Point(x=0.0, y=1.0),))
    await service.roll(finetune_id, "point", ground_truth={"boxes": []})
    assert service.engine.commands("make_rollouts")[-1].ground_truth == GroundTruth(boxes=())


@pytest.mark.parametrize(
    ("skill", "truth", "loc"),
    [
        ("query", {"answer": "x"}, ()),
        ("query", {}, ()),
        ("query", {"boxes": []}, ()),
        ("query", "rock", ()),
        ("query", ["rock"], ()),
        ("point", {}, ()),
        ("point", {"points": None, "boxes": None}, ()),
        ("detect", {"points": []}, ()),
        ("detect", {}, ()),
        ("detect", [], ()),
        ("detect", "car", ()),
        ("detect", {"boxes": [{**BOX, "x_max": 0.05}]}, ("boxes", 0)),
        ("detect", {"boxes": [{**BOX, "x_max": 640}]}, ("boxes", 0, "x_max")),
        ("detect", {"boxes": [{"x_min": 0.1}]}, ("boxes", 0, "y_min")),
        ("detect", {"boxes": [BOX] * 513}, ("boxes",)),
        ("point", {"points": [{"x": 0.5}]}, ("points", 0, "y")),
        ("point", {"points": [{"x": 0.5, "y": "0.5"}]}, ("points", 0, "y")),
    ],
)
async def test_ground_truth_that_does_not_fit_is_refused(
    service: Service, skill: str, truth: Any, loc: tuple[str | int, ...]
) -> None:
    answer = await service.roll(await service.create(), skill, ground_truth=truth)
    refusal(answer, 422, "validation_error")
    assert locs(answer)[0] == ("body", "ground_truth", *loc)
    assert "Body" not in answer.text, "the names of our classes help nobody"
    if skill == "query":
        assert "score the answers of query in your own code" in answer.json()["message"]


async def test_512_entries_of_ground_truth_are_allowed(service: Service) -> None:
    answer = await service.roll(await service.create(), ground_truth={"boxes": [BOX] * 512})
    assert answer.status_code == 200


async def test_a_finetune_of_another_base_model_is_refused(serve: Serve) -> None:
    async with serve() as first:
        finetune_id = await first.create()
        await first.train(finetune_id)
        await first.save(finetune_id)
    other = FakeEngine(dataclasses.replace(FAKE_MODEL, digest="e" * 64, name="large"))
    async with serve(other) as second:
        for answer in (
            await second.roll(finetune_id),
            await second.train(finetune_id),
            await second.post("/v1/query", {"question": "?", "model": f"{finetune_id}@1"}),
        ):
            refusal(answer, 409, "base_model_mismatch")
        assert other.calls == []
        assert (await second.save(finetune_id)).status_code == 200


async def test_a_skill_that_the_model_cannot_train_is_not_supported(serve: Serve) -> None:
    engine = FakeEngine(dataclasses.replace(FAKE_MODEL, tunable_skills=("query",)))
    async with serve(engine) as service:
        finetune_id = await service.create()
        refusal(await service.roll(finetune_id), 501, "not_supported")
        assert (await service.roll(finetune_id, "query")).status_code == 200


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (RequestRefused("Too long.", loc=("request", "question")), 422, "validation_error"),
        (RequestRefused("Too big.", code="batch_too_large"), 413, "batch_too_large"),
        (RequestRefused("Cannot.", code="not_supported"), 501, "not_supported"),
        (StorageFull("No space."), 507, "storage_full"),
        (StateDamaged("/secret/path is damaged."), 409, "state_damaged"),
        (EngineFailed("Oh no: /secret/path"), 500, "internal_error"),
        (RuntimeError("unforeseen: /secret/path"), 500, "internal_error"),
    ],
)
async def test_what_the_engine_cannot_do_becomes_a_refusal(
    service: Service, fault: Exception, status: int, code: str
) -> None:
    finetune_id = await service.create()
    service.engine.faults.append(fault)
    answer = await service.roll(finetune_id)
    body = refusal(answer, status, code)
    assert "secret" not in answer.text
    if status == 422:
        assert body["detail"][0]["loc"] == ["body", "request", "question"]
    assert (await service.roll(finetune_id)).status_code == 200


# --- seeds


async def seeds_of(service: Service, bodies: list[dict[str, Any]]) -> list[int]:
    finetune_id = await service.create("seeds")
    await asyncio.gather(*(service.roll(finetune_id, **body) for body in bodies))
    return [command.seed for command in service.engine.commands("make_rollouts")]


async def test_the_same_root_seed_gives_the_same_seeds_in_any_order(serve: Serve) -> None:
    one = {"num_rollouts": 2}
    other = {"num_rollouts": 3}
    async with serve() as service:
        first = await seeds_of(service, [one, other, one])
    async with serve() as service:
        second = await seeds_of(service, [one, one, other])
    assert sorted(first) == sorted(second)
    assert len(set(first)) == 3
    assert all(0 <= seed < 2**63 for seed in first)


async def test_another_root_seed_gives_other_seeds(serve: Serve) -> None:
    async with serve(seed=1) as service:
        first = await seeds_of(service, [{}])
    async with serve(seed=2) as service:
        second = await seeds_of(service, [{}])
    assert first != second


async def test_seeds_depend_on_the_picture_the_step_and_the_finetune(service: Service) -> None:
    finetune_id, other_id = await service.create("a"), await service.create("b")
    await service.roll(finetune_id)
    await service.roll(finetune_id, request=make_request(image_url=make_image_url((0, 0, 9))))
    await service.roll(other_id)
    await service.train(finetune_id)
    await service.roll(finetune_id)
    seeds = [command.seed for command in service.engine.commands("make_rollouts")]
    assert len(set(seeds)) == 4


async def test_equal_bodies_get_different_samples(service: Service) -> None:
    finetune_id = await service.create()
    first, second = await asyncio.gather(
        service.roll(finetune_id, "query"), service.roll(finetune_id, "query")
    )
    assert first.json()["rollouts"] != second.json()["rollouts"]


async def test_the_seed_of_the_adapter_is_fixed_at_creation(serve: Serve) -> None:
    async with serve(seed=1) as service:
        finetune_id, other_id = await service.create("a"), await service.create("b")
        await service.roll(finetune_id)
        await service.roll(other_id)
        first, other = (c.adapter.seed for c in service.engine.commands("make_rollouts"))
    async with serve(seed=2) as service:
        await service.roll(finetune_id)
        assert service.engine.commands("make_rollouts")[0].adapter.seed == first
    assert first != other


async def test_rollouts_use_the_newest_committed_weights(service: Service) -> None:
    finetune_id = await service.create()
    await service.roll(finetune_id)
    await service.train(finetune_id)
    await service.roll(finetune_id)
    fresh, trained = (c.adapter for c in service.engine.commands("make_rollouts"))
    assert (fresh.step, fresh.weights) == (0, None)
    assert trained.step == 1
    assert (
        trained.weights.digest == hashlib.sha256(f"weights after {fresh.seed}".encode()).hexdigest()
    )


async def test_rollouts_leave_no_trace(service: Service) -> None:
    finetune_id = await service.create()
    before = (await service.get(f"/v1/tuning/finetunes/{finetune_id}")).json()
    await service.roll(finetune_id)
    assert (await service.get(f"/v1/tuning/finetunes/{finetune_id}")).json() == before


async def test_answers_hold_no_nan(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    finetune_id = await service.create()
    make = service.engine.make_rollouts

    async def with_nan(*args: Any) -> Any:
        made = await make(*args)
        rollout = dataclasses.replace(made.rollouts[0], logprobs={"answer": [float("nan"), -1.0]})
        return dataclasses.replace(made, rollouts=(rollout,), rewards=(float("inf"),))

    monkeypatch.setattr(service.engine, "make_rollouts", with_nan)
    answer = await service.roll(finetune_id, ground_truth={"boxes": []})
    body = json.loads(answer.text, parse_constant=pytest.fail)
    assert body["rollouts"][0]["logprobs"] == {"answer": [None, -1.0]}
    assert body["rewards"] == [None]
