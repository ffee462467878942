"""deploy/moontune.service: as systemd reads it, and against what the code has."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer.main

from server.cli import app
from server.cli_page import verbs
from server.config import ENV_PREFIX, ServerConfig
from server.doctor.installation import FILES_PER_CONNECTION, OTHER_FILES
from trainer.doctor.gpus import LEAST_DRIVER

DEPLOY = Path(__file__).parents[3] / "deploy"
PAGE = DEPLOY.parent / "docs" / "cuda-box.md"
UNIT = DEPLOY / "moontune.service"
ENVIRONMENT = DEPLOY / "moontune.env"
MAX_EXPOSURE = 2.0
"""Of 10, as systemd 252 reckons; left are the network, the GPU, and code made at run time."""

ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")


def settings() -> dict[str, list[str]]:
    """Every setting of the unit with its values, in order."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def analyze(*words: str | Path) -> str:
    assert ANALYZE is not None
    done = subprocess.run([ANALYZE, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_systemd
def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path) -> None:
    there = tmp_path / UNIT.name
    (command,) = settings()["ExecStart"]
    program = command.split()[0]
    there.write_text(UNIT.read_text().replace(program, sys.executable))  # one that is here
    assert analyze("verify", there) == ""


@needs_systemd
def test_systemd_finds_little_that_the_unit_leaves_open() -> None:
    told = analyze("security", "--offline=yes", UNIT)
    exposure = re.search(r"Overall exposure level for moontune.service: ([\d.]+)", told)
    assert exposure is not None
    assert float(exposure[1]) <= MAX_EXPOSURE


def test_the_unit_leaves_what_cuda_needs() -> None:
    unit = settings()
    assert unit["PrivateDevices"] == ["no"]
    assert unit["MemoryDenyWriteExecute"] == ["no"]
    assert unit["ProcSubset"] == ["all"]
    assert "char-nvidia-uvm rw" in unit["DeviceAllow"]


def test_the_unit_waits_longer_than_the_service_drains() -> None:
    unit = settings()
    grace = ServerConfig.model_fields["shutdown_grace_seconds"].default
    assert unit["KillMode"] == ["mixed"]
    assert float(unit["TimeoutStopSec"][0]) > grace
    wanted = FILES_PER_CONNECTION * ServerConfig.model_fields["max_connections"].default
    assert int(unit["LimitNOFILE"][0]) >= wanted + OTHER_FILES


def test_every_option_and_verb_that_is_named_exists() -> None:
    known = {f"{ENV_PREFIX}{name.upper()}" for name in ServerConfig.model_fields}
    named = set(re.findall(r"MOONTUNE_\w+", UNIT.read_text() + ENVIRONMENT.read_text()))
    assert named <= known, named - known
    names = [name for name, _ in verbs(typer.main.get_command(app))]
    (command,) = settings()["ExecStart"]
    assert " ".join(command.rpartition("/")[2].split()) in names


def test_the_page_names_the_driver_and_the_torch_that_are_pinned() -> None:
    page = PAGE.read_text()
    driver = ".".join(map(str, LEAST_DRIVER[13]))
    assert f"needs driver **{driver} or later**" in page
    assert f"torch {version('torch').partition('+')[0]} of the package index" in page


def test_the_environment_file_is_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for line in ENVIRONMENT.read_text().replace("#MOONTUNE", "MOONTUNE").splitlines():
        if not line.startswith("#"):
            name, _, value = line.partition("=")
            monkeypatch.setenv(name, value)
    config = ServerConfig()
    assert config.device == "cuda"
    assert config.is_trusted_proxy("127.0.0.1")
