"""The units of deploy/: as systemd reads them, and against what the code has; backups are made."""

from __future__ import annotations

import os
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
BACKUP = DEPLOY / "moontune-backup.service"
TIMER = DEPLOY / "moontune-backup.timer"
BACKUP_SCRIPT = DEPLOY / "moontune-backup.sh"
MAX_EXPOSURE = 2.0
"""Of 10, as systemd 252 reckons; left are the network, the GPU, and code made at run time."""

ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")


def settings(unit: Path = UNIT) -> dict[str, list[str]]:
    """Every setting of a unit with its values, in order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
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
def test_systemd_finds_no_fault_with_the_backup_and_its_timer(tmp_path: Path) -> None:
    there = tmp_path / BACKUP.name
    (command,) = settings(BACKUP)["ExecStart"]
    program = command.split()[0]
    there.write_text(BACKUP.read_text().replace(program, str(BACKUP_SCRIPT)))
    timer = shutil.copy(TIMER, tmp_path)
    assert analyze("verify", there, timer) == ""


@needs_systemd
@pytest.mark.parametrize("unit", [UNIT, BACKUP], ids=lambda unit: unit.name)
def test_systemd_finds_little_that_a_unit_leaves_open(unit: Path) -> None:
    told = analyze("security", "--offline=yes", unit)
    exposure = re.search(rf"Overall exposure level for {unit.name}: ([\d.]+)", told)
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
    files = [UNIT, BACKUP, ENVIRONMENT]
    named = set(re.findall(r"MOONTUNE_\w+", "".join(file.read_text() for file in files)))
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


def test_the_backup_is_made_by_the_service_from_its_own_directory() -> None:
    backup, service = settings(BACKUP), settings()
    for name in ("User", "Group", "EnvironmentFile", "UMask", "ProtectSystem"):
        assert backup[name] == service[name], name
    folders, home = service["Environment"]
    assert backup["Environment"][0] == folders
    assert backup["Environment"][1].startswith(home)
    program, folder, keep = backup["ExecStart"][0].split()
    assert program == f"/opt/moontune/deploy/{BACKUP_SCRIPT.name}"
    assert os.access(BACKUP_SCRIPT, os.X_OK)
    assert folder in backup["ReadWritePaths"][0].split()
    assert int(keep) == 7


class Backups:
    """A folder of backups, and a `moontune` that makes one or fails."""

    def __init__(self, folder: Path):
        self.folder = folder / "backups"
        self._programs = folder / "bin"
        for made in (self.folder, self._programs):
            made.mkdir()

    def add(self, name: str, *, is_whole: bool = True) -> None:
        (self.folder / name / "finetunes").mkdir(parents=True)
        if is_whole:
            (self.folder / name / "backup.json").touch()

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.name != ".lock")

    def run(self, keep: str, moontune: str = 'mkdir "$2" && touch "$2/backup.json"') -> int:
        stub = self._programs / "moontune"
        stub.write_text(f"#!/bin/sh\n[ $1 = backup ] && {moontune}\n")
        stub.chmod(0o755)
        environment = {"PATH": f"{self._programs}:{os.environ['PATH']}"}
        command = [BACKUP_SCRIPT, self.folder, keep]
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode


@pytest.fixture
def backups(tmp_path: Path) -> Backups:
    return Backups(tmp_path)


needs_flock = pytest.mark.skipif(shutil.which("flock") is None, reason="flock is not installed")


@needs_flock
def test_the_last_backups_stay_and_nothing_else_is_touched(backups: Backups) -> None:
    old = [f"2020010{day}T033000Z" for day in range(1, 6)]
    for name in (*old, "before-the-upgrade", "20200101"):
        backups.add(name)
    backups.add("by-hand", is_whole=False)
    backups.add("20200109T033000Z", is_whole=False)  # broken off
    assert backups.run("3") == 0
    left = backups.names()
    (made,) = set(left) - {*old, "before-the-upgrade", "20200101", "by-hand"}
    assert made > old[-1]
    assert left == sorted([*old[-2:], made, "before-the-upgrade", "20200101", "by-hand"])


@needs_flock
def test_a_backup_that_fails_removes_no_other(backups: Backups) -> None:
    old = [f"2020010{day}T033000Z" for day in range(1, 6)]
    for name in old:
        backups.add(name)
    assert backups.run("1", 'mkdir "$2" && exit 1') == 1
    assert set(old) < set(backups.names())
    assert backups.run("none") == 2
    assert backups.run("0") == 2
    assert set(old) < set(backups.names())
