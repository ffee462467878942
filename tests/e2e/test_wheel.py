"""The built wheel holds everything that `moontune demo` needs, away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.live import ROOT

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files in a folder of their own."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", str(folder), str(ROOT)], check=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run_in(folder: Path, site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in an empty folder with the wheel's files first on its path."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MOONTUNE_")}
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**clean, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_the_wheel_brings_model_migrations_and_quickstart(unpacked: Path, tmp_path: Path) -> None:
    code = (
        "import server.resources as r, trainer, contract; "
        "print(r.__file__, *(r.find(n) for n in ('tiny/checkpoint', 'migrations', 'examples')))"
    )
    paths = run_in(tmp_path, unpacked, "-c", code).stdout.split()
    assert len(paths) == 4
    assert all(path.startswith(str(unpacked)) for path in paths)
    assert (Path(paths[1]) / "model.safetensors").stat().st_size < 12_000_000
    assert (Path(paths[3]) / "quickstart.py").is_file()


def test_the_demo_runs_from_the_wheel_in_an_empty_folder(unpacked: Path, tmp_path: Path) -> None:
    moontune = "from server.cli import main; main()"  # what the console script runs
    ended = run_in(tmp_path, unpacked, "-c", moontune, "demo", "--steps", "2")
    assert "step   2/2" in ended.stdout, ended.stderr
    assert "moondream3-preview/" in ended.stdout
    assert (tmp_path / "quickstart.png").is_file()
