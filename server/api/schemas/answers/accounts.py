"""Answers about usage and refusals."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from server.api.schemas.answers.shapes import ULID, WHEN, Count, Milliseconds, Page, Shape, like

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
    model_config = like(
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
    model_config = like(
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
