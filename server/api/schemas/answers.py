"""What answers look like, for the OpenAPI document; tests hold real answers against these.

Routes build their JSON themselves (numbers that are not finite, stored bytes that are replayed);
nothing here runs while a call is answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonValue

Unit = Annotated[float, Field(ge=0, le=1)]
Bin = Annotated[int, Field(ge=0, le=1023)]
Count = Annotated[int, Field(ge=0)]
Milliseconds = Annotated[int, Field(ge=0, description="Since 1970, in milliseconds.")]

ULID = "01JZ3V6T8Q5W1N2X4C7B9M0KHD"
WHEN = 1736937000000


def _like(example: dict[str, Any], extra: Literal["forbid", "allow"] = "forbid") -> ConfigDict:
    return ConfigDict(extra=extra, json_schema_extra={"examples": [cast("JsonValue", example)]})


class Shape(BaseModel):
    """An object with these fields and no others."""

    model_config = ConfigDict(extra="forbid")


class Page(Shape):
    """The end of every list."""

    next_cursor: str | None
    has_more: bool


class Done(Shape):
    model_config = _like({"ok": True})

    ok: Literal[True]


# --- finetunes


class FinetuneCreated(Shape):
    model_config = _like({"finetune_id": ULID})

    finetune_id: str


class FinetuneItem(Shape):
    finetune_id: str
    name: str
    rank: Literal[8, 16, 24, 32]
    created_at_ms: Milliseconds
    updated_at_ms: Milliseconds


class FinetuneDetails(FinetuneItem):
    step: Count
    base_model: str | None
    origin: str | None = None


_ITEM = {
    "finetune_id": ULID,
    "name": "cars",
    "rank": 8,
    "created_at_ms": WHEN,
    "updated_at_ms": WHEN,
}


class FinetuneFound(Shape):
    model_config = _like({"finetune": {**_ITEM, "step": 12, "base_model": "moondream3-preview"}})

    finetune: FinetuneDetails


class FinetunePage(Page):
    model_config = _like({"finetunes": [_ITEM], "next_cursor": None, "has_more": False})

    finetunes: list[FinetuneItem]


# --- checkpoints

_CHECKPOINT = {
    "checkpoint_id": ULID,
    "finetune_id": ULID,
    "step": 100,
    "created_at_ms": WHEN,
    "updated_at_ms": WHEN,
}


class CheckpointItem(Shape):
    checkpoint_id: str
    finetune_id: str
    step: Annotated[int, Field(ge=1)]
    created_at_ms: Milliseconds
    updated_at_ms: Milliseconds


class CheckpointSaved(Shape):
    model_config = _like({"ok": True, "checkpoint": _CHECKPOINT})

    ok: Literal[True]
    checkpoint: CheckpointItem


class CheckpointPage(Page):
    model_config = _like({"checkpoints": [_CHECKPOINT], "next_cursor": None, "has_more": False})

    checkpoints: list[CheckpointItem]


class DownloadLink(Shape):
    model_config = _like({"url": "http://127.0.0.1:2020/v1/files/eyJ...", "expires_in": 3600})

    url: str
    expires_in: Annotated[int, Field(ge=1, description="Seconds.")]


# --- metrics


class MetricsLogged(Shape):
    model_config = _like({"ok": True, "step": 100, "logged_count": 2})

    ok: Literal[True]
    step: Count
    logged_count: Annotated[int, Field(ge=1, le=100)]


class MetricItem(Shape):
    step: Count
    name: str
    value: float
    logged_at_ms: Milliseconds


class MetricPage(Page):
    model_config = _like(
        {
            "metrics": [{"step": 100, "name": "eval/f1", "value": 0.82, "logged_at_ms": WHEN}],
            "next_cursor": None,
            "has_more": False,
        }
    )

    metrics: list[MetricItem]


# --- geometry and skills


class PointShape(Shape):
    x: Unit
    y: Unit


class BoxShape(Shape):
    x_min: Unit
    y_min: Unit
    x_max: Unit
    y_max: Unit


class GroundingShape(Shape):
    start_idx: Count
    end_idx: Count
    points: list[list[Unit]]


class ReasoningShape(Shape):
    text: str
    grounding: list[GroundingShape]


class QueryOutput(Shape):
    answer: str
    reasoning: ReasoningShape | None = None


class PointOutput(Shape):
    points: list[PointShape]


class DetectOutput(Shape):
    objects: list[BoxShape]


class BoxesOutput(Shape):
    """Of detect in the form of December 2025."""

    boxes: list[BoxShape]


# --- rollouts


class RolloutShape(Shape):
    skill: Literal["query", "point", "detect"]
    finish_reason: Literal["stop", "length"]
    output: QueryOutput | PointOutput | DetectOutput | BoxesOutput
    answer_tokens: list[Count]
    thinking_tokens: list[Count]
    has_answer_separator: bool
    coords: list[Bin]
    sizes: list[Annotated[list[Bin], Field(min_length=2, max_length=2)]]
    policy_step: Count
    logprobs: dict[str, Any]


class RolloutsAnswer(Shape):
    model_config = _like(
        {
            "request": {
                "finetune_id": ULID,
                "num_rollouts": 1,
                "request": {
                    "skill": "detect",
                    "object": "car",
                    "image_url": "data:image/jpeg;base64,...",
                },
            },
            "rollouts": [
                {
                    "skill": "detect",
                    "finish_reason": "stop",
                    "output": {
                        "objects": [
                            {
                                "x_min": 0.1199,
                                "y_min": 0.2201,
                                "x_max": 0.3904,
                                "y_max": 0.5795,
                            }
                        ]
                    },
                    "answer_tokens": [5, 5, 6],
                    "thinking_tokens": [],
                    "has_answer_separator": False,
                    "coords": [261, 409],
                    "sizes": [[830, 872]],
                    "policy_step": 12,
                    "logprobs": {"v": 1},
                }
            ],
            "rewards": None,
        }
    )

    request: Annotated[dict[str, Any], Field(description="The body as it came.")]
    rollouts: Annotated[list[RolloutShape], Field(min_length=1)]
    rewards: list[Unit | None] | None


# --- train steps


class TrainStepAnswer(BaseModel):
    """The eight fields that are always there; more may follow."""

    model_config = _like(
        {
            "step": 12,
            "applied": True,
            "kl": 0.031,
            "router_kl": 0.004,
            "grad_norm": 1.42,
            "reward_mean": 0.75,
            "reward_std": 0.18,
            "sft_loss": None,
            "lr": 2e-4,
            "duration_ms": 812,
            "warnings": [],
        },
        extra="allow",
    )

    step: Annotated[int, Field(ge=1)]
    applied: bool
    kl: Annotated[float, Field(ge=0)] | None
    router_kl: Annotated[float, Field(ge=0)] | None
    grad_norm: Annotated[float, Field(ge=0)] | None
    reward_mean: float | None
    reward_std: Annotated[float, Field(ge=0)] | None
    sft_loss: float | None
    skip_reason: Literal["no_signal", "non_finite", "zero_lr"] | None = None


# --- inference


class AnswerMetrics(Shape):
    input_tokens: Count
    output_tokens: Count
    prefill_time_ms: Annotated[float, Field(ge=0)]
    decode_time_ms: Annotated[float, Field(ge=0)]
    ttft_ms: Annotated[float, Field(ge=0)]


class _Answer(Shape):
    request_id: str
    finish_reason: Literal["stop", "length"]
    metrics: AnswerMetrics


_COST = {
    "request_id": ULID,
    "finish_reason": "stop",
    "metrics": {
        "input_tokens": 740,
        "output_tokens": 2,
        "prefill_time_ms": 18.5,
        "decode_time_ms": 9.1,
        "ttft_ms": 19.0,
    },
}


class QueryAnswer(_Answer):
    model_config = _like({"answer": "Three.", **_COST})

    answer: str
    reasoning: ReasoningShape | None = None


class CaptionAnswer(_Answer):
    model_config = _like({"caption": "A street.", **_COST})

    caption: str


class PointAnswer(_Answer):
    model_config = _like({"points": [{"x": 0.5, "y": 0.25}], **_COST})

    points: list[PointShape]


class DetectAnswer(_Answer):
    model_config = _like(
        {
            "objects": [{"x_min": 0.1, "y_min": 0.2, "x_max": 0.4, "y_max": 0.6}],
            **_COST,
        }
    )

    objects: list[BoxShape]


class SegmentAnswer(_Answer):
    model_config = _like(
        {
            "path": "M 0 0.76 L 1 0.5 z",
            "bbox": {"x_min": 0.1, "y_min": 0.2, "x_max": 0.4, "y_max": 0.6},
            **_COST,
        }
    )

    path: Annotated[str, Field(description="SVG, in coordinates relative to `bbox`.")]
    bbox: BoxShape | None


# --- chat and models


class ChatMessage(Shape):
    role: Literal["assistant"]
    content: str
    reasoning: str | None = None
    reasoning_details: dict[str, Any] | None = None


class ChatChoice(Shape):
    index: Literal[0]
    message: ChatMessage
    finish_reason: Literal["stop", "length"]


class ChatUsage(Shape):
    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count


class ChatCompletion(Shape):
    model_config = _like(
        {
            "id": f"chatcmpl-{ULID}",
            "object": "chat.completion",
            "created": WHEN // 1000,
            "model": "moondream3-preview",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "3"},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 740, "completion_tokens": 2, "total_tokens": 742},
        }
    )

    id: str
    object: Literal["chat.completion"]
    created: Count
    model: str
    choices: Annotated[list[ChatChoice], Field(min_length=1, max_length=1)]
    usage: ChatUsage


_MODEL = {
    "id": f"moondream3-preview/{ULID}@100",
    "object": "model",
    "created": WHEN // 1000,
    "owned_by": "default",
}


class ModelItem(Shape):
    model_config = _like(_MODEL)

    id: str
    object: Literal["model"]
    created: Count
    owned_by: str


class ModelList(Shape):
    model_config = _like({"object": "list", "data": [_MODEL]})

    object: Literal["list"]
    data: list[ModelItem]


# --- adapters

_ADAPTER = {"adapter_id": ULID, "name": "cars", "rank": 8, "created_at": "2025-01-15T10:30:00Z"}
_NUMBERED = {"checkpoint_id": f"{ULID}/chk_001", "created_at": "2025-01-15T10:30:00Z"}


class Nothing(Shape):
    model_config = _like({})


class AdapterCreated(Shape):
    model_config = _like({"adapter_id": ULID})

    adapter_id: str


class AdapterItem(Shape):
    model_config = _like(_ADAPTER)

    adapter_id: str
    name: str
    rank: Literal[8, 16, 24, 32]
    created_at: str


class AdapterPage(Shape):
    model_config = _like({"adapters": [_ADAPTER], "next_cursor": None})

    adapters: list[AdapterItem]
    next_cursor: str | None


class NumberedItem(Shape):
    model_config = _like(_NUMBERED)

    checkpoint_id: str
    created_at: str


class NumberedPage(Shape):
    model_config = _like({"checkpoints": [_NUMBERED], "next_cursor": None})

    checkpoints: list[NumberedItem]
    next_cursor: str | None


# --- batches

_BATCH = {
    "id": ULID,
    "status": "completed",
    "model": "moondream3-preview",
    "progress": {"total": 2, "completed": 1, "failed": 1},
    "created_at": "2025-01-15T10:30:00Z",
    "usage": {"input_tokens": 1480, "output_tokens": 4},
    "outputs": [{"index": 0, "url": "http://127.0.0.1:2020/v1/files/eyJ..."}],
    "completed_at": "2025-01-15T10:31:00Z",
    "expires_at": "2025-01-22T10:31:00Z",
}


class UploadBegun(Shape):
    model_config = _like(
        {"fileId": ULID, "uploadId": ULID, "key": f"requests/default/{ULID}.jsonl"}
    )

    fileId: str  # noqa: N815 -- their names on the wire
    uploadId: str  # noqa: N815
    key: str


class PartKept(Shape):
    model_config = _like({"etag": "9f86d081...", "partNumber": 1})

    etag: str
    partNumber: Annotated[int, Field(ge=1, le=10_000)]  # noqa: N815


BatchStatus = Literal["chunking", "processing", "completed", "failed"]


class BatchBegun(Shape):
    model_config = _like({"id": ULID, "status": "chunking", "size": 2048})

    id: str
    status: BatchStatus
    size: Count


class BatchProgress(Shape):
    total: Count
    completed: Count
    failed: Count


class BatchUsage(Shape):
    input_tokens: Count
    output_tokens: Count


class BatchOutput(Shape):
    index: Count
    url: str


class BatchError(Shape):
    code: Literal[
        "invalid_model",
        "validation_error",
        "limit_exceeded",
        "empty_batch",
        "processing_failed",
        "timeout",
    ]
    message: str


class BatchItem(Shape):
    model_config = _like(_BATCH)

    id: str
    status: BatchStatus
    model: str
    progress: BatchProgress
    created_at: str
    usage: BatchUsage | None = None
    outputs: list[BatchOutput] | None = None
    completed_at: str | None = None
    expires_at: str | None = None
    error: BatchError | None = None


class BatchPage(Page):
    model_config = _like({"batches": [_BATCH], "next_cursor": None, "has_more": False})

    batches: list[BatchItem]


# --- usage and refusals

_USED = {
    "requests": 12,
    "images": 8,
    "prompt_tokens": 5920,
    "generated_tokens": 310,
    "training_tokens": 1240,
    "steps": 4,
    "compute_seconds": 9.3,
    "stored_bytes": 2097152,
}


class UsageItem(Shape):
    start_at_ms: Milliseconds | None = None
    finetune_id: str | None = None
    key_id: str | None = None
    requests: Count
    images: Count
    prompt_tokens: Count
    generated_tokens: Count
    training_tokens: Count
    steps: Count
    compute_seconds: Annotated[float, Field(ge=0)]
    stored_bytes: Count | None


class UsagePage(Page):
    model_config = _like(
        {"usage": [{"start_at_ms": WHEN, **_USED}], "next_cursor": None, "has_more": False}
    )

    usage: list[UsageItem]


class RefusalItem(Shape):
    at_ms: Milliseconds
    request_id: str
    method: str
    path: str
    status: Annotated[int, Field(ge=400, le=599)]
    code: str
    message: str
    finetune_id: str | None = None


class RefusalPage(Page):
    model_config = _like(
        {
            "refusals": [
                {
                    "at_ms": WHEN,
                    "request_id": ULID,
                    "method": "POST",
                    "path": "/v1/tuning/train_step",
                    "status": 422,
                    "code": "validation_error",
                    "message": "lr: Input should be less than or equal to 1.",
                    "finetune_id": ULID,
                }
            ],
            "next_cursor": None,
            "has_more": False,
        }
    )

    refusals: list[RefusalItem]


# --- health


class Alive(Shape):
    model_config = _like({"status": "ok"})

    status: Literal["ok"]


class Ready(Shape):
    model_config = _like({"status": "ready", "model": "tiny"})

    status: Literal["ready"]
    model: str | None


def answer_examples() -> Iterator[tuple[str, Any]]:
    """The name and the example of every answer that has one."""
    for name, shape in globals().items():
        if isinstance(shape, type) and issubclass(shape, BaseModel):
            extra = shape.model_config.get("json_schema_extra")
            if isinstance(extra, dict):
                yield name, cast("dict[str, Any]", extra)["examples"][0]
