"""A script as they were written in December 2025: adapters, by plain HTTP."""

from __future__ import annotations

import base64
import io
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote

import pytest

from examples.shapes import Scene, draw_scene
from tests.compat.bench import Bench
from tests.live import LiveServer

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("compat")]

QUESTION = "what color is the shape?"
GREEDY = {"temperature": 0.0, "max_tokens": 8}
HELD_OUT = range(40, 44)
NUM_STEPS = 12


class Tuning:
    """What such scripts began with."""

    def __init__(self, server: LiveServer):
        self._server = server

    def call(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"{self._server.endpoint}/v1{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "X-Moondream-Auth": "any-key"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())

    def refused(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        with pytest.raises(urllib.error.HTTPError) as refused:
            self.call(method, path, body)
        with refused.value as error:
            return error.code, json.loads(error.read())["error"]["code"]


def data_url(scene: Scene) -> str:
    buffer = io.BytesIO()
    scene.image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def ask(scene: Scene) -> dict[str, Any]:
    return {"skill": "query", "question": QUESTION, "image_url": data_url(scene)}


def sampled(tuning: Tuning, adapter_id: str) -> list[str]:
    """The greedy answers of the newest weights to pictures that were not trained on."""
    rollouts: list[str] = []
    for seed in HELD_OUT:
        request = {**ask(draw_scene(seed)), "settings": GREEDY}
        body = {"adapter_id": adapter_id, "request": request}
        (rollout,) = tuning.call("POST", "/tuning/rollouts", body)["rollouts"]
        rollouts.append(rollout["output"]["answer"])
    return rollouts


def inferred(tuning: Tuning, model: str | None) -> list[str]:
    """The same by inference."""
    return [
        tuning.call(
            "POST", "/query", {**ask(draw_scene(seed)), "settings": GREEDY, "model": model}
        )["answer"]
        for seed in HELD_OUT
    ]


def test_it_trains_saves_starts_from_what_was_saved_and_asks_it(bench: Bench) -> None:
    tuning = Tuning(bench.live)
    wish = {"name": "blue shapes, first try", "rank": 16}
    adapter_id = tuning.call("POST", "/tuning/adapters", wish)["adapter_id"]
    assert tuning.call("GET", f"/tuning/adapters/{adapter_id}").items() >= wish.items()

    # one step by rewards, on boxes that the server compared with the right ones
    scene = draw_scene(3)
    boxes = [
        dict(zip(("x_min", "y_min", "x_max", "y_max"), s.box, strict=True)) for s in scene.shapes
    ]
    answer = tuning.call(
        "POST",
        "/tuning/rollouts",
        {
            "adapter_id": adapter_id,
            "num_rollouts": 4,
            "request": {"skill": "detect", "object": "shape", "image_url": data_url(scene)},
            "ground_truth": {"boxes": boxes},
        },
    )
    assert answer["request"]["adapter_id"] == adapter_id
    assert all(isinstance(rollout["output"]["boxes"], list) for rollout in answer["rollouts"])
    body = {"adapter_id": adapter_id, "groups": [answer], "lr": 1e-4}
    assert tuning.call("POST", "/tuning/train_step", body) == {}

    # the others by right answers
    for step in range(1, NUM_STEPS):
        scenes = [draw_scene(seed) for seed in range(4 * step, 4 * step + 4)]
        groups = [{"request": ask(each), "target": {"answer": "blue"}} for each in scenes]
        body = {"adapter_id": adapter_id, "groups": groups, "lr": 5e-3}
        assert tuning.call("POST", "/tuning/train_step", body) == {}
    saved = tuning.call("POST", f"/tuning/adapters/{adapter_id}/checkpoint")["checkpoint_id"]
    assert saved == f"{adapter_id}/chk_001"

    # what was saved answers by the name of its step, as it did when it was sampled
    taught = sampled(tuning, adapter_id)
    assert set(taught) == {"blue"} != set(inferred(tuning, None))
    model = f"moondream3-preview/{adapter_id}@{NUM_STEPS}"
    assert inferred(tuning, model) == taught

    # another one starts from it, by the doubled reading of its name, and outlives it
    wish = {"name": "second try", "rank": 16, "from_checkpoint": f"{adapter_id}/{saved}"}
    second = tuning.call("POST", "/tuning/adapters", wish)["adapter_id"]
    assert tuning.refused("POST", f"/tuning/adapters/{second}/checkpoint") == (404, "no_checkpoint")
    path = f"/tuning/adapters/{adapter_id}/checkpoints"
    assert tuning.call("DELETE", f"{path}/{quote(saved, safe='')}") == {}
    assert tuning.call("GET", path) == {"checkpoints": [], "next_cursor": None}
    assert tuning.call("DELETE", f"/tuning/adapters/{adapter_id}") == {}
    assert sampled(tuning, second) == taught
    body = {"adapter_id": second, "groups": groups, "lr": 1e-4}
    assert tuning.call("POST", "/tuning/train_step", body) == {}
    saved = tuning.call("POST", f"/tuning/adapters/{second}/checkpoint")["checkpoint_id"]
    assert saved == f"{second}/chk_001"
    assert inferred(tuning, f"{second}@1") == taught
    wrong = {"name": "third", "rank": 8, "from_checkpoint": saved}
    assert tuning.refused("POST", "/tuning/adapters", wrong) == (422, "validation_error")
    assert tuning.refused("POST", "/query", {"question": "?", "model": model}) == (
        404,
        "finetune_not_found",
    )
