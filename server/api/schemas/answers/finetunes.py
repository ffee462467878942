"""Answers about finetunes."""

from __future__ import annotations

from typing import Literal

from server.api.schemas.answers.shapes import ULID, WHEN, Count, Milliseconds, Page, Shape, like


class FinetuneCreated(Shape):
    model_config = like({"finetune_id": ULID})

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
    model_config = like({"finetune": {**_ITEM, "step": 12, "base_model": "moondream3-preview"}})

    finetune: FinetuneDetails


class FinetunePage(Page):
    model_config = like({"finetunes": [_ITEM], "next_cursor": None, "has_more": False})

    finetunes: list[FinetuneItem]
