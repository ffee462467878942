"""Answers about the service itself."""

from __future__ import annotations

from typing import Literal

from server.api.schemas.answers.shapes import Shape, like


class Alive(Shape):
    model_config = like({"status": "ok"})

    status: Literal["ok"]


class Ready(Shape):
    model_config = like({"status": "ready", "model": "tiny"})

    status: Literal["ready"]
    model: str | None
