"""Answers about logged metrics."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from server.api.schemas.answers.shapes import WHEN, Count, Milliseconds, Page, Shape, like


class MetricsLogged(Shape):
    model_config = like({"ok": True, "step": 100, "logged_count": 2})

    ok: Literal[True]
    step: Count
    logged_count: Annotated[int, Field(ge=1, le=100)]


class MetricItem(Shape):
    step: Count
    name: str
    value: float
    logged_at_ms: Milliseconds


class MetricPage(Page):
    model_config = like(
        {
            "metrics": [{"step": 100, "name": "eval/f1", "value": 0.82, "logged_at_ms": WHEN}],
            "next_cursor": None,
            "has_more": False,
        }
    )

    metrics: list[MetricItem]
