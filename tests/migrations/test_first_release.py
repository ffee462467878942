"""From the first release to this one by the documented commands, and the way back."""

from __future__ import annotations

import hashlib
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from server.config import DATABASE_FILE
from tests.chaos.micro_checkpoint import write_micro_checkpoint
from tests.forked import ForkingServer
from tests.forked import moontune as moontune_command
from tests.live import ROOT
from tests.migrations.first_release import (
    LEDGER,
    NEXT,
    RECORDED,
    SEED,
    STEPS,
    Tuning,
    lay_out,
    newest_weights,
)

pytestmark = [pytest.mark.e2e, pytest.mark.database("sqlite")]

MAX_APART = 0.01
"""Of the length of the step. Sums have another order than then, and where a gradient is nearly zero
rounding decides. From fresh moments the same steps would lead 1.47 and 0.79 lengths away."""

COORDINATES = ("points", "boxes")
TWO_BINS = 0.01
"""Where two bins are nearly as likely, rounding decides: those of a centre are 1/1024 wide, those
of a size 0.7 % of it, half of which moves an edge."""

COPY = re.compile(r"moontune\.db\.0001\.\d{8}T\d{6}Z\.backup")


def test_the_sdk_goes_on_where_the_first_release_left_it_and_the_way_back_is_open(
    tmp_path: Path,
) -> None:
    model, data = tmp_path / "micro", tmp_path / "data"
    write_micro_checkpoint(model)
    data.mkdir()
    seen = lay_out(data)
    server = ForkingServer(data, "--model", str(model), "--seed", SEED)
    with server:
        tuning = Tuning(server)
        compare(tuning.look(), seen["before"])
        after = tuning.go_on(seen["rewarded"])
        assert {name: told["step"] for name, told in after.items()} == _later(1)
        for name, told in after.items():
            assert told["applied"] is seen["after"][name]["applied"] is True
            finetune_id = seen["before"][name]["finetune_id"]
            before = whole(newest_weights(RECORDED, finetune_id))
            then = whole(RECORDED / NEXT / f"{name}.safetensors")
            apart = np.linalg.norm(whole(newest_weights(data, finetune_id)) - then)
            assert apart <= MAX_APART * np.linalg.norm(then - before)
        for _ in range(2):  # so that the states of before are not among the last two any more
            after = tuning.go_on(tuning.rewarded())
        assert {name: told["step"] for name, told in after.items()} == _later(3)
        assert "All is there and right." in moontune("verify", "--data-dir", str(data))
        moontune("backup", str(tmp_path / "backup"), "--data-dir", str(data))
    (copy,) = (path for path in data.iterdir() if COPY.fullmatch(path.name))
    with closing(sqlite3.connect(copy)) as database:
        assert "\n".join(database.iterdump()) + "\n" == (RECORDED / LEDGER).read_text()
    assert digests(RECORDED / "finetunes").items() <= digests(data / "finetunes").items()

    for path in data.glob(f"{DATABASE_FILE}*"):  # as docs/operations.md says
        if path != copy:
            path.unlink()
    shutil.copy(copy, data / DATABASE_FILE)
    with server:
        compare(Tuning(server).look(), seen["before"])


def compare(now: dict[str, Any], then: dict[str, Any]) -> None:
    """Ids, steps and metrics are the same; coordinates, which are computed anew, nearly."""
    assert now.keys() == then.keys()
    for name, told in then.items():
        exact = told.keys() - set(COORDINATES)
        assert {key: now[name][key] for key in exact} == {key: told[key] for key in exact}
        for key in COORDINATES:
            for found, recorded in zip(now[name][key], told[key], strict=True):
                assert found == pytest.approx(recorded, abs=TWO_BINS), (name, key)


def whole(weights: Path) -> NDArray[np.float32]:
    """All tensors of a file in one row."""
    tensors = load_file(weights)
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


def moontune(*words: str) -> str:
    """Run a command as a terminal would; returns its output."""
    ended = subprocess.run(
        moontune_command(*words), cwd=ROOT, check=True, capture_output=True, text=True
    )
    return ended.stdout


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.safetensors")
    }


def _later(steps: int) -> dict[str, int]:
    return {name: step + steps for name, step in STEPS.items()}
