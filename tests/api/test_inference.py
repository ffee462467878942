"""Query, caption, point, detect and segment; http-api.md 13.1 and 13.2."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from contract.errors import RequestRefused
from contract.skills import CaptionRequest, PointRequest, QueryRequest, SegmentRequest
from tests.api.conftest import Serve
from tests.factories import ABSENT, make_image_url
from tests.fakes import FAKE_MODEL, FakeEngine
from tests.service import Service, locs, refusal

ONE_DATABASE_IS_ENOUGH = True  # Of answers nothing is stored.

pytestmark = pytest.mark.anyio

SKILLS = ("query", "caption", "point", "detect")


def body_of(skill: str, **changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"image_url": make_image_url()}
    if skill == "query":
        body["question"] = "What?"
    elif skill in ("point", "detect", "segment"):
        body["object"] = "car"
    return {key: value for key, value in {**body, **changes}.items() if value is not ABSENT}


async def ask(service: Service, skill: str, **changes: Any) -> Any:
    return await service.post(f"/v1/{skill}", body_of(skill, **changes))


async def saved_model(service: Service) -> str:
    finetune_id = await service.create()
    await service.train(finetune_id)
    await service.save(finetune_id)
    return f"moondream3-preview/{finetune_id}@1"


@pytest.mark.parametrize(
    ("skill", "key"),
    [("query", "answer"), ("caption", "caption"), ("point", "points"), ("detect", "objects")],
)
async def test_every_skill_answers(service: Service, skill: str, key: str) -> None:
    answer = await ask(service, skill)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {key, "request_id", "finish_reason", "metrics"}
    assert answer.json()["metrics"] == {
        "input_tokens": 740,
        "output_tokens": 3,
        "prefill_time_ms": 1.0,
        "decode_time_ms": 2.0,
        "ttft_ms": 1.5,
    }
    assert service.engine.commands("answer")[0].adapter is None


async def test_reasoning_is_answered_if_asked_for(service: Service) -> None:
    answer = await ask(service, "query", reasoning=True)
    assert answer.json()["reasoning"] == {"text": "because", "grounding": []}


async def test_requests_reach_the_engine(service: Service) -> None:
    await ask(service, "query", image_url=ABSENT, question=" Why? ")
    await ask(service, "caption", length="long")
    await ask(service, "caption", length=None)
    await ask(service, "point", spatial_refs=[[0.5, 0.5]])
    requests = [command.request for command in service.engine.commands("answer")]
    assert requests == [
        QueryRequest(question="Why?"),
        CaptionRequest(image=0, length="long"),
        CaptionRequest(image=0, length="normal"),
        PointRequest(object="car", image=0, spatial_refs=((0.5, 0.5),)),
    ]


@pytest.mark.parametrize(
    ("skill", "settings", "expected"),
    [
        ("query", None, (0.2, 0.9, 768)),
        ("caption", {}, (0.2, 0.9, 768)),
        ("point", {}, (0.0, 1.0, 768)),
        ("detect", {}, (0.0, 1.0, 768)),
        ("query", {"temperature": 1, "top_p": 1, "max_tokens": 9999}, (1.0, 1.0, 4096)),
    ],
)
async def test_defaults_are_those_of_inference(
    service: Service, skill: str, settings: Any, expected: tuple[float, float, int]
) -> None:
    await ask(service, skill, settings=settings)
    used = service.engine.commands("answer")[0].settings
    assert (used.temperature, used.top_p, used.max_tokens) == expected
    if skill in ("point", "detect"):
        assert used.max_objects == {"point": 384, "detect": 50}[skill]


@pytest.mark.parametrize(
    "model",
    [ABSENT, None, "", "moondream3-preview", "moondream/moondream3-preview", "tiny",
     "moondream/tiny", "my-alias"],
)  # fmt: skip
async def test_names_of_the_base_model(serve: Serve, model: Any) -> None:
    async with serve(model_aliases=("my-alias",)) as service:
        answer = await ask(service, "query", model=model)
        assert answer.status_code == 200, answer.text
        assert service.engine.commands("answer")[0].adapter is None


async def test_names_of_a_saved_checkpoint(service: Service) -> None:
    model = await saved_model(service)
    bare = model.partition("/")[2]
    for name in (model, bare, bare.lower(), f"moondream/any/{bare}"):
        for skill in SKILLS:
            answer = await ask(service, skill, model=name)
            assert answer.status_code == 200, answer.text
    adapter = service.engine.commands("answer")[0].adapter
    assert adapter.step == 1
    assert all(command.adapter == adapter for command in service.engine.commands("answer"))


@pytest.mark.parametrize("model", ["gpt", "moondream3-preview/", "x@1", "/", "@", "moondream/"])
async def test_other_names_are_no_models(service: Service, model: str) -> None:
    refusal(await ask(service, "query", model=model), 404, "model_not_found")


async def test_unsaved_steps_name_those_that_are_saved(service: Service) -> None:
    model = (await saved_model(service)).partition("@")[0]
    for step in (0, 2, 999999):
        body = refusal(
            await ask(service, "detect", model=f"{model}@{step}"), 404, "checkpoint_not_found"
        )
        assert body["message"].startswith("Checkpoint not found")
        assert "saved steps near it: 1" in body["message"]
    unknown = "moondream3-preview/01JZZZZZZZZZZZZZZZZZZZZZZZ@1"
    refusal(await ask(service, "query", model=unknown), 404, "finetune_not_found")


async def test_a_saved_checkpoint_is_served_long_after_training_went_on(service: Service) -> None:
    model = await saved_model(service)
    await ask(service, "query", model=model)
    finetune_id = model.partition("/")[2].partition("@")[0]
    for _ in range(4):
        await service.train(finetune_id)
    await service.settled()
    await ask(service, "query", model=model)  # the fake checks that the file is there
    before, after = service.engine.commands("answer")
    assert before.adapter == after.adapter


@pytest.mark.parametrize(
    ("skill", "changes", "loc"),
    [
        ("query", {"question": ABSENT}, ("question",)),
        ("query", {"question": " "}, ("question",)),
        ("query", {"image_url": ABSENT, "spatial_refs": [[0.5, 0.5]]}, ("spatial_refs",)),
        ("query", {"reasoning": "x"}, ("reasoning",)),
        ("query", {"stream": "x"}, ("stream",)),
        ("query", {"model": 5}, ("model",)),
        ("query", {"settings": {"top_p": 2}}, ("settings", "top_p")),
        ("caption", {"image_url": ABSENT}, ("image_url",)),
        ("caption", {"length": "tiny"}, ("length",)),
        ("point", {"object": ABSENT}, ("object",)),
        ("point", {"image_url": None}, ("image_url",)),
        ("detect", {"object": ""}, ("object",)),
    ],
)
async def test_validation_failures_are_400_here(
    service: Service, skill: str, changes: dict[str, Any], loc: tuple[str, ...]
) -> None:
    answer = await ask(service, skill, **changes)
    refusal(answer, 400, "validation_error")
    assert locs(answer) == [("body", *loc)]
    assert service.engine.calls == []


@pytest.mark.parametrize("skill", SKILLS)
async def test_pictures_that_cannot_be_used(service: Service, skill: str) -> None:
    by_url = await ask(service, skill, image_url="https://example.com/a.png")
    refusal(by_url, 422, "image_url_scheme")
    damaged = await ask(service, skill, image_url="data:image/png;base64,aGVsbG8=")
    refusal(damaged, 400, "image_decode_failed")
    assert locs(damaged) == [("body", "image_url")]


async def test_pictures_that_are_too_large(serve: Serve) -> None:
    async with serve(max_image_pixels=10) as service:
        refusal(await ask(service, "caption"), 413, "image_too_large")


@pytest.mark.parametrize("skill", ["point", "detect"])
@pytest.mark.parametrize("stream", [True, "x", None])
async def test_streaming_is_ignored_where_nothing_streams(
    service: Service, skill: str, stream: Any
) -> None:
    assert (await ask(service, skill, stream=stream)).status_code == 200


async def test_variant_and_a_stray_skill_are_ignored(service: Service) -> None:
    body = {**body_of("detect"), "variant": "x", "skill": "query", "reasoning": True}
    answer = await service.post("/v1/detect", body)
    assert answer.status_code == 200
    assert answer.headers["x-ignored-fields"] == "variant, skill, reasoning"


async def test_segment_is_answered_by_a_path_and_its_box(service: Service) -> None:
    refs = [[0.25, 0.5]]
    answer = (await ask(service, "segment", spatial_refs=refs)).json()
    assert answer["path"].startswith("M ")
    assert set(answer["bbox"]) == {"x_min", "y_min", "x_max", "y_max"}
    (command,) = service.engine.commands("answer")
    assert command.request == SegmentRequest(object="car", image=0, spatial_refs=((0.25, 0.5),))
    settings = command.settings
    assert (settings.temperature, settings.top_p, settings.max_tokens) == (0.0, 1.0, 768)


async def test_a_model_without_segmentation(serve: Serve) -> None:
    skills = tuple(skill for skill in FAKE_MODEL.skills if skill != "segment")
    async with serve(FakeEngine(dataclasses.replace(FAKE_MODEL, skills=skills))) as service:
        refusal(await ask(service, "segment"), 501, "not_supported")


async def test_a_skill_that_the_model_lacks_is_not_supported(serve: Serve) -> None:
    async with serve(FakeEngine(dataclasses.replace(FAKE_MODEL, skills=("query",)))) as service:
        refusal(await ask(service, "caption"), 501, "not_supported")
        assert (await ask(service, "query")).status_code == 200


async def test_what_the_engine_refuses_is_400_too(service: Service) -> None:
    service.engine.faults.append(RequestRefused("Too long.", loc=("question",)))
    answer = await ask(service, "query")
    refusal(answer, 400, "validation_error")
    assert locs(answer) == [("body", "question")]


async def test_equal_questions_get_different_seeds(service: Service) -> None:
    for _ in range(2):
        await ask(service, "query")
    first, second = (command.seed for command in service.engine.commands("answer"))
    assert first != second
