"""Answers of the adapters form of December 2025."""

from __future__ import annotations

from typing import Literal

from server.api.schemas.answers.shapes import ULID, Shape, like

_ADAPTER = {"adapter_id": ULID, "name": "cars", "rank": 8, "created_at": "2025-01-15T10:30:00Z"}
_NUMBERED = {"checkpoint_id": f"{ULID}/chk_001", "created_at": "2025-01-15T10:30:00Z"}


class AdapterCreated(Shape):
    model_config = like({"adapter_id": ULID})

    adapter_id: str


class AdapterItem(Shape):
    model_config = like(_ADAPTER)

    adapter_id: str
    name: str
    rank: Literal[8, 16, 24, 32]
    created_at: str


class AdapterPage(Shape):
    model_config = like({"adapters": [_ADAPTER], "next_cursor": None})

    adapters: list[AdapterItem]
    next_cursor: str | None


class NumberedItem(Shape):
    model_config = like(_NUMBERED)

    checkpoint_id: str
    created_at: str


class NumberedPage(Shape):
    model_config = like({"checkpoints": [_NUMBERED], "next_cursor": None})

    checkpoints: list[NumberedItem]
    next_cursor: str | None
