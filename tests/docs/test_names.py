"""What documents name in backticks exists: options, variables, routes, metrics, files, commands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import cache
from importlib.util import find_spec
from pathlib import PurePosixPath

import pytest

from server.cli_page import verbs
from server.config import ServerConfig
from server.services.observation import ALL_METRICS
from tests.docs.commands import command_line, fault_of_moontune, make_targets, options_of
from tests.docs.pages import ROOT, blocks_of, documents, spans_of, text_of, tracked

FOREIGN_OPTIONS: dict[str, str] = {
    "--build-arg": "docker",
    "--no-cache": "docker",
    "--no-deps": "pip",
}
"""Options of other programs, and of which."""

NOT_SERVED = frozenset({"docs/compatibility.md"})
"""Pages that name what is not served; each row of this one is tried by tests/compat."""

FOREIGN_NAMES: dict[str, str] = {
    "/backups": "a folder of a container",
    "/data": "a folder of a container",
    "moontune_backups": "a volume of Docker",
    "moontune_data": "a volume of Docker",
    "moontune_postgres": "a volume of Docker",
    "moontune_restored": "a volume of Docker",
}
"""What looks like a file of the repository, a route or a metric and is none, and what it is."""

FOREIGN_PROGRAMS = frozenset({"docker", "git", "nginx", "pip", "promtool", "psql", "systemctl"})
"""Whose options are not ours to know."""

_SYSTEM = frozenset(
    ["dev", "etc", "home", "mnt", "opt", "proc", "root", "run", "srv", "sys", "tmp", "usr", "var"]
)
"""Folders at the root of a machine."""

_VARIABLE = re.compile(r"\bMOONTUNE_[A-Z0-9_]*[A-Z0-9]\b")
_METRIC = re.compile(r"\bmoontune_[a-z0-9_]+\b")
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
_ROUTE = re.compile(r"^(?:(?:GET|POST|PUT|DELETE|HEAD) )?(?P<path>(?:\.\.\.)?/[\w{}./:=?&@-]+)$")
_SUFFIXES = ("_bucket", "_sum", "_count")
_SOURCE = (".py", ".toml", ".yaml", ".yml", ".sh", ".service", "Makefile", ".env", ".env.example")


@cache
def sources() -> str:
    """The text of the code that may read a variable or take an option, its tests included."""
    names = [name for name in tracked() if name.endswith(_SOURCE) or "Dockerfile" in name]
    own = [name for name in names if not name.startswith("tests/docs/")]
    return "\n".join((ROOT / name).read_text() for name in (*own, ".ci/run"))


@cache
def variables() -> frozenset[str]:
    options = {f"MOONTUNE_{name.upper()}" for name in ServerConfig.model_fields}
    return frozenset(options | set(_VARIABLE.findall(sources())))


@cache
def options() -> frozenset[str]:
    """Of any verb, and of the repository's other programs."""
    root = command_line()
    ours = {word for _, command in verbs(root) for word in options_of(command)}
    others = set(re.findall(r"(?:add_argument|addoption)\(\s*\"(--[\w-]+)\"", sources()))
    return frozenset({*ours, *options_of(root), *others, *FOREIGN_OPTIONS})


@cache
def routes() -> frozenset[str]:
    """The paths, the names of their parameters left out."""
    paths = json.loads((ROOT / "docs" / "openapi.json").read_text())["paths"]
    outside = ("/metrics", "/openapi.json", "/docs", "/v1/files/{}")  # not in the document
    return frozenset({*(re.sub(r"{[^}]*}", "{}", path) for path in paths), *outside})


def fault_of_variable(code: str, page: str) -> str | None:
    unknown = set(_VARIABLE.findall(code)) - variables()
    return f"nothing reads {sorted(unknown)}" if unknown else None


def fault_of_metric(code: str, page: str) -> str | None:
    found = [name for name in _METRIC.findall(code) if name not in FOREIGN_NAMES]
    unknown = [name for name in found if not is_metric(name)]
    return f"there is no metric {unknown}" if unknown else None


def is_metric(name: str) -> bool:
    bare = next((name.removesuffix(s) for s in _SUFFIXES if name.endswith(s)), name)
    if bare != name:
        return bare in ALL_METRICS and ALL_METRICS[bare].kind.value == "histogram"
    return name in ALL_METRICS


def fault_of_option(code: str, page: str) -> str | None:
    if code.split()[0] in FOREIGN_PROGRAMS:
        return None
    unknown = set(_OPTION.findall(code)) - options()
    return f"no program has the option {sorted(unknown)}" if unknown else None


def fault_of_route(code: str, page: str) -> str | None:
    """A whole route, or the end of one."""
    match = _ROUTE.match(code)
    if match is None or page in NOT_SERVED or match["path"] in FOREIGN_NAMES:
        return None
    if match["path"].split("/")[1] in _SYSTEM:
        return None
    path = match["path"].removeprefix("...").partition("?")[0]
    path = re.sub(r"{[^}]*}", "{}", path).rstrip("/") or "/"
    is_there = any(
        route == path or route.endswith(path) or route.startswith(f"{path}/") for route in routes()
    )
    return None if is_there else "there is no such route"


def fault_of_file(code: str, page: str) -> str | None:
    """Paths from the root of the repository, and bare names of Python files."""
    if code in FOREIGN_NAMES or not re.match(r"^[\w./*-]+$", code):
        return None
    if re.match(r"^\w+\.py$", code):
        saved = {block.file_name for block in blocks_of(page)}
        return None if code in saved or code in _file_names() else "there is no such file"
    top, slash, _ = code.partition("/")
    if not slash or top not in _top_level():
        return None
    pattern = code.rstrip("/")
    is_there = any(
        fnmatch(name, pattern) if "*" in pattern else name == pattern
        for name in (*tracked(), *_folders())
    )
    return None if is_there else "there is no such file"


def fault_of_command(code: str, page: str) -> str | None:
    words = code.split()
    if words[0] == "moontune":
        return fault_of_moontune(words[1:], is_whole=False)
    if words[0] == "make" and len(words) > 1 and words[1] not in make_targets():
        return "make has no such target"
    if words[:2] == ["python", "-m"] and len(words) > 2 and find_spec(words[2]) is None:
        return "there is no such module"
    return None


@cache
def _file_names() -> frozenset[str]:
    return frozenset(PurePosixPath(name).name for name in tracked())


@cache
def _folders() -> frozenset[str]:
    return frozenset(str(p) for name in tracked() for p in PurePosixPath(name).parents)


@cache
def _top_level() -> frozenset[str]:
    return frozenset(name.partition("/")[0] for name in tracked() if "/" in name)


CHECKS: dict[str, Callable[[str, str], str | None]] = {
    "variable": fault_of_variable,
    "metric": fault_of_metric,
    "option": fault_of_option,
    "route": fault_of_route,
    "file": fault_of_file,
    "command": fault_of_command,
}


@pytest.mark.parametrize("page", documents())
def test_what_a_page_names_exists(page: str) -> None:
    assert list(faults_of(page)) == []


def faults_of(page: str) -> Iterator[str]:
    for line, code in spans_of(page):
        for check in CHECKS.values():
            if why := check(code, page):
                yield f"{page}:{line}: `{code}`: {why}"
    for block in blocks_of(page):  # where no parser knows them
        for name in (*_VARIABLE.findall(block.code), *_METRIC.findall(block.code)):
            check = fault_of_variable if name.isupper() else fault_of_metric
            if why := check(name, page):
                yield f"{block.place}: {name}: {why}"


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("variable", "MOONTUNE_DATA_DIR", "MOONTUNE_DATA_DRI"),
        ("metric", "moontune_queue_seconds_bucket", "moontune_queue_second"),
        ("option", "--data-dir data", "--data-dri data"),
        ("route", "GET /v1/tuning/finetunes/{id}/metrics", "/v1/tuning/finetune"),
        ("file", "server/app.py", "server/apps.py"),
        ("file", "train_step.py", "train_steps_of_nobody.py"),
        ("command", "moontune export --to peft", "moontune export --as peft"),
        ("command", "moontune keys list", "moontune keys show"),
        ("command", "make demo", "make dmeo"),
        ("command", "python -m tests.chaos full", "python -m tests.nobody"),
    ],
)
def test_what_does_not_exist_is_seen(kind: str, right: str, wrong: str) -> None:
    assert CHECKS[kind](right, "README.md") is None
    assert CHECKS[kind](wrong, "README.md") is not None


def test_no_exception_is_stale() -> None:
    everything = "\n".join(text_of(page) for page in documents())
    for name in (*FOREIGN_OPTIONS, *FOREIGN_NAMES):
        assert f"{name}" in everything, name
