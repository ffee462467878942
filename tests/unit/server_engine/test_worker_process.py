"""How the real worker's command looks, and what is remembered of its end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from server import worker_process
from server.config import ServerConfig
from server.engine_client import EngineClient
from server.worker_process import (
    MAX_LINE_CHARACTERS,
    WorkerEnd,
    model_options,
    trainer_command,
)

pytestmark = pytest.mark.anyio

ClientFactory = Callable[..., EngineClient]


def test_the_command_of_the_trainer_names_every_fact() -> None:
    config = ServerConfig(
        model="moondream/moondream2",
        models_dir=Path("/models"),
        device="cpu",
        dtype="float32",
        train_share=0.25,
    )
    assert trainer_command(config)(5, 3) == [
        *(sys.executable, "-P", "-m", "trainer", "--fd", "5", "--epoch", "3"),
        *("--model", "moondream/moondream2", "--models-dir", "/models"),
        *("--device", "cpu", "--dtype", "float32", "--train-share", "0.25"),
    ]


def test_tiny_is_the_checkpoint_that_travels_with_us() -> None:
    words = model_options(ServerConfig(model="tiny"))
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert options["--name"] == "tiny"
    assert (Path(options["--model"]) / "config.json").is_file()


def test_an_end_is_told_as_a_signal_or_a_status() -> None:
    assert WorkerEnd(status=-9, last_lines=()).how == "signal SIGKILL"
    assert WorkerEnd(status=3, last_lines=()).how == "exit status 3"


def test_the_last_line_is_shortened() -> None:
    assert WorkerEnd(status=1, last_lines=()).last_line == ""
    assert WorkerEnd(status=1, last_lines=("a", "b" * 999)).last_line == "b" * MAX_LINE_CHARACTERS


def test_an_event_of_the_log_is_no_last_word() -> None:
    event = '{"event": "train_step_out_of_memory"}'
    assert WorkerEnd(status=-9, last_lines=("a warning", event)).last_line == ""
    assert WorkerEnd(status=1, last_lines=(event, "MemoryError")).last_line == "MemoryError"


async def test_a_line_that_is_cut_is_no_line(
    make_client: ClientFactory, log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "TAIL_BYTES", 40)
    client = make_client()
    await client.start()
    await client.describe()
    worker = client._worker
    assert worker is not None
    with log_path.open("a") as log:
        log.write('{"event": "call_failed", "exception": "a long one"}\n{"event": "x"}\n')
    assert worker._last_lines() == ('{"event": "x"}',)
