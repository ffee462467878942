"""The official SDK, unmodified, against the running app over a socket."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from urllib.error import HTTPError

import moondream as md
import pytest
import uvicorn
from PIL import Image

from server.app import create_app
from server.config import ServerConfig
from tests.fakes import FakeEngine, FakeImageDecoder

PATIENCE_SECONDS = 10.0


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def address(data_dir: Path, database_url: str | None, engine: FakeEngine) -> Iterator[str]:
    """The app on a free port of the loopback, in a thread."""
    config = ServerConfig(data_dir=data_dir, database_url=database_url, seed=7)
    app = create_app(config, engine=engine, image_decoder=FakeImageDecoder())
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, http="h11", lifespan="on"))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    gives_up_at = time.monotonic() + PATIENCE_SECONDS
    while not server.started and time.monotonic() < gives_up_at:
        time.sleep(0.005)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(PATIENCE_SECONDS)
    listener.close()


def picture(color: str = "red") -> Image.Image:
    return Image.new("RGB", (32, 24), color)


def refused(status: int, call: Callable[[], object]) -> None:
    """Check that the SDK raises this status at once, and close what it leaves open."""
    with pytest.raises(HTTPError, match=str(status)) as caught:
        call()
    caught.value.close()


def test_a_whole_run_of_the_sdk(address: str) -> None:
    tuning = f"{address}/v1/tuning"
    finetune = md.ft("key", name="sdk-run", rank=8, endpoint=tuning)
    again = md.ft("key", finetune_id=finetune.finetune_id, endpoint=tuning)
    assert (again.name, again.rank) == ("sdk-run", 8)

    response = finetune.rollouts(
        "detect",
        image=picture(),
        object="car",
        num_rollouts=4,
        settings={"temperature": 1.0, "max_objects": 2},
        ground_truth={"boxes": [{"x_min": 0.1, "y_min": 0.1, "x_max": 0.5, "y_max": 0.5}]},
    )
    assert len(response["rollouts"]) == len(response["rewards"]) == 4

    step = finetune.train_step(
        [
            {
                "mode": "rl",
                "request": response["request"],
                "rollouts": response["rollouts"],
                "rewards": response["rewards"],
            },
            {
                "mode": "sft",
                "request": {"skill": "query", "question": "Color?", "image": picture("blue")},
                "target": {"answer": "blue"},
            },
        ],
        lr=1e-3,
    )
    assert step["step"] == 1
    assert f"{step['sft_loss']:.4f} {step['reward_mean']:.4f}"

    requests = [
        (index, {"skill": "query", "question": f"What? {index}", "image": picture()})
        for index in range(6)
    ]
    seen = [context for context, _ in finetune.rollout_stream(iter(requests))]
    assert sorted(seen) == list(range(6))

    assert finetune.log_metrics(1, {"eval/acc": 0.5})["logged_count"] == 1
    saved = finetune.save_checkpoint()["checkpoint"]
    assert saved["step"] == 1
    listed = finetune.list_checkpoints()
    assert listed["checkpoints"] == [saved]
    assert listed["has_more"] is False

    model = md.vl(endpoint=f"{address}/v1/", model=finetune.model(1))
    assert model.query(picture(), "Color?")["answer"]
    assert model.query(question="No picture?", reasoning=True)["reasoning"]
    assert model.caption(picture(), length="short")["caption"]
    assert len(model.detect(picture(), "car")["objects"]) == 1
    assert len(model.point(picture(), "car", spatial_refs=[[0.5, 0.5]])["points"]) == 1

    finetune.delete_checkpoint(1)
    finetune.delete_checkpoint(1)
    assert finetune.list_checkpoints()["checkpoints"] == []
    refused(404, lambda: model.query(picture(), "Color?"))
    finetune.delete()
    finetune.delete()
    refused(404, lambda: md.ft("key", finetune_id=finetune.finetune_id, endpoint=tuning))


def test_streams_of_the_sdk(address: str, engine: FakeEngine) -> None:
    model = md.vl(endpoint=f"{address}/v1")
    assert "".join(model.caption(picture(), stream=True)["caption"]) == "A picture, normal."
    for reasoning in (False, True):
        told = model.query(question="What?", stream=True, reasoning=reasoning)["answer"]
        assert "".join(told).startswith("answer ")
    box, *chunks, final = model.segment(picture(), "car", stream=True)
    assert "".join(update["chunk"] for update in chunks) == final["path"]
    assert final["bbox"] == box["bbox"]
    assert final["completed"]
    assert model.segment(picture(), "car")["path"] == final["path"]
    messages = [{"role": "user", "content": "What?"}]
    assert model.chat(messages, reasoning=True)["message"]["reasoning"] == "because"
    assert "".join(model.chat(messages, stream=True)["message"]).startswith("answer ")


def test_the_sdk_raises_when_a_stream_breaks(address: str, engine: FakeEngine) -> None:
    model = md.vl(endpoint=f"{address}/v1")
    messages = [{"role": "user", "content": "What?"}]

    loops: SimpleQueue[asyncio.AbstractEventLoop] = SimpleQueue()

    async def wait_for_the_end(number: int) -> None:
        loops.put(asyncio.get_running_loop())
        await asyncio.Event().wait()

    engine.after_delta = wait_for_the_end
    for stream in (
        model.caption(picture(), stream=True)["caption"],
        model.query(question="What?", stream=True)["answer"],
        model.segment(picture(), "car", stream=True),
        model.chat(messages, stream=True)["message"],
    ):
        assert next(stream)
        loops.get(timeout=PATIENCE_SECONDS).call_soon_threadsafe(engine.die)
        with pytest.raises(ValueError, match="parse"):
            list(stream)


def test_refusals_reach_the_sdk_as_statuses(address: str) -> None:
    tuning = f"{address}/v1/tuning"
    finetune = md.ft("key", name="a", rank=8, endpoint=tuning)
    for name, rank, status in (("a", 16, 409), ("a b", 8, 422), ("b", 9, 422)):
        refused(status, partial(md.ft, "key", name=name, rank=rank, endpoint=tuning))
    refused(404, finetune.save_checkpoint)


def test_a_large_body_to_an_unknown_route_is_a_404_not_a_broken_pipe(address: str) -> None:
    finetune = md.ft("key", name="a", rank=8, endpoint=f"{address}/v1/tuning")
    finetune.endpoint = f"{address}/v1/nothing"
    refused(404, lambda: finetune.train_step([{"padding": "x" * 20_000_000}]))
