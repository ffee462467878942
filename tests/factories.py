"""Valid things with one changed fact."""

from __future__ import annotations

import base64
import functools
import io
from typing import Any

from PIL import Image


@functools.cache
def make_image_url(
    color: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (8, 6)
) -> str:
    """A data URL of a picture in one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def make_request(skill: str = "detect", **changes: Any) -> dict[str, Any]:
    """A skill request."""
    request: dict[str, Any] = {"skill": skill, "image_url": make_image_url()}
    if skill == "query":
        request["question"] = "What is this?"
    elif skill != "caption":
        request["object"] = "car"
    return _changed(request, changes)


def make_rollout(**changes: Any) -> dict[str, Any]:
    """A detect rollout as a client sends it back."""
    rollout = {
        "skill": "detect",
        "finish_reason": "stop",
        "output": {"objects": [{"x_min": 0.1, "y_min": 0.2, "x_max": 0.3, "y_max": 0.5}]},
        "answer_tokens": [5, 5, 6],
        "thinking_tokens": [],
        "has_answer_separator": False,
        "coords": [261, 409],
        "sizes": [[830, 872]],
    }
    return _changed(rollout, changes)


def make_group(num_rollouts: int = 2, **changes: Any) -> dict[str, Any]:
    """A group of rollouts with their rewards."""
    group = {
        "mode": "rl",
        "request": make_request(),
        "rollouts": [make_rollout() for _ in range(num_rollouts)],
        "rewards": [index / 10 for index in range(num_rollouts)],
    }
    return _changed(group, changes)


def make_sft_group(skill: str = "query", **changes: Any) -> dict[str, Any]:
    """A supervised group."""
    targets: dict[str, dict[str, Any]] = {
        "query": {"answer": "a car"},
        "point": {"points": [{"x": 0.5, "y": 0.5}]},
        "detect": {"boxes": [{"x_min": 0.1, "y_min": 0.2, "x_max": 0.3, "y_max": 0.5}]},
    }
    group = {"mode": "sft", "request": make_request(skill), "target": targets[skill]}
    return _changed(group, changes)


ABSENT = object()
"""Given as a change, leaves the field out."""


def _changed(thing: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**thing, **changes}.items() if value is not ABSENT}
