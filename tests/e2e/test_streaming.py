"""Streams of the tiny model as the official SDK sees them, also when the worker is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import moondream as md
import pytest

from examples.shapes import draw_scene
from tests.e2e.test_whole_system import worker_pid
from tests.forked import ForkingServer

pytestmark = pytest.mark.e2e

GREEDY = {"temperature": 0.0, "max_tokens": 20}
HANGS_AT = 8
"""The draw before which the first worker hangs; its canary at the start takes one or two."""


def test_text_arrives_while_it_is_made_and_a_killed_worker_is_no_whole_answer(
    tmp_path: Path,
) -> None:
    with ForkingServer(
        tmp_path / "data", MOONTUNE_FAULT=f"rollouts.tick=hang@{HANGS_AT}"
    ) as server:
        model = md.vl(endpoint=f"{server.endpoint}/v1")
        picture = draw_scene(3, num_shapes=(3, 3)).image
        chunks = model.caption(picture, length="long", stream=True, settings=GREEDY)["caption"]
        first = next(chunks)  # the worker hangs, so that no later token exists yet
        assert first
        os.kill(worker_pid(server.pid), signal.SIGKILL)
        with pytest.raises(ValueError, match="parse"):
            list(chunks)

        whole = model.caption(picture, length="long", settings=GREEDY)["caption"]
        assert whole.startswith(first)
        again = model.caption(picture, length="long", stream=True, settings=GREEDY)["caption"]
        pieces = [piece for piece in again if piece]
        assert "".join(pieces) == whole
        assert len(pieces) > HANGS_AT  # so it was in the middle that the first one broke

        message = {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": model.encode_image(picture).image_url}},
                {"type": "text", "text": "what color is the circle?"},
            ],
        }
        said = model.chat([message], settings=GREEDY)["message"]["content"]
        assert said == model.query(picture, "what color is the circle?", settings=GREEDY)["answer"]
        assert "".join(model.chat([message], stream=True, settings=GREEDY)["message"]) == said

        last = model.caption(picture, length="long", stream=True, settings=GREEDY)["caption"]
        pieces = [next(last)]
        os.kill(server.pid, signal.SIGTERM)
        assert "".join([*pieces, *last]) == whole
        assert server.wait() == 0
