"""Answers about saved checkpoints."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from server.api.schemas.answers.shapes import ULID, WHEN, Milliseconds, Page, Shape, like

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
    model_config = like({"ok": True, "checkpoint": _CHECKPOINT})

    ok: Literal[True]
    checkpoint: CheckpointItem


class CheckpointPage(Page):
    model_config = like({"checkpoints": [_CHECKPOINT], "next_cursor": None, "has_more": False})

    checkpoints: list[CheckpointItem]


class DownloadLink(Shape):
    model_config = like({"url": "http://127.0.0.1:2020/v1/files/eyJ...", "expires_in": 3600})

    url: str
    expires_in: Annotated[int, Field(ge=1, description="Seconds.")]
