"""The time of day is asked in one module: it jumps, so that nothing else may depend on it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLOCK = "server/domain/clock.py"

EXCEPTIONS = {
    CLOCK: "the one module",
    "trainer/catalog/pull.py": "when a model was pulled, for people",
    "trainer/exchange/manifest.py": "when an export was made, for people",
    "migrations/versions/0001_finetunes.py": "when the first account was made, for people",
}
"""Who asks for the time of day, and what for; nothing is decided by it."""

_ASKING = {
    "time": {"time", "time_ns", "gmtime", "localtime", "ctime", "strftime"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}


def asks(source: str) -> list[int]:
    """The lines of a module that name a function which tells the time of day."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and node.attr in _ASKING.get(_owner(node), ())
    ] + [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module == "time"
        if _ASKING["time"] & {alias.name for alias in node.names}
    ]


def _owner(node: ast.Attribute) -> str:
    owner = node.value
    if isinstance(owner, ast.Attribute):  # datetime.datetime
        return owner.attr
    return owner.id if isinstance(owner, ast.Name) else ""


def _modules() -> dict[str, str]:
    return {
        path.relative_to(ROOT).as_posix(): path.read_text()
        for package in ("contract", "server", "trainer", "migrations")
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def test_nobody_but_the_clock_and_those_named_asks_for_the_time_of_day() -> None:
    found = {name: asks(text) for name, text in _modules().items() if name not in EXCEPTIONS}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_every_exception_is_needed() -> None:
    modules = _modules()
    assert [name for name in EXCEPTIONS if not asks(modules[name])] == []


@pytest.mark.parametrize(
    "line",
    [
        "time.time()",
        "clock = time.time",
        "time.time_ns()",
        "datetime.now(UTC)",
        "datetime.datetime.now()",
        "from time import time",
        "time.strftime('%Y')",
    ],
)
def test_it_sees(line: str) -> None:
    assert asks(line) == [1]


@pytest.mark.parametrize("line", ["time.monotonic()", "self.now()", "from time import monotonic"])
def test_it_lets_pass(line: str) -> None:
    assert asks(line) == []
