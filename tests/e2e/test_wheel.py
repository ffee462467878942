"""What is uploaded: both archives, what is in them, and the wheel away from the checkout."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from packaging.utils import parse_sdist_filename, parse_wheel_filename

from tests.live import ROOT
from tools import release
from tools.supply_chain import declared, installed, sbom

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("wheel")]

EPOCH = 1_790_000_000
OURS = ("contract", "server", "trainer")
BUNDLED = ("migrations", "examples", "tiny/checkpoint")
NO_PART = {"__pycache__", ".pytest_cache"}


@dataclass(frozen=True, kw_only=True)
class Built:
    wheel: Path
    archive: Path

    @property
    def metadata(self) -> bytes:
        with zipfile.ZipFile(self.wheel) as opened:
            (name,) = (n for n in opened.namelist() if n.endswith(".dist-info/METADATA"))
            return opened.read(name)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("dist")
    archive = release.build("sdist", folder, epoch=EPOCH)
    return Built(wheel=release.build("wheel", folder, epoch=EPOCH), archive=archive)


@pytest.fixture(scope="module")
def programs(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel and what it needs, but without the checkout."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": folder, "platbase": folder}))
    # Needed packages are those of this environment; what stands in its own .pth files is not read,
    # so the checkout that it has installed is not found.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "-q"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(built.wheel)], check=True)
    return folder / "bin"


def test_the_wheel_holds_our_packages_and_what_they_read_and_nothing_else(built: Built) -> None:
    info = f"moontune-{release.version()}.dist-info"
    expected = {f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")}
    expected.add(f"{info}/licenses/LICENSE")
    for folder in OURS:
        expected |= files_of(ROOT / folder, folder)
    for folder in BUNDLED:
        expected |= files_of(ROOT / folder, f"server/_bundled/{folder}")
    with zipfile.ZipFile(built.wheel) as opened:
        assert set(opened.namelist()) == expected
        assert opened.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert {
        "server/_bundled/migrations/versions/0001_finetunes.py",
        "server/_bundled/examples/quickstart.py",
        "server/_bundled/tiny/checkpoint/model.safetensors",
        "server/_bundled/tiny/checkpoint/README.md",
    } <= expected


def test_the_same_commit_gives_the_same_bytes_also_from_the_source_archive(
    built: Built, tmp_path: Path
) -> None:
    again = release.build("sdist", tmp_path / "again", epoch=EPOCH)
    assert digest(again) == digest(built.archive)
    with tarfile.open(again) as opened:
        opened.extractall(tmp_path, filter="data")
    source = tmp_path / again.name.removesuffix(".tar.gz")
    from_source = release.build("wheel", tmp_path / "wheel", source=source, epoch=EPOCH)
    assert digest(from_source) == digest(built.wheel)
    assert digest(release.build("wheel", tmp_path / "later", epoch=EPOCH + 86_400)) != digest(
        built.wheel
    )


def test_the_metadata_is_what_an_index_takes(built: Built) -> None:
    told = Metadata.from_email(built.metadata, validate=True)
    assert told.license_expression == "Apache-2.0"
    assert told.description_content_type == "text/markdown"
    assert told.description == (ROOT / "README.md").read_text()
    assert str(told.requires_python) == ">=3.11"
    assert {need.name for need in told.requires_dist or ()} >= {"fastapi", "torch", "psycopg"}
    classifiers = message_from_bytes(built.metadata).get_all("Classifier") or []
    assert not [text for text in classifiers if text.startswith("License ::")]  # told once only


def test_the_version_is_one(built: Built, programs: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    told = Metadata.from_email(built.metadata)
    code = (
        "import json; from server.openapi_document import text;"
        " from server.release import release_name;"
        " print(json.loads(text())['info']['version'], release_name())"
    )
    assert str(told.version) == version
    assert str(parse_wheel_filename(built.wheel.name)[1]) == version
    assert str(parse_sdist_filename(built.archive.name)[1]) == version
    assert run(programs, "moontune", "--version") == f"moontune {version}\n"
    assert run(programs, "python", "-c", code) == f"{version} moontune {version}\n"
    document = json.loads((ROOT / "docs" / "openapi.json").read_text())
    assert document["info"]["version"] == version
    bill = sbom(installed(declared()), version=release.version())
    assert bill["metadata"]["component"]["version"] == version


def test_in_an_empty_folder_its_server_gets_ready_and_the_sdk_trains_on_it(
    programs: Path, tmp_path: Path
) -> None:
    code = (
        "import server, trainer, contract, server.resources as r;"
        "print(server.__file__, trainer.__file__, contract.__file__,"
        " *(r.find(name) for name in ('tiny/checkpoint', 'migrations', 'examples')))"
    )
    paths = run(programs, "python", "-c", code, folder=tmp_path).split()
    assert len(paths) == 6
    assert all(path.startswith(str(programs.parent)) for path in paths)
    told = run(programs, "moontune", "demo", "--steps", "2", folder=tmp_path)
    assert "step   2/2" in told
    assert "moondream3-preview/" in told
    assert (tmp_path / "quickstart.png").is_file()


def run(programs: Path, program: str, *words: str, folder: Path | None = None) -> str:
    """Run a program of the environment; returns its output."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MOONTUNE_", "PYTHONPATH"))}
    ended = subprocess.run(
        [str(programs / program), *words],
        cwd=folder or programs,
        env={**clean, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ended.returncode == 0 or "demo" in words, ended.stderr  # the demo has not learned yet
    return ended.stdout


def files_of(folder: Path, name: str) -> set[str]:
    return {
        f"{name}/{path.relative_to(folder).as_posix()}"
        for path in folder.rglob("*")
        if path.is_file() and not NO_PART & set(path.parts)
    }


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
