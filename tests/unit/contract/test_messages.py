"""Calls, results and errors arrive as the values that were sent."""

from __future__ import annotations

from typing import Any

import pytest

from contract.codec import from_plain, to_plain
from contract.engine import (
    AdapterRef,
    Answer,
    Answered,
    ExportCheckpoint,
    ExportedFile,
    FileRef,
    MakeRollouts,
    RolloutsMade,
    SkipReason,
    StepTrained,
    TrainStep,
)
from contract.errors import EngineError, EngineFailed, RequestRefused, StateDamaged, StorageFull
from contract.framing import PREFIX, Message, decode, encode
from contract.groups import RLGroup, SFTGroup, TrainOptions
from contract.messages import call_message, error_to_plain, read_call, read_result
from contract.skills import (
    Box,
    CaptionRequest,
    DetectRequest,
    DetectTarget,
    FinishReason,
    Grounding,
    GroundTruth,
    Pixels,
    Point,
    PointRequest,
    PointTarget,
    QueryRequest,
    QueryTarget,
    Reasoning,
    ReturnedRollout,
    Rollout,
    Settings,
    Skill,
)

FILE = FileRef(path="/data/w", digest="a" * 64, num_bytes=7)
ADAPTER = AdapterRef(finetune_id="0" * 26, step=3, rank=8, seed=2**64 - 1, weights=FILE)
SETTINGS = Settings(temperature=0.5)
BOX = Box(x_min=0.1, y_min=0.2, x_max=0.3, y_max=0.4)
PICTURES = [
    Pixels(height=1, width=2, digest="b" * 64, data=b"abcdef"),
    Pixels(height=1, width=1, digest="c" * 64, data=b"xyz"),
]
GROUPS = (
    RLGroup(
        request=DetectRequest(object="car", image=0),
        rollouts=(
            ReturnedRollout(),
            ReturnedRollout(
                skill=Skill.DETECT,
                finish_reason=FinishReason.STOP,
                output={"objects": [{"x_min": 0}]},
                answer_tokens=(5, 5, 6),
                thinking_tokens=(),
                has_answer_separator=False,
                coords=(1, 2),
                sizes=((3, 4),),
                policy_step=3,
                logprobs={"v": 1, "answer": [-0.5, None]},
            ),
        ),
        rewards=(0.0, 1.0),
    ),
    SFTGroup(
        request=QueryRequest(question="?", image=1, reasoning=True, spatial_refs=((0.1, 0.2),)),
        targets=(
            QueryTarget(
                answer="yes",
                reasoning=Reasoning(
                    text="so", grounding=(Grounding(start_idx=0, end_idx=2, points=((0.5, 0.5),)),)
                ),
            ),
        ),
    ),
    SFTGroup(
        request=PointRequest(object="x", image=1),
        targets=(PointTarget(points=(Point(x=0.0, y=1.0),)), PointTarget(boxes=(BOX,))),
    ),
    SFTGroup(request=DetectRequest(object="x", image=1), targets=(DetectTarget(boxes=()),)),
)
COMMANDS: dict[str, Any] = {
    "make_rollouts": MakeRollouts(
        adapter=ADAPTER,
        request=PointRequest(object="car", image=0, spatial_refs=((0.0, 0.0, 1.0, 1.0),)),
        settings=SETTINGS,
        num_rollouts=4,
        seed=9,
        ground_truth=GroundTruth(boxes=(BOX,)),
    ),
    "train_step": TrainStep(
        adapter=ADAPTER,
        optimizer=None,
        groups=GROUPS,
        lr=1e-3,
        options=TrainOptions(beta=0.1, advantage_scale="none"),
        weights_path="/data/w2",
        optimizer_path="/data/o2",
    ),
    "answer": Answer(adapter=None, request=CaptionRequest(image=0), settings=SETTINGS, seed=1),
    "export_checkpoint": ExportCheckpoint(adapter=ADAPTER, path="/data/a.pt"),
    "drop": "0" * 26,
}
RESULTS: dict[str, Any] = {
    "make_rollouts": RolloutsMade(
        rollouts=(
            Rollout(
                skill=Skill.QUERY,
                finish_reason=FinishReason.LENGTH,
                output={"answer": "ü"},
                answer_tokens=(1, 2),
                thinking_tokens=(),
                has_answer_separator=True,
                coords=(),
                sizes=(),
                policy_step=0,
                logprobs={"stop": None},
            ),
        ),
        rewards=None,
    ),
    "train_step": StepTrained(
        applied=False,
        skip_reason=SkipReason.NON_FINITE,
        kl=None,
        router_kl=0.25,
        grad_norm=1,  # an integral float may travel as an integer
        reward_mean=None,
        reward_std=None,
        sft_loss=None,
        extra={"num_tokens": 5},
        weights=FILE,
        optimizer=None,
    ),
    "answer": Answered(
        output={"objects": []},
        finish_reason=FinishReason.STOP,
        input_tokens=1,
        output_tokens=2,
        prefill_time_ms=0.5,
        decode_time_ms=1.5,
        ttft_ms=2.5,
    ),
    "export_checkpoint": ExportedFile(
        file=FileRef(path="/data/a.pt", digest="0" * 64, num_bytes=9), manifest={"rank": 8}
    ),
    "drop": None,
}


def over_the_wire(message: Message) -> Message:
    data = b"".join(encode(message))
    header_length, _ = PREFIX.unpack(data[: PREFIX.size])
    rest = data[PREFIX.size :]
    return decode(rest[:header_length], rest[header_length:])


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_call_arrives_with_its_command_and_its_pictures(verb: str) -> None:
    message = over_the_wire(call_message(17, verb, COMMANDS[verb], PICTURES))
    assert read_call(message) == (17, verb, COMMANDS[verb], PICTURES)


@pytest.mark.parametrize("verb", RESULTS)
def test_a_result_arrives_typed(verb: str) -> None:
    header = {"kind": "result", "id": 1, "epoch": 1, "result": to_plain(RESULTS[verb])}
    assert read_result(verb, over_the_wire(Message(header=header))) == RESULTS[verb]


@pytest.mark.parametrize(
    "error",
    [
        RequestRefused("Too much.", code="batch_too_large", loc=("groups", 3)),
        StorageFull("No space.", needed_bytes=300, free_bytes=20),
        EngineFailed("A fault."),
        StateDamaged("A file is gone."),
        EngineError("Something else, which counts as a fault."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_arrives_as_itself(error: EngineError) -> None:
    header = {"kind": "error", "id": 1, "epoch": 1, "error": error_to_plain(error)}
    with pytest.raises(EngineError) as caught:
        read_result("answer", over_the_wire(Message(header=header)))
    assert type(caught.value) is (EngineFailed if type(error) is EngineError else type(error))
    assert str(caught.value) == str(error)
    if isinstance(error, RequestRefused):
        assert vars(caught.value) == vars(error)


@pytest.mark.parametrize(
    ("cls", "value"),
    [
        (FileRef, []),
        (FileRef, {"path": 1, "digest": "a", "num_bytes": 1}),
        (FileRef, {"path": "p", "digest": "a"}),
        (TrainOptions, {"advantage_scale": "sideways"}),
        (SFTGroup, {"request": {"skill": "fly", "object": "x", "image": 0}, "targets": []}),
    ],
)
def test_a_value_of_another_shape_is_a_type_error(cls: type, value: Any) -> None:
    with pytest.raises(TypeError):
        from_plain(cls, value)


def test_absent_fields_take_their_defaults() -> None:
    assert from_plain(Settings, {"temperature": 1}) == Settings(temperature=1.0)
