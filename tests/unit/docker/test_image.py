"""docker/Dockerfile: what it names exists, what it takes is pinned, and what runs may do little."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path

import pytest

from server.config import ENV_PREFIX, ServerConfig
from tests.unit.docker import described
from tools.image.context import files, is_ignored, patterns
from tools.image.dockerfile import Copy, Env, Healthcheck, Run, Stage, expand, parse
from tools.supply_chain import LOCK, Lock, locked

ROOT = Path(__file__).parents[3]
DOCKER = ROOT / "docker"
FILE = parse((DOCKER / "Dockerfile").read_text())
IMAGE = FILE.stages[-1]
RULES = patterns((ROOT / ".dockerignore").read_text())
BUILDS = ("cpu", "cuda")
DEBIAN_PACKAGES = {"ca-certificates", "python3", "tini"}
"""What the image has of Debian besides its base."""

PINNED = re.compile(r"[a-z0-9./-]+:[\w.-]+@sha256:[0-9a-f]{64}")
UNITS = {"s": 1, "m": 60}


def seconds(text: str) -> int:
    return int(text[:-1]) * UNITS[text[-1]]


def lineage(stage: Stage) -> list[Stage]:
    """A stage and those that it is from."""
    by_name = {other.name: other for other in FILE.stages}
    parent = by_name.get(stage.base)
    return [stage, *(lineage(parent) if parent else [])]


def commands(stage: Stage) -> list[list[str]]:
    """What its RUNs call, word by word."""
    runs = [run.command for run in stage.of(Run) if isinstance(run, Run)]
    return [part.split() for run in runs for part in re.split(r"&&|;|\|\|?", run)]


def environment() -> dict[str, str]:
    return {
        name: value
        for env in IMAGE.of(Env)
        if isinstance(env, Env)
        for name, value in env.values.items()
    }


def words(keyword: str) -> tuple[str, ...]:
    found = IMAGE.last(keyword)
    assert found is not None, keyword
    return found.words


def healthcheck() -> Healthcheck:
    (check,) = IMAGE.of(Healthcheck)
    assert isinstance(check, Healthcheck)
    return check


def copies() -> list[Copy]:
    return [copy for stage in FILE.stages for copy in stage.of(Copy) if isinstance(copy, Copy)]


def lock(name: str) -> Lock:
    return locked((DOCKER / name).read_text())


def hashes(path: Path) -> dict[str, set[str]]:
    """By package, the hashes of its files."""
    found: dict[str, set[str]] = {}
    name = ""
    for line in path.read_text().splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==", line):
            name = match[1].lower().replace("_", "-")
            found[name] = set()
        found.setdefault(name, set()).update(re.findall(r"sha256:([0-9a-f]{64})", line))
    return found


@pytest.mark.parametrize("torch", BUILDS)
def test_every_source_is_there_and_reaches_the_builder(torch: str) -> None:
    stages = {stage.name for stage in FILE.stages}
    for copy in copies():
        if copy.stage is not None:
            assert copy.stage in stages
            continue
        for source in copy.sources:
            assert list(files(ROOT, expand(source, {"TORCH": torch}), RULES))


def test_what_the_wheel_is_made_of_is_copied() -> None:
    made_of = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = made_of["tool"]["hatch"]["build"]["targets"]["wheel"]
    project = made_of["project"]
    wanted = {*wheel["packages"], *wheel["force-include"], project["readme"]}
    wanted |= {"pyproject.toml", *project["license-files"]}
    assert wanted <= {source for copy in copies() for source in copy.sources}


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        "docker/.env",
        "docker/moontune.env",
        "data/moontune.db",
        ".git/config",
        "tests/live.py",
    ],
)
def test_neither_secrets_nor_data_nor_history_reach_the_builder(path: str) -> None:
    assert is_ignored(path, RULES)


def test_every_base_is_pinned_by_its_digest() -> None:
    stages = {stage.name for stage in FILE.stages}
    bases = [stage.base for stage in FILE.stages if stage.base not in stages]
    assert bases
    assert all(PINNED.fullmatch(base) for base in bases)


def test_every_package_of_debian_is_pinned_to_a_version() -> None:
    installs = [
        call
        for stage in FILE.stages
        for call in commands(stage)
        if call[:2] == ["apt-get", "install"]
    ]
    packages = [word for call in installs for word in call[2:] if not word.startswith("-")]
    assert packages
    assert all(re.fullmatch(r"[a-z0-9.+-]+=\d[\w.+~-]*\*?", package) for package in packages)


def test_pip_installs_by_hashes_or_what_was_built_here() -> None:
    calls = [
        call
        for stage in FILE.stages
        for call in commands(stage)
        if any("/pip" in w for w in call[:1])
    ]
    assert len(calls) >= 4
    for call in calls:
        if "install" in call:
            assert "--no-deps" in call
            assert ("--require-hashes" in call) is not ("--no-index" in call)
        else:
            assert "--no-index" in call or call[-1] == "check"


def test_the_image_has_no_build_tools() -> None:
    """It is made of stages that get nothing of Debian but what is listed, and no pip."""
    for stage in lineage(IMAGE):
        for call in commands(stage):
            if call[:2] == ["apt-get", "install"]:
                packages = {w.partition("=")[0] for w in call[2:] if not w.startswith("-")}
                assert packages <= DEBIAN_PACKAGES
            assert not any("pip" in word for word in call)
    (taken,) = [copy for copy in copies() if copy.stage is not None]
    assert taken.sources == ("/opt/moontune",)
    (build,) = [stage for stage in FILE.stages if stage.name == taken.stage]
    assert ["python3", "-m", "venv", "--without-pip", "/opt/moontune"] in commands(build)


def test_lists_of_packages_do_not_stay_in_a_layer() -> None:
    for stage in FILE.stages:
        for run in stage.of(Run):
            assert isinstance(run, Run)
            if "apt-get update" in run.command:
                assert "rm -rf /var/lib/apt/lists/*" in run.command


def test_the_user_is_a_fixed_one_without_rights_and_the_volumes_are_its() -> None:
    (user,) = words("USER")
    uid, _, gid = user.partition(":")
    assert int(uid) >= 10_000
    calls = commands(IMAGE)
    assert any(
        call[0] == "useradd" and f"--uid {uid} --gid {gid}" in " ".join(call) for call in calls
    )
    (folders,) = [call for call in calls if call[0] == "install"]
    assert {"--directory", f"--owner={uid}", f"--group={gid}", "--mode=0700"} <= set(folders)
    assert {*words("VOLUME"), "/backups"} == {word for word in folders if word.startswith("/")}


def test_the_variables_are_options_and_the_ports_and_volumes_agree_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = {name: value for name, value in environment().items() if name.startswith(ENV_PREFIX)}
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    assert {
        name.removeprefix(ENV_PREFIX).lower() for name in ours
    } <= ServerConfig.model_fields.keys()
    config = ServerConfig()
    assert words("EXPOSE") == (str(config.port),)
    assert words("VOLUME") == (str(config.data_dir), str(config.models_dir))
    assert not config.is_loopback
    assert not config.may_be_open, "without a key it must not start"


def test_the_entry_point_is_the_program_behind_a_first_process() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    first, dashes, program = words("ENTRYPOINT")
    assert (first, dashes) == ("tini", "--")
    assert program in project["scripts"]
    assert environment()["PATH"].split(":")[0] == "/opt/moontune/bin"
    assert described.complaint(words("CMD")) is None


def test_the_health_check_asks_whether_it_is_ready_and_waits_for_a_large_model() -> None:
    check = healthcheck()
    program, _, script = check.argv
    assert program == "python"
    (copy,) = [copy for copy in copies() if copy.target == script]
    assert (ROOT / copy.sources[0]).name == "ready.py"
    assert "/readyz" in described.routes()
    assert seconds(check.options["start-period"]) >= ServerConfig().worker_start_seconds
    text = (ROOT / copy.sources[0]).read_text()
    (own,) = re.findall(r"^SECONDS = ([\d.]+)$", text, re.MULTILINE)
    assert float(own) < seconds(check.options["timeout"])


@pytest.mark.parametrize("torch", BUILDS)
def test_the_locks_hold_every_package_once_with_hashes(torch: str) -> None:
    names = [f"torch-{torch}.lock", "packages.lock"]
    for first, second in itertools.combinations(names, 2):
        assert not lock(first).keys() & lock(second).keys()
    for name in (*names, "build.lock"):
        assert lock(name)
        assert all(files for _, files in lock(name).values()), name


def test_the_locks_are_what_developers_have() -> None:
    """Same versions and same files as in requirements.lock; torch is the one of constraints.txt."""
    theirs, their_hashes = locked(LOCK.read_text()), hashes(LOCK)
    for name in ("packages.lock", "build.lock"):
        ours = lock(name)
        for package, (version, _) in ours.items():
            if package != "setuptools":  # torch's, of which requirements.lock knows nothing
                assert theirs[package][0] == version, package
                assert hashes(DOCKER / name)[package] == their_hashes[package], package
    constraints = (ROOT / "constraints.txt").read_text()
    (torch,) = re.findall(r"^torch==(.+)$", constraints, re.MULTILINE)
    assert lock("torch-cuda.lock")["torch"][0] == torch
    assert lock("torch-cpu.lock")["torch"][0] == f"{torch}+cpu"


def test_the_locks_have_what_serving_needs_and_nothing_for_developers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    def named(requirements: list[str]) -> set[str]:
        found = (re.match(r"[A-Za-z0-9._-]+", requirement) for requirement in requirements)
        return {match[0].lower().replace("_", "-") for match in found if match}

    ours = {*lock("packages.lock"), "torch"}
    wanted = named([*project["dependencies"], *extras["trainer"], *extras["postgres"]])
    assert wanted <= ours
    assert not (named(extras["dev"]) - wanted) & ours
