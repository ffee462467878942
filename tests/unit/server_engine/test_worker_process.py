"""How the real worker's command looks, and what is remembered of its end."""

from __future__ import annotations

import sys

from server.worker_process import MAX_LINE_CHARACTERS, WorkerEnd, trainer_command


def test_the_command_of_the_trainer_names_every_fact() -> None:
    command = trainer_command(model="tiny", device="cpu", dtype="float32", options=["--seed", "7"])
    assert command(5, 3) == [
        *(sys.executable, "-P", "-m", "trainer"),
        *("--fd", "5", "--epoch", "3", "--model", "tiny"),
        *("--device", "cpu", "--dtype", "float32", "--seed", "7"),
    ]


def test_an_end_is_told_as_a_signal_or_a_status() -> None:
    assert WorkerEnd(status=-9, last_lines=()).how == "signal SIGKILL"
    assert WorkerEnd(status=3, last_lines=()).how == "exit status 3"


def test_the_last_line_is_shortened() -> None:
    assert WorkerEnd(status=1, last_lines=()).last_line == ""
    assert WorkerEnd(status=1, last_lines=("a", "b" * 999)).last_line == "b" * MAX_LINE_CHARACTERS
